import torch
import torch.nn.functional as F

from components.models.head_norm import norm_heads
from components.models.rotary import rotate


def test_it_is_torch_rms_norm_and_the_turn_of_rotary_positions_on_the_way_there_and_back():
    torch.manual_seed(0)
    angles = torch.randn(5, 1, 4, dtype=torch.float64)
    turned = angles.cos(), angles.sin()
    for turn in (None, turned):
        heads, weight = (
            torch.randn(5, 3, 8, dtype=torch.float64, requires_grad=True),
            torch.randn(8, dtype=torch.float64, requires_grad=True),
        )
        found = norm_heads(heads, weight, 1e-6, turn)
        normal = F.rms_norm(heads, (8,), weight, 1e-6)
        expected = normal if turn is None else rotate(normal, *turn)
        torch.testing.assert_close(found, expected)
        for gradient in (torch.randn_like(found), torch.randn(3, 5, 8, dtype=torch.float64).transpose(0, 1)):
            grads = [torch.autograd.grad(of, (heads, weight), gradient, retain_graph=True) for of in (found, expected)]
            for one, other in zip(*grads, strict=True):
                torch.testing.assert_close(one, other)
        with torch.no_grad():
            torch.testing.assert_close(norm_heads(heads, weight, 1e-6, turn), expected)


def test_heads_that_lie_apart_are_normed_where_they_lie():
    keys, _ = torch.randn(7, 2, 3, 8, requires_grad=True).unbind(1)
    weight = torch.rand(8)
    found = norm_heads(keys, weight, 1e-6)
    torch.testing.assert_close(found, F.rms_norm(keys, (8,), weight, 1e-6))
    torch.testing.assert_close(
        torch.autograd.grad(found.square().sum(), keys), torch.autograd.grad(F.rms_norm(keys, (8,), weight, 1e-6).square().sum(), keys)
    )
