"""Models shared out over a group of one process: the same numbers, and whole tensors where they are asked for."""

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from components.models.layers import ResidualBlock
from components.models.sizes import VaeSize
from components.models.vae import VideoVae
from components.train.context import TrainContext, nothing_to_report
from components.train.optim import clip_gradients, muon_for, update_ema
from components.train.sharding import Average, is_shard, part_like, spread, whole, whole_state

SIZE = VaeSize(latent_channels=4, hidden_channels=16, num_blocks=2, encoder_channels=16, encoder_blocks=1)
CONTEXT = TrainContext(0, 1, "cpu", 1, nothing_to_report, lambda model: model, sharded=True)


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
    model, beside, average = (copy.deepcopy(plain) for _ in range(3))
    torch.manual_seed(1)
    trained(plain, beside, plain)
    torch.manual_seed(1)
    called = spread(model, ResidualBlock, CONTEXT, "stream")
    kept = Average(average, ResidualBlock, CONTEXT)
    assert all(is_shard(parameter) for module in (model, kept.parts) for parameter in module.parameters())
    trained(model, kept.parts, called)
    for expected, found in ((plain, whole_state(model)), (beside, kept.whole().state_dict())):
        assert all(torch.equal(value, found[name]) for name, value in expected.state_dict().items())
    assert not any(is_shard(parameter) for parameter in kept.whole().parameters())


def test_a_part_of_a_whole_tensor_is_whole_again_together(group: None) -> None:
    model = VideoVae(SIZE)
    spread(model, ResidualBlock, CONTEXT, "stream")
    reference = model.decoder_in.weight
    value = torch.randn(reference.shape)
    part = part_like(value, reference)
    assert is_shard(part)
    assert torch.equal(whole(part), value)


def test_without_shares_nothing_is_changed() -> None:
    model, value = VideoVae(SIZE), torch.randn(3)
    assert spread(model, ResidualBlock, TrainContext(0, 1, "cpu", 1, nothing_to_report, lambda model: model)) is model
    assert whole(value) is value
    assert part_like(value, value) is value
    assert not any(is_shard(parameter) for parameter in model.parameters())
