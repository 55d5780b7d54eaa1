"""Models shared out over a group of one process: the same numbers, and whole tensors where they are asked for."""

import copy
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import nn

from components.models.layers import ResidualBlock
from components.models.sizes import VaeSize
from components.models.vae import VideoVae
from components.train.checkpoint import training_tensors, weights_in
from components.train.context import TrainContext, nothing_to_report
from components.train.optim import clip_gradients, muon_for, update_ema
from components.train.sharding import frozen, gathered_whole, is_shard, part_like, spread, whole

SIZE = VaeSize(latent_channels=4, hidden_channels=16, num_blocks=2, encoder_channels=16, encoder_blocks=1)
ALONE = TrainContext(0, 1, "cpu", 1, nothing_to_report, lambda model: model)
CONTEXT = replace(ALONE, sharded=True)


@pytest.fixture
def group() -> Iterator[None]:
    """A process group of this process alone."""
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def trained(model: VideoVae, average: nn.Module, called: nn.Module) -> None:
    optimizer, clip = muon_for(model, 0.01, adamw=("first_", "later_")), torch.randn(2, 3, 5, 16, 16)
    for step in range(3):
        called(clip)[0].square().mean().backward()
        clip_gradients(model.parameters(), 0.01)
        optimizer.step()
        optimizer.zero_grad()
        update_ema(average, model, 0.9, step)


def test_a_shared_out_model_takes_the_same_steps(group: None) -> None:
    torch.manual_seed(0)
    plain = VideoVae(SIZE)
    model, beside = (copy.deepcopy(plain) for _ in range(2))
    torch.manual_seed(1)
    trained(plain, beside, plain)
    torch.manual_seed(1)
    called, kept = spread(model, ResidualBlock, CONTEXT, method="stream")
    assert all(is_shard(parameter) for module in (model, kept.parts) for parameter in module.parameters())
    trained(model, kept.parts, called)
    for expected, found in ((plain, gathered_whole(model.state_dict())), (beside, kept.whole().state_dict())):
        assert all(torch.equal(value, found[name]) for name, value in expected.state_dict().items())
    assert not any(is_shard(parameter) for parameter in kept.whole().parameters())


def test_a_part_of_a_whole_tensor_is_whole_again_together(group: None) -> None:
    model = VideoVae(SIZE)
    spread(model, ResidualBlock, CONTEXT, method="stream")
    reference = model.decoder_in.weight
    value = torch.randn(reference.shape)
    part = part_like(value, reference)
    assert is_shard(part)
    assert torch.equal(whole(part), value)


@pytest.mark.parametrize("context", [ALONE, CONTEXT], ids=["alone", "shared out"])
def test_the_average_begins_as_the_model_or_as_a_checkpoint_says(context: TrainContext, group: None) -> None:
    model, average = VideoVae(SIZE), VideoVae(SIZE)
    model.latents_mean.fill_(3.0)
    average.latents_mean.fill_(5.0)
    for averaged, expected in (({}, model), (average.state_dict(), average)):
        _, kept = spread(copy.deepcopy(model), ResidualBlock, context, averaged, "stream")
        found = kept.whole().state_dict()
        assert all(torch.equal(value, found[name]) for name, value in expected.state_dict().items())


def test_a_snapshot_stays_as_it_is() -> None:
    model = VideoVae(SIZE)
    _, kept = spread(model, ResidualBlock, ALONE)
    shown = kept.snapshot()
    with torch.no_grad():
        kept.parts.decoder_in.weight.add_(1.0)
    assert torch.equal(shown.decoder_in.weight, model.decoder_in.weight)


def test_a_device_never_holds_more_of_a_model_than_its_shards_and_one_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device is torch's `meta` one, and what brings a module there and keeps a part of it is in the place of FSDP2."""
    moved: list[int] = []
    there: set[int] = set()

    def bring(part: nn.Module, mesh: object) -> None:
        whole_parts = [p for p in part.parameters() if not p.is_meta and id(p) not in there]
        moved.append(sum(p.numel() for p in whole_parts))
        there.update(map(id, whole_parts))

    def on_the_way(module: nn.Module, *arguments: object, **options: object) -> nn.Module:
        if "meta" in map(str, (*arguments, *options.values())):
            pytest.fail("a module went to the device as a whole")
        return plain_to(module, *arguments, **options)

    plain_to = nn.Module.to
    monkeypatch.setattr(nn.Module, "to", on_the_way)
    monkeypatch.setattr("torch.distributed.fsdp.fully_shard", bring)
    monkeypatch.setattr("torch.distributed.fsdp.register_fsdp_forward_method", lambda part, method: None)
    monkeypatch.setattr("torch.distributed.device_mesh.init_device_mesh", lambda kind, shape: None)
    model = VideoVae(SIZE)
    blocks = [sum(p.numel() for p in part.parameters()) for part in model.modules() if isinstance(part, ResidualBlock)]
    all_of_it = sum(p.numel() for p in model.parameters())
    spread(model, ResidualBlock, replace(CONTEXT, device="meta"))
    assert [count for count in moved if count] == [*blocks, all_of_it - sum(blocks)]  # of the average nothing came from the CPU
    assert max(moved) < all_of_it


def test_those_that_write_nothing_keep_nothing_of_what_is_gathered(group: None) -> None:
    model = VideoVae(SIZE)
    _, kept = spread(model, ResidualBlock, replace(CONTEXT, rank=1), method="stream")
    assert all(parameter.is_meta for parameter in kept.whole().parameters())
    optimizer = muon_for(model, 0.01)
    clip = torch.randn(2, 3, 5, 16, 16)
    model(clip)[0].square().mean().backward()
    optimizer.step()
    assert training_tensors(model, kept.parts, optimizer, kept=False) == {}
    assert training_tensors(model, kept.parts, optimizer).keys() > {"model.decoder_in.weight", "average.decoder_in.weight"}


def test_weights_that_do_not_learn_are_held_once_and_averaged_never() -> None:
    model = VideoVae(SIZE)
    model.decoder_in.requires_grad_(False)
    _, kept = spread(model, ResidualBlock, ALONE)
    stays = frozen(model)
    assert stays == {"decoder_in.weight", "decoder_in.bias"}
    for (name, mine), averaged in zip(model.named_parameters(), kept.parts.parameters(), strict=True):
        assert (mine.data_ptr() == averaged.data_ptr()) == (name in stays), name
    before = model.decoder_in.weight.clone()
    trained(model, kept.parts, model)
    assert torch.equal(kept.parts.decoder_in.weight, before)
    tensors = training_tensors(model, kept.parts, muon_for(model, 0.01))
    assert stays == {name for name in model.state_dict() if f"average.{name}" not in tensors}
    again = copy.deepcopy(model)
    _, resumed = spread(again, ResidualBlock, ALONE, weights_in(tensors, "average."))
    assert all(torch.equal(value, resumed.parts.state_dict()[name]) for name, value in kept.parts.state_dict().items())


def test_without_shares_nothing_is_changed() -> None:
    model, value = VideoVae(SIZE), torch.randn(3)
    called, kept = spread(model, ResidualBlock, ALONE)
    assert called is model
    assert kept.whole() is kept.parts
    assert whole(value) is value
    assert part_like(value, value) is value
    assert not any(is_shard(parameter) for parameter in model.parameters())
