"""Clips of the synthetic world turned over, with the words of their captions turned over too."""

import re
from functools import cache
from typing import TYPE_CHECKING

from components.world import vocabulary

if TYPE_CHECKING:
    from torch import Tensor

ACROSS = {"left": "right", "right": "left"}
ALONG = {"up": "down", "down": "up"}
IN_TIME = {**ACROSS, **ALONG, "in": "out", "out": "in"}
ONE_WAY = re.compile(r"\bgrows\b")  # no word says the same thing run backwards
LITTLE_WORDS = "a an and over background behind bar large small"


def can_turn(caption: str) -> bool:
    """Answers whether every word of a caption is the synthetic world's, so that what turning does to it is known."""
    return set(re.findall(r"[\w-]+", caption)) <= _words()


def turned(caption: str, across: bool, backwards: bool) -> str:
    """Says a caption of a clip that was mirrored left to right, run backwards, or both."""
    for applies, words in ((across, ACROSS), (backwards, IN_TIME)):
        if applies:
            caption = re.sub(r"\b(?:left|right|up|down|in|out)\b", lambda found, words=words: words.get(found[0], found[0]), caption)  # type: ignore[misc]
    return caption


def can_run_backwards(caption: str) -> bool:
    return ONE_WAY.search(caption) is None


def turn(cells: "Tensor", across: "Tensor", backwards: "Tensor") -> "Tensor":
    """Mirrors and runs backwards the clips that are marked.

    Args:
        cells: (B, F, 3, H, W), frames in the order of time.
        across, backwards: bool (B,).
    """
    import torch

    cells = torch.where(across.view(-1, 1, 1, 1, 1), cells.flip(-1), cells)
    return torch.where(backwards.view(-1, 1, 1, 1, 1), cells.flip(1), cells)


def shift(cells: "Tensor", down: "Tensor", right: "Tensor") -> "Tensor":
    """Moves whole clips by (down, right) pixels (B,); what comes in repeats the edge."""
    import torch

    batch, _, _, height, width = cells.shape
    rows = (torch.arange(height) - down[:, None]).clamp_(0, height - 1)  # (B, H)
    columns = (torch.arange(width) - right[:, None]).clamp_(0, width - 1)  # (B, W)
    places = torch.arange(batch)[:, None, None]
    moved = cells.permute(0, 3, 4, 1, 2)[places, rows[:, :, None], columns[:, None, :]]  # (B, H, W, F, 3)
    return moved.permute(0, 3, 4, 1, 2).contiguous()


@cache
def _words() -> frozenset[str]:
    phrases = (*vocabulary.MOTION_PHRASES.values(), *vocabulary.CAMERA_PHRASES.values(), LITTLE_WORDS)
    named = (word for field in ("colour", "shape", "background") for word in vocabulary.SYNONYMS[field])
    return frozenset(" ".join((*phrases, *named)).split())
