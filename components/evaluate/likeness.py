"""Following for real footage, where no truth by field is known: does a sample look like the clips whose caption was its prompt?

Weight-free and coarse: where in the frame which colours stand, and how that changes. It tells a model that heeds its prompts from one
that does not; it does not tell a good picture from a bad one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

GRID = 6  # cells along each side
MOMENTS = 3  # beginning, middle and end


def likeness(samples: Sequence[np.ndarray], prompts: Sequence[str], clips: Sequence[np.ndarray], captions: Sequence[str]) -> np.ndarray:
    """Ranks, for each sample and each caption, how near the sample is to the clips of that caption.

    Args:
        samples, clips: uint8 (T, H, W, 3) each.
        prompts: the prompt of each sample, one of the captions.
        captions: of the clips; clips may share one.

    Returns:
        float (samples, 2): in [0, 1], the share of the other captions whose nearest clip is farther than the nearest of the sample's
        own, ties half; and the mean of the same over the other captions, as if each had been the prompt. Blind guessing reaches 0.5.

    Raises:
        ValueError: there is only one caption, or a prompt is none of them.
    """
    names = sorted(set(captions))
    if len(names) < 2:
        raise ValueError("likeness needs clips of at least two captions")
    if unknown := set(prompts) - set(names):
        raise ValueError(f"the prompt `{sorted(unknown)[0]}` is no caption of these clips")
    theirs = np.stack([_sketch(clip) for clip in clips])  # (clips, D)
    of = np.array([names.index(caption) for caption in captions])
    found = np.empty((len(samples), 2))
    for i, (sample, prompt) in enumerate(zip(samples, prompts, strict=True)):
        distance = np.linalg.norm(theirs - _sketch(sample), axis=1)
        nearest = np.array([distance[of == k].min() for k in range(len(names))])
        beats = (nearest[None] > nearest[:, None]) + 0.5 * (nearest[None] == nearest[:, None])  # (own, other)
        shares = (beats.sum(1) - 0.5) / (len(names) - 1)  # a caption ties with itself
        own = names.index(prompt)
        found[i] = shares[own], np.delete(shares, own).mean()
    return found


def _sketch(clip: np.ndarray) -> np.ndarray:
    """Mean colours on a coarse grid at the beginning, in the middle and at the end, and how they change."""
    moments = clip[np.linspace(0, len(clip) - 1, MOMENTS).round().astype(int)].astype(np.float32) / 255  # (M, H, W, 3)
    rows = np.array_split(moments, GRID, axis=1)
    cells = np.stack([cell.mean((1, 2)) for row in rows for cell in np.array_split(row, GRID, axis=2)], axis=1)  # (M, cells, 3)
    return np.concatenate([cells.ravel(), 2 * np.diff(cells, axis=0).ravel()])
