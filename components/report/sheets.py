"""Contact sheets as PNG files, for people without a browser and for MLflow and Prefect."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from components.media.write import write_sheet
from components.report.data import Reconstruction

SHEET_SIDE = 128  # short sides below that are enlarged, by a whole factor


def clip_sheet(path: Path, clips: Sequence[np.ndarray], columns: int = 6) -> Path:
    """Writes one row a clip, its frames from left to right."""
    write_sheet(path, [_picked(clip, columns) for clip in clips], scale=_scale(clips))
    return path


def reconstruction_sheet(path: Path, pairs: Sequence[Reconstruction], columns: int = 6) -> Path:
    """Writes two rows a clip: the original, and below it what the VAE gives back."""
    rows = [_picked(clip, columns) for pair in pairs for clip in (pair.original, pair.decoded)]
    write_sheet(path, rows, scale=_scale(rows))
    return path


def sample_sheet(path: Path, samples: Sequence[np.ndarray], columns: int = 6) -> Path:
    """Writes one row a sample."""
    return clip_sheet(path, samples, columns)


def _picked(clip: np.ndarray, columns: int) -> np.ndarray:
    return clip[np.unique(np.linspace(0, len(clip) - 1, min(columns, len(clip))).round().astype(int))]


def _scale(clips: Sequence[np.ndarray]) -> int:
    if not len(clips):
        raise ValueError("a sheet needs at least one clip")
    return max(1, SHEET_SIDE // min(clips[0].shape[1:3]))
