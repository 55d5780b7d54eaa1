"""How faithful things are to what they stand for: reconstructions to clips, captions and reconstructions to the truth."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from components.evaluate.intervals import Share, share
from components.measure.distortion import decibels, squared_error, ssim
from components.world.vocabulary import FIELDS, parse

Fields = Mapping[str, str | None]
Reader = Callable[[np.ndarray], Fields]  # frames uint8 (T, H, W, 3) -> a label or None for each field
Map = Callable[..., Iterable[Any]]  # the builtin `map`, or a pool's


class Reconstruction(TypedDict):
    """Reconstructions beside their originals; `fields` is None where no reader or no truth is at hand."""

    psnr: float  # mean over the clips, dB
    psnr_pooled: float  # of the mean squared error over all clips, dB
    ssim: float | None  # None for frames smaller than its window
    fields: dict[str, Share] | None
    num_clips: int


def reconstruction(
    originals: Sequence[np.ndarray],
    reconstructions: Sequence[np.ndarray],
    truths: Sequence[Fields | None] | None = None,
    reader: Reader | None = None,
    pool_map: Map = map,
) -> Reconstruction:
    """Compares reconstructions with their originals; where reader and truths are given, also by what can be read from them."""
    errors = [squared_error(a, b) for a, b in zip(originals, reconstructions, strict=True)]
    similar = [value for value in map(ssim, originals, reconstructions) if value is not None]
    return Reconstruction(
        psnr=float(np.mean([decibels(error) for error in errors])),
        psnr_pooled=decibels(float(np.mean(errors))),
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
