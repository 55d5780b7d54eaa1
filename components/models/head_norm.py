"""The RMS norm of heads and the turn after it, on a CPU: as few passes over the tokens as there can be, on the way there and back.

torch makes both of a dozen elementwise operations there, and keeps what each of them needs; here one tensor is kept.
"""

from typing import Any

import torch
from torch import Tensor

from components.models.rotary import turned_into


def norm_heads(heads: Tensor, weight: Tensor, eps: float, turned: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Answers heads (..., heads, d) over their root mean squares, times weights (d,), turned by angles.

    Args:
        turned: cosines and sines of the angles, (..., 1, d / 2), as `components.models.rotary.rotate` takes them; None: not at all.
    """
    cosines, sines = turned or (None, None)
    if torch.is_grad_enabled() and (heads.requires_grad or weight.requires_grad):
        answer: Tensor = _NormHeads.apply(heads, weight, eps, cosines, sines)
        return answer
    return _normed(heads, weight, _inverse_roots(heads, eps), cosines, sines)


class _NormHeads(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, heads: Tensor, weight: Tensor, eps: float, cosines: Tensor | None, sines: Tensor | None) -> Tensor:
        inverse = _inverse_roots(heads, eps)
        ctx.save_for_backward(heads, weight, inverse, cosines, sines)
        return _normed(heads, weight, inverse, cosines, sines)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        heads, weight, inverse, cosines, sines = ctx.saved_tensors
        gradient = gradients[0]
        if cosines is not None:  # turned back
            gradient = turned_into(torch.empty_like(heads), gradient, cosines, -sines)
        along = (heads * gradient).reshape(-1, heads.shape[-1])  # (rows, d)
        of_weight = along.mT @ inverse.view(-1)
        pulled = (along @ weight).view(inverse.shape).mul_(inverse.square()).div_(-heads.shape[-1])  # what keeps the length
        of_heads = (heads * pulled).addcmul_(gradient, weight).mul_(inverse)
        return of_heads, of_weight, None, None, None


def _inverse_roots(heads: Tensor, eps: float) -> Tensor:
    """Answers one over the root mean square of each head, (..., heads, 1)."""
    lengths = torch.linalg.vector_norm(heads, dim=-1, keepdim=True)
    return lengths.square_().div_(heads.shape[-1]).add_(eps).rsqrt_()


def _normed(heads: Tensor, weight: Tensor, inverse: Tensor, cosines: Tensor | None, sines: Tensor | None) -> Tensor:
    if cosines is None or sines is None:
        return (heads * weight).mul_(inverse)
    first, second = weight.chunk(2)  # a turn of weighed heads is one whose cosines and sines are weighed
    out = torch.empty(heads.shape, dtype=heads.dtype)
    return turned_into(out, heads, (cosines * first, cosines * second), (sines * second, sines * first)).mul_(inverse)
