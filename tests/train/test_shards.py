import pytest
import torch
from torch import nn

from components.train.context import TrainContext
from components.train.shards import Shards, shards_for

X = torch.randn(7, 8, generator=torch.Generator().manual_seed(0))


def gradients(count: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 1))
    with Shards(count) as shards:
        losses = shards.backward(lambda part: model(X[part]).square().mean(dim=1), len(X), model.parameters())
    return losses, [parameter.grad for parameter in model.parameters()]


@pytest.mark.parametrize("count", [2, 3, 9])
def test_shards_add_up_to_the_whole_batch(count):
    whole, parts = gradients(1), gradients(count)
    torch.testing.assert_close(parts[0], whole[0])
    torch.testing.assert_close(parts[1], whole[1])


def test_a_step_of_shards_repeats_bit_for_bit():
    first, second = gradients(2), gradients(2)
    assert all(torch.equal(a, b) for a, b in zip(first[1], second[1], strict=True))


def test_torch_gets_its_threads_back():
    before = torch.get_num_threads()
    with Shards(2):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_only_a_lone_worker_on_a_cpu_is_split(tmp_path):
    assert shards_for(TrainContext.local(tmp_path, threads=2)).count == 2
    assert shards_for(TrainContext.local(tmp_path, device="cuda:0", threads=2)).count == 1
