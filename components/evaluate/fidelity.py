"""How faithful things are to what they stand for: reconstructions to clips, captions and reconstructions to the truth."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from components.evaluate.intervals import Share, share
from components.world.vocabulary import FIELDS, parse

Fields = Mapping[str, str | None]
Reader = Callable[[np.ndarray], Fields]  # frames uint8 (T, H, W, 3) -> a label or None for each field
Map = Callable[..., Iterable[Any]]  # the builtin `map`, or a pool's

MAX_PSNR = 100.0  # equal clips have no error at all; this stands for it in JSON
SSIM_SIGMA, SSIM_RADIUS = 1.5, 5


class Reconstruction(TypedDict):
    """Reconstructions beside their originals; `fields` is None where no reader or no truth is at hand."""

    psnr: float  # mean over the clips, dB
    psnr_pooled: float  # of the mean squared error over all clips, dB
    ssim: float | None  # None for frames smaller than its window
    fields: dict[str, Share] | None
    num_clips: int


def psnr(reference: np.ndarray, other: np.ndarray) -> float:
    """Peak signal-to-noise ratio of two uint8 clips in dB, over all frames and colours at once."""
    return _decibel(_squared_error(reference, other))


def ssim(reference: np.ndarray, other: np.ndarray) -> float | None:
    """Structural similarity of two uint8 clips (T, H, W, 3): the mean over pixels, colours and frames.

    A Gaussian window of sigma 1.5 and 11 pixels, population covariances, K1 = 0.01, K2 = 0.03; pixels whose window would cross the
    edge are left out. None where no window fits.

    Source: Wang et al. 2004, Image Quality Assessment: From Error Visibility to Structural Similarity.
    """
    if min(reference.shape[1:3]) < 2 * SSIM_RADIUS + 1:
        return None
    x, y = (np.moveaxis(clip, -1, 1).astype(np.float64) for clip in (reference, other))  # (T, 3, H, W)
    mean_x, mean_y = _windowed(x), _windowed(y)
    var_x = _windowed(x * x) - mean_x**2
    var_y = _windowed(y * y) - mean_y**2
    covariance = _windowed(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similar = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return float((similar / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))).mean())


def reconstruction(
    originals: Sequence[np.ndarray],
    reconstructions: Sequence[np.ndarray],
    truths: Sequence[Fields | None] | None = None,
    reader: Reader | None = None,
    pool_map: Map = map,
) -> Reconstruction:
    """Compares reconstructions with their originals; where reader and truths are given, also by what can be read from them."""
    errors = [_squared_error(a, b) for a, b in zip(originals, reconstructions, strict=True)]
    similar = [value for value in map(ssim, originals, reconstructions) if value is not None]
    return Reconstruction(
        psnr=float(np.mean([_decibel(error) for error in errors])),
        psnr_pooled=_decibel(float(np.mean(errors))),
        ssim=float(np.mean(similar)) if similar else None,
        fields=read_accuracy(reconstructions, truths, reader, pool_map) if reader and truths else None,
        num_clips=len(errors),
    )


def read_accuracy(
    clips: Sequence[np.ndarray], truths: Sequence[Fields | None], reader: Reader, pool_map: Map = map
) -> dict[str, Share] | None:
    """Reads clips and counts how often each field is right; null counts as wrong. None where no clip has a truth."""
    known = [(clip, truth) for clip, truth in zip(clips, truths, strict=True) if truth]
    return field_accuracy(pool_map(reader, [clip for clip, _ in known]), [truth for _, truth in known])


def caption_accuracy(captions: Sequence[str | None], truths: Sequence[Fields | None]) -> dict[str, Share] | None:
    """Counts how often each field of the truth is what the caption says. None where no clip has a truth."""
    known = [(caption, truth) for caption, truth in zip(captions, truths, strict=True) if truth]
    return field_accuracy([parse(caption or "") for caption, _ in known], [truth for _, truth in known])


def field_accuracy(found: Iterable[Fields], truths: Sequence[Fields]) -> dict[str, Share] | None:
    """Share of the clips that have each field right, and `all` for those that have every field right; each with its interval."""
    right = [fields_right(fields, truth) for fields, truth in zip(found, truths, strict=True)]
    if not right:
        return None
    return {field: share([row[field] for row in right]) for field in right[0]}


def fields_right(found: Fields, truth: Fields) -> dict[str, bool]:
    """Says for each field of a truth whether it was found, and `all` for all of them."""
    right = {field: found.get(field) == truth[field] for field in FIELDS if truth.get(field) is not None}
    return {**right, "all": all(right.values())}


def _squared_error(reference: np.ndarray, other: np.ndarray) -> float:
    if reference.shape != other.shape:
        raise ValueError(f"clips to compare have one shape, not {reference.shape} and {other.shape}")
    return float(np.square(reference.astype(np.float32) - other.astype(np.float32)).mean(dtype=np.float64))


def _decibel(squared_error: float) -> float:
    return min(MAX_PSNR, 10 * math.log10(255**2 / squared_error)) if squared_error > 0 else MAX_PSNR


def _windowed(x: np.ndarray) -> np.ndarray:
    """Averages (..., H, W) under the Gaussian window, where it fits whole."""
    return np.matmul(_window(x.shape[-2]), x) @ _window(x.shape[-1]).T


def _window(side: int) -> np.ndarray:
    weights = np.exp(-0.5 * np.square(np.arange(-SSIM_RADIUS, SSIM_RADIUS + 1) / SSIM_SIGMA))
    rows = np.zeros((side - 2 * SSIM_RADIUS, side))
    for i, row in enumerate(rows):
        row[i : i + len(weights)] = weights / weights.sum()
    return rows
