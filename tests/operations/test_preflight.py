"""The arithmetic of a training against the network itself: its parameters, and what autograd keeps for the way back."""

import math
from dataclasses import replace

import pytest
import torch

from components.models.dit import DiT
from components.models.sizes import DIT_SIZES, DitSize
from components.operations.preflight import (
    Bucket,
    Network,
    Settings,
    Way,
    activations,
    fits,
    memory,
    said,
    state_bytes,
    step_seconds,
    ways_out,
    work,
)

ODD = DitSize(hidden_size=96, depth=3, num_heads=4, patch_size=(2, 1, 4), mlp_ratio=2.5, text_size=16, refiner_depth=2)
GIB = 2**30


@pytest.mark.parametrize("size", [*DIT_SIZES.values(), ODD], ids=[*DIT_SIZES, "odd"])
def test_parameters_are_those_of_the_network(size: DitSize) -> None:
    with torch.device("meta"):
        model = DiT(size, 16, 72)
    network = Network(size, 16, 72)
    assert network.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert network.block_parameters == sum(parameter.numel() for parameter in model.blocks[0].parameters())


def kept_bytes(size: DitSize, bucket: Bucket, words: int, recompute: bool) -> int:
    """What autograd keeps for the way back, weights left out."""
    torch.manual_seed(0)
    model = DiT(size, bucket.latents[0], 64)
    model.recompute = recompute
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    noisy, text = torch.randn(bucket.clips, *bucket.latents), torch.randn(bucket.clips, words, 64)
    mask, t = torch.ones(bucket.clips, words, dtype=torch.bool), torch.rand(bucket.clips, bucket.latents[1])
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(noisy, t, text, mask, 4.0).square().mean()
    return sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in weights)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(
    ("size", "words"),
    [(DitSize(64, 3, 2, (1, 2, 2), text_size=32), 8), (DitSize(96, 2, 4, (1, 2, 2), mlp_ratio=2.5, text_size=32, refiner_depth=2), 64)],
)
def test_activations_are_what_autograd_keeps_within_a_twelfth(size: DitSize, words: int, recompute: bool) -> None:
    bucket = Bucket((16, 4, 16, 16), 2)
    _, reckoned = activations(Network(size, 16, 64), bucket, Way(on_gpu=False, recompute=recompute, text_tokens=words))
    assert reckoned == pytest.approx(kept_bytes(size, bucket, words, recompute), rel=1 / 12)


def test_tokens_are_counted_as_the_network_cuts_them() -> None:
    assert Bucket((16, 13, 60, 104), 3).tokens((1, 2, 2)) == 3 * 13 * 30 * 52
    assert Bucket((16, 3, 7, 9), 1).tokens((2, 4, 4)) == 2 * 2 * 3


def test_memory_goes_as_it_must() -> None:
    network, bucket = Network(DIT_SIZES["1.3b"], 16, 4096), Bucket((16, 13, 60, 104), 8)
    plain = Way(on_gpu=True, workers=1)
    held = memory(network, bucket, plain)
    assert held.states == network.parameters * 16, "weights, their average and AdamW's two, in float32"
    assert memory(network, bucket, replace(plain, recompute=True)).peak < held.peak / 3
    shared = memory(network, bucket, replace(plain, workers=4, sharded=True))
    assert shared.states == held.states // 4
    assert memory(network, bucket, replace(plain, workers=4)).states == held.states
    muon = memory(network, bucket, replace(plain, state_bytes=state_bytes(network, "muon")))
    assert 12 * network.parameters < muon.states < 13 * network.parameters


def test_work_is_six_operations_a_weight_and_token_where_attention_is_little() -> None:
    size = replace(DIT_SIZES["14b"], text_size=32)  # whose weights see words, not tokens
    network, bucket = Network(size, 16, 64), Bucket((16, 1, 16, 16), 4)
    way = Way(on_gpu=True, text_tokens=1)
    assert work(network, bucket, way) == pytest.approx(6 * network.parameters * bucket.tokens((1, 2, 2)), rel=0.1)
    assert work(network, bucket, replace(way, recompute=True)) == pytest.approx(4 / 3 * work(network, bucket, way), rel=0.01)
    long = Bucket((16, 64, 64, 64), 1)
    count = long.tokens((1, 2, 2))
    more = work(network, long, way) - 6 * network.parameters * count
    assert more == pytest.approx(12 * count**2 * 5120 * 40, rel=0.05), "attention grows with the square"


@pytest.mark.parametrize("by_tokens", [False, True])
@pytest.mark.parametrize(
    ("room", "recompute", "first"),
    [
        (60 * GIB, False, "--set dit.recompute_activations=true"),
        (34 * GIB, True, "--set dit.batch_size="),
        (20 * GIB, False, "--set dit.recompute_activations=true --set cluster.sharded=true --set cluster.num_workers="),
    ],
)
def test_each_way_out_lets_the_training_fit_the_mildest_first(room: int, recompute: bool, first: str, by_tokens: bool) -> None:
    network, way = Network(DIT_SIZES["1.3b"], 16, 4096), Way(on_gpu=True, recompute=recompute)
    buckets = (Bucket((16, 13, 60, 104), 4), Bucket((16, 13, 30, 52), 16))
    assert buckets[0].tokens((1, 2, 2)) == buckets[1].tokens((1, 2, 2))
    settings = Settings(way, buckets, buckets[0].tokens((1, 2, 2)) if by_tokens else 16, by_tokens)
    settings = settings.with_batch(settings.batch, (1, 2, 2))
    assert not fits(network, settings, room)
    found = list(ways_out(network, settings, room))
    assert all(fits(network, changed, room) for _, changed in found)
    assert said(found[0][0]).startswith(first.replace("batch_size", "tokens_per_batch") if by_tokens else first)


def test_where_nothing_helps_there_is_no_way_out() -> None:
    settings = Settings(Way(on_gpu=True), (Bucket((16, 13, 60, 104), 1),), 1, False)
    assert list(ways_out(Network(DIT_SIZES["14b"], 16, 4096), settings, 16 * GIB)) == []


def test_time_is_measured_time_by_the_work_there_is() -> None:
    network, way = Network(DIT_SIZES["tiny"], 16, 64), Way(on_gpu=False)
    short, long = Bucket((16, 1, 8, 8), 4), Bucket((16, 3, 8, 8), 4)
    assert step_seconds(network, way, long, []) is None
    assert step_seconds(network, way, long, [(short, 1.0), (long, 2.5)]) == 2.5
    reckoned = step_seconds(network, way, long, [(short, 1.0)])
    assert reckoned is not None
    assert math.isclose(reckoned, work(network, long, way) / work(network, short, way))
