"""Rotary positions in time and space: queries and keys are turned by angles that grow with the second, the row and the column.

What two tokens make of each other then depends on how far apart they are, so clips of other lengths, sizes and frame rates than those
of the training look familiar.

Source: Su et al., RoFormer (arXiv 2104.09864); Wan (arXiv 2503.20314) for how a head is shared out among the axes.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

UNITS_A_SECOND = 4.0  # along time: one a latent frame at 16 frames a second and a compression of 4
LONGEST = 10000.0


def head_shares(head_size: int) -> tuple[int, int, int]:
    """Answers how many channels of a head time, rows and columns turn; time has what does not divide.

    Raises:
        ValueError: a head too small, or odd.
    """
    space = 2 * (head_size // 6)
    if head_size % 2 or not space:
        raise ValueError(f"a head of {head_size} channels cannot turn along three axes; hint: an even number from 6 on")
    return head_size - 2 * space, space, space


def token_places(grid: tuple[int, int, int], seconds_a_frame: Tensor) -> Tensor:
    """Answers where each token of clips lies: in time, in quarters of a second, its row and its column.

    Args:
        grid: tokens along time, height and width.
        seconds_a_frame: (B,), between two tokens along time.

    Returns:
        (B, L, 3), float32.
    """
    times, rows, columns = (torch.arange(length, device=seconds_a_frame.device, dtype=torch.float32) for length in grid)
    times = times * (UNITS_A_SECOND * seconds_a_frame.float())[:, None]  # (B, frames)
    shape = (len(times), *grid)
    axes = times[:, :, None, None].expand(shape), rows[:, None].expand(shape), columns.expand(shape)
    return torch.stack(axes, dim=-1).flatten(1, 3)


def token_angles(places: Tensor, head_size: int) -> Tensor:
    """Answers by how much each pair of channels of a head is turned at each place: (..., 3) -> (..., head_size / 2), in radians."""
    rates = [_rates(share // 2, places.device) for share in head_shares(head_size)]
    return torch.cat([places[..., axis, None] * of_axis for axis, of_axis in enumerate(rates)], dim=-1)


def rotate(heads: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Turns each pair of channels, of which one lies in the first half of a head and one in the second; gradients flow to heads alone.

    Args:
        heads: (..., heads, head_size).
        cosines, sines: (..., 1, head_size / 2), of the angles.
    """
    if torch.compiler.is_compiling():  # which makes one pass of it
        first, second = heads.chunk(2, dim=-1)
        return torch.cat([first * cosines - second * sines, second * cosines + first * sines], dim=-1)
    if torch.is_grad_enabled() and heads.requires_grad:
        answer: Tensor = _Rotation.apply(heads, cosines, sines)
        return answer
    return turned_into(torch.empty_like(heads), heads, cosines, sines)


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, heads: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        ctx.save_for_backward(cosines, sines)
        return turned_into(torch.empty_like(heads), heads, cosines, sines)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        cosines, sines = ctx.saved_tensors
        return turned_into(torch.empty_like(gradients[0]), gradients[0], cosines, -sines), None, None


def turned_into(out: Tensor, heads: Tensor, cosines: Tensor | tuple[Tensor, Tensor], sines: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    """Writes what `rotate` answers, in as few passes as there can be; no gradient flows through it.

    Args:
        cosines, sines: for both halves of the answer, or one for each.
    """
    (first, second), (out_first, out_second) = heads.chunk(2, dim=-1), out.chunk(2, dim=-1)
    first_cosines, second_cosines = cosines if isinstance(cosines, tuple) else (cosines, cosines)
    first_sines, second_sines = sines if isinstance(sines, tuple) else (sines, sines)
    torch.mul(first, first_cosines, out=out_first).addcmul_(second, first_sines, value=-1)
    torch.mul(second, second_cosines, out=out_second).addcmul_(first, second_sines)
    return out


def _rates(count: int, device: torch.device) -> Tensor:
    return LONGEST ** -(torch.arange(count, device=device, dtype=torch.float32) / count)
