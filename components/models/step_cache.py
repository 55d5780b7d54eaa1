"""Sampling that leaves out the blocks of the diffusion transformer where they would say again what they said a step or two before.

What enters the first block tells, before any block has run, how far the answer of all of them has moved since they last ran. Where
that stays under a threshold, what they added then is added again.

Source: Liu et al., TeaCache (arXiv 2411.19108).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

TINY = 1e-12


@dataclass
class StepCache:
    """What the blocks said last in one walk from noise to clips, and how far from there they are asked again.

    Each sample goes by itself, whatever it is batched with; with and without its prompt it is asked at the same steps, since guidance
    lives on the difference.

    Attributes:
        threshold: the relative change of what the blocks add, as it is foreseen, from which on they run; at 0 they always do.
        samples: of a batch; row r is of sample r modulo them.
        gain: a polynomial of t, from its constant on; its exponential is how much more the answer moves than what enters does.
        asked, ran: rows that came, and those for which the blocks ran.
    """

    threshold: float
    samples: int
    gain: Sequence[float] = ()
    asked: int = 0
    ran: int = 0
    _last: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)  # by row: what entered, and what was added
    _gain: Tensor | None = None  # on the device, which waits for whatever it is sent

    def __call__(self, x: Tensor, entering: Tensor, t: Tensor, through: Callable[[Tensor], Tensor]) -> Tensor:
        """Answers what the blocks make of tokens, asking them for some rows alone.

        Args:
            x: (B, L, D), the tokens.
            entering: (B, L, D), what the first block attends with: the tokens as the timestep has them.
            t: (B,).
            through: answers what the blocks make of some rows of x, which it is told by their numbers, on the device.
        """
        changes = self._foreseen(entering, t)
        due = {row % self.samples for row, change in enumerate(changes) if not change < self.threshold}
        rows = [row for row in range(len(x)) if row % self.samples in due]
        self.asked, self.ran = self.asked + len(x), self.ran + len(rows)
        if len(rows) == len(x):
            answer = through(torch.arange(len(x), device=x.device))
        else:
            made = through(torch.tensor(rows).to(x.device, non_blocking=True)) if rows else x[:0]
            of_row = dict(zip(rows, made, strict=True))
            answer = torch.stack([of_row[row] if row in of_row else tokens + self._last[row][1] for row, tokens in enumerate(x)])
        for row in rows:
            self.note(row, t[row], entering[row], answer[row] - x[row])
        return answer

    def note(self, row: int, t: Tensor, entering: Tensor, added: Tensor) -> None:
        """Keeps what the blocks were told of a row and what they added."""
        self._last[row] = entering, added

    def _foreseen(self, entering: Tensor, t: Tensor) -> list[float]:
        """Answers by how much, of itself, what the blocks add to each row will have changed; infinitely where they never ran."""
        known = [row for row in range(len(entering)) if row in self._last]
        changes = [math.inf] * len(entering)
        if known:
            before, now, times = (
                torch.stack(rows) for rows in zip(*((self._last[row][0], entering[row], t[row]) for row in known), strict=True)
            )
            moved = relative_change(before, now)
            if self._gain is None:
                self._gain = torch.tensor([*self.gain] or [0.0], dtype=torch.float64, device=t.device)
            powers = torch.stack([times.double() ** power for power in range(len(self._gain))])
            gains = torch.exp(self._gain @ powers)
            for row, change in zip(known, (moved.double() * gains).tolist(), strict=True):
                changes[row] = change
        return changes


@dataclass
class Recording(StepCache):
    """A cache that never leaves anything out, and writes down what there is to learn from.

    Attributes:
        seen: t, the relative change of what entered since the step before, and of what was added.
    """

    seen: list[tuple[float, float, float]] = field(default_factory=list)

    def note(self, row: int, t: Tensor, entering: Tensor, added: Tensor) -> None:
        if row in self._last:
            entered, before = self._last[row]
            told, answered = (float(relative_change(a[None], b[None])) for a, b in ((entered, entering), (before, added)))
            self.seen.append((float(t), told, answered))
        super().note(row, t, entering, added)


def relative_change(before: Tensor, now: Tensor) -> Tensor:
    """Answers by how much tokens (B, L, D) changed, of themselves, (B,); those that did not move at all, as kept ones do, do not count."""
    moved = (now - before).abs().sum(dim=-1)  # (B, L)
    return moved.sum(dim=1) / (before.abs().sum(dim=-1) * (moved > 0)).sum(dim=1).clamp(min=TINY)


def fit_gain(seen: Sequence[tuple[float, float, float]], degree: int = 3) -> list[float]:
    """Answers the polynomial of t whose exponential is nearest to how much more the answer moved than what entered, in logarithms.

    Args:
        seen: as `Recording` writes it down.
    """
    found = [(t, math.log(answered / told)) for t, told, answered in seen if told > 0 and answered > 0]
    if not found:
        return []
    times, ratios = (torch.tensor(part, dtype=torch.float64) for part in zip(*found, strict=True))
    powers = torch.stack([times**power for power in range(min(degree, len(set(times.tolist())) - 1) + 1)], dim=1)
    return [float(f"{value:.6g}") for value in torch.linalg.lstsq(powers, ratios[:, None]).solution[:, 0].tolist()]
