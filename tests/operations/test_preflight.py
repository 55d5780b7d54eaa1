"""The arithmetic of a training against the network itself: its parameters, and what autograd keeps for the way back."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from components.models.dit import DiT
from components.models.lora import adapt, adapters_of
from components.models.sequence_parallel import SequenceGroup
from components.models.sizes import DIT_SIZES, DitSize
from components.operations.preflight import Bucket, Network, Way, activations, load, memory, state_bytes, states_bytes, step_seconds, work
from components.train.checkpoint import training_tensors
from components.train.dit_loop import optimizer_for
from components.train.sharding import copied
from tests.train.test_dit_loop import settings

ODD = DitSize(hidden_size=96, depth=3, num_heads=4, patch_size=(2, 1, 4), mlp_ratio=2.5, text_size=16, refiner_depth=2)


@pytest.mark.parametrize("size", [*DIT_SIZES.values(), ODD], ids=[*DIT_SIZES, "odd"])
def test_parameters_are_those_of_the_network(size: DitSize) -> None:
    with torch.device("meta"):
        model = DiT(size, 16, 72)
    network = Network(size, 16, 72)
    assert network.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert network.block_parameters == sum(parameter.numel() for parameter in model.blocks[0].parameters())


@pytest.mark.parametrize("rank", [1, 4])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("size", [DIT_SIZES["tiny"], ODD])
def test_adapters_alone_have_gradients_and_states(size: DitSize, optimizer: str, rank: int) -> None:
    model = DiT(size, 16, 72)
    adapt(model, rank)
    network = Network(size, 16, 72, rank)
    assert network.trained == network.adapters == sum(value.numel() for value in adapters_of(model).values())
    stepped = optimizer_for(settings(optimizer=optimizer), model)
    for group in stepped.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)
    stepped.step()
    numbers = sum(value.numel() for state in stepped.state.values() for value in state.values() if value.ndim)
    assert network.trained * state_bytes(network, optimizer) == 4 * numbers
    held = memory(network, Bucket((16, 2, 8, 8), 1), Way(on_gpu=False, state_bytes=state_bytes(network, optimizer)))
    assert held.states == 4 * sum(parameter.numel() for parameter in model.parameters()) + 4 * network.adapters + 4 * numbers


@pytest.mark.parametrize("rank", [None, 4])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_checkpoint_has_weights_average_and_states(optimizer: str, rank: int | None) -> None:
    model = DiT(ODD, 16, 72)
    if rank:
        adapt(model, rank)
    stepped = optimizer_for(settings(optimizer=optimizer), model)
    for group in stepped.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)
    stepped.step()
    average = copied(model, lambda value: value.detach().clone())
    written = sum(value.numel() for value in training_tensors(model, average, stepped).values() if value.ndim)
    network = Network(ODD, 16, 72, rank)
    found = states_bytes(network, Way(on_gpu=True, state_bytes=state_bytes(network, optimizer)))
    exact = optimizer == "adamw" or rank  # Muon's few vectors in blocks are left out
    assert found == (4 * written if exact else pytest.approx(4 * written, rel=0.05))


def kept_bytes(
    size: DitSize, bucket: Bucket, words: int, recompute: bool = False, rank: int = 0, group: SequenceGroup | None = None
) -> int:
    """What autograd keeps for the way back, weights left out."""
    torch.manual_seed(0)
    model = DiT(size, bucket.latents[0], 64)
    model.recompute, model.sequence = recompute, group
    if rank:
        adapt(model, rank)
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


@pytest.mark.parametrize("rank", [2, 16])
def test_activations_of_adapters_are_what_autograd_keeps(rank: int) -> None:
    size, bucket = DitSize(64, 3, 2, (1, 2, 2), text_size=32), Bucket((16, 4, 16, 16), 2)
    _, reckoned = activations(Network(size, 16, 64, rank), bucket, Way(on_gpu=False, text_tokens=8))
    assert reckoned == pytest.approx(kept_bytes(size, bucket, 8, rank=rank), rel=1 / 12)


@pytest.mark.parametrize("together", [2, 4])
def test_activations_of_shared_clips_are_what_autograd_keeps_in_one_worker(together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are this one's like, so what they send is as large as what they are sent."""

    def exchange(received: torch.Tensor, sent: torch.Tensor, group: Any) -> None:
        received.copy_(sent)

    def gather(parts: list[torch.Tensor], sent: torch.Tensor, group: Any) -> None:
        for part in parts:
            part.copy_(sent)

    monkeypatch.setattr(torch.distributed, "all_to_all_single", exchange)
    monkeypatch.setattr(torch.distributed, "all_gather", gather)
    size, bucket = DitSize(64, 3, 4, (1, 2, 2), text_size=32), Bucket((16, 4, 18, 16), 1)
    way = Way(on_gpu=False, workers=together, together=together, text_tokens=8)
    _, reckoned = activations(Network(size, 16, 64), bucket, way)
    assert reckoned == pytest.approx(kept_bytes(size, bucket, 8, group=SequenceGroup(0, together)), rel=1 / 12)


def test_clips_are_dealt_out_among_groups_and_their_tokens_within_them() -> None:
    network, bucket = Network(DIT_SIZES["tiny"], 16, 64), Bucket((16, 3, 6, 6), 5)  # 27 tokens each
    found = load(network, bucket, Way(on_gpu=True, workers=4, together=2))
    assert (found.clips, found.frames, found.whole, found.tokens) == (3, 9, 3 * 27, 3 * 3 * 5)


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
    on_cpus = [
        memory(network, replace(bucket, clips=1), Way(on_gpu=False, workers=64, sharded=True, recompute=yes)) for yes in (False, True)
    ]
    assert on_cpus[1].passing == held.states < on_cpus[0].passing, "a checkpoint is gathered there"
    apart, alone = memory(network, bucket, replace(plain, workers=4)), memory(network, replace(bucket, clips=2), plain)
    assert (apart.states, apart.passing) == (held.states, alone.passing + 4 * network.parameters), "gradients have room all the time"
    lora = memory(replace(network, lora_rank=16), bucket, replace(plain, recompute=True))
    assert lora.states < 4.3 * network.parameters
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


def test_time_is_measured_time_by_the_work_there_is() -> None:
    network, way = Network(DIT_SIZES["tiny"], 16, 64), Way(on_gpu=False)
    short, long = Bucket((16, 1, 8, 8), 4), Bucket((16, 3, 8, 8), 4)
    assert step_seconds(network, way, long, []) is None
    assert step_seconds(network, way, long, [(short, 1.0), (long, 2.5)]) == 2.5
    reckoned = step_seconds(network, way, long, [(short, 1.0)])
    assert reckoned is not None
    assert math.isclose(reckoned, work(network, long, way) / work(network, short, way))
