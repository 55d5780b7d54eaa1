"""What a clip in training lets the model keep: nothing, so that text alone leads, or frames that stay clean, at t = 0, to go on from.

One model then animates an image (the first frame is kept), extends a video either way (its frames from one end on), joins or loops clips
(both ends) and fills between key frames.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Draw = Callable[[int, torch.Generator], list[int]]  # (frames, generator) -> the frames that are kept


def _length(most: int, generator: torch.Generator) -> int:
    """Draws 1 to `most`, each as likely."""
    return int(torch.randint(1, most + 1, (), generator=generator))


def _prefix(frames: int, generator: torch.Generator) -> list[int]:
    return list(range(_length(frames - 1, generator)))


def _suffix(frames: int, generator: torch.Generator) -> list[int]:
    return list(range(frames - _length(frames - 1, generator), frames))


def _ends(frames: int, generator: torch.Generator) -> list[int]:
    """Draws as many frames at either end, at least one between them is made."""
    each = _length(max(1, (frames - 1) // 2), generator)
    return [*range(each), *range(frames - each, frames)] if frames > 2 else [0]


def _key_frames(frames: int, generator: torch.Generator) -> list[int]:
    return torch.randperm(frames, generator=generator)[: _length(frames - 1, generator)].tolist()


TASKS: dict[str, Draw] = {
    "text": lambda frames, generator: [],
    "first_frame": lambda frames, generator: [0],
    "prefix": _prefix,
    "suffix": _suffix,
    "first_and_last": _ends,
    "key_frames": _key_frames,
}


def deal_tasks(tasks: Mapping[str, float], count: int, generator: torch.Generator) -> list[str]:
    """Deals tasks out to clips, in strata: a batch has about as many clips of each as its share says.

    Args:
        tasks: the share of each by name, of `TASKS`; they need not add up to 1.

    Raises:
        ValueError: no task has a share.
    """
    names = [name for name in TASKS if tasks[name]]
    if not names:
        raise ValueError("`dit.tasks` gives no task a share; hint: `--set dit.tasks.text=1` trains on text alone")
    ends = torch.tensor([tasks[name] for name in names], dtype=torch.float64).cumsum(dim=0)
    strata = (torch.randperm(count, generator=generator) + torch.rand(count, generator=generator, dtype=torch.float64)) / count
    places = torch.searchsorted(ends / ends[-1], strata, right=True).clamp(max=len(names) - 1)
    return [names[place] for place in places.tolist()]


def kept_frames(task: str, frames: int, generator: torch.Generator) -> Tensor:
    """Draws which of a clip's frames a task keeps, (frames,), True where one is; a clip of one frame has nothing to keep."""
    kept = torch.zeros(frames, dtype=torch.bool)
    if frames > 1:
        kept[TASKS[task](frames, generator)] = True
    return kept
