"""The numbers that networks compute in follow the device."""

import copy

import pytest
import torch

from components.models.dit import DiT
from components.models.precision import mixed_precision, precision_of, round_weights
from components.models.sizes import DIT_SIZES


def test_a_cpu_computes_in_float32() -> None:
    with mixed_precision("cpu"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


@pytest.mark.parametrize(("device", "precision"), [("cpu", torch.float32), ("cuda:1", torch.bfloat16)])
def test_the_precision_of_a_device_is_told_without_it(device: str, precision: torch.dtype) -> None:
    assert precision_of(device) == precision


def test_rounded_weights_answer_as_those_that_every_pass_rounds() -> None:
    torch.manual_seed(0)
    model = DiT(DIT_SIZES["tiny"], 4, 8).requires_grad_(False)
    for layer in (model.modulation, model.modulation_out, model.patch_out):
        torch.nn.init.normal_(layer.weight, std=0.1)
    rounded = copy.deepcopy(model)
    round_weights(rounded)
    said = torch.randn(2, 4, 2, 4, 6), torch.rand(2), torch.randn(2, 3, 8), torch.tensor([[True, True, False], [True, True, True]]), 4.0
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(rounded(*said), model(*said))
    held = [sum(p.nbytes for p in each.parameters()) for each in (rounded, model)]
    assert held[0] < 0.55 * held[1]  # norms and biases a block stay
