"""What a captioner learns from: the labelled clips of the table, cut to mosaic cells once, and the batches drawn from them."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from components.media.read import decode_clip
from components.openclip.mosaic import Mosaic, cells, picture
from components.store.filters import KEPT, LABELLED
from components.store.tables import clips
from components.train.captioner_loop import CaptionBatch
from components.train.mirrors import can_run_backwards, can_turn, shift, turn, turned
from components.train.shares import check_shares, share_of

if TYPE_CHECKING:
    from components.openclip.load import Coca
    from components.sections import Captioner
    from components.store.project import Project


@dataclass(frozen=True)
class Labelled:
    """Clips with words: cells uint8 (N, F, 3, cell, cell), a caption of each, and the truth of each where it is known."""

    cells: Tensor
    captions: tuple[str, ...]
    truths: tuple[dict[str, str] | None, ...]


def read_labelled(project: "Project", mosaic: Mosaic) -> Labelled:
    """Reads the clips of the training split that lend their label."""
    rows = clips(project).read(["clip_id", "label_caption"], f"{LABELLED} AND label_caption IS NOT NULL")
    return _read(project, rows, mosaic)


def read_judged(project: "Project", mosaic: Mosaic, most: int) -> Labelled:
    """Reads clips of the validation split whose truth is known, at most so many, to measure captions by."""
    rows = clips(project).read(["clip_id", "label_caption", "truth"], f"{KEPT} AND split = 'val' AND truth IS NOT NULL")
    return _read(project, rows[:most], mosaic)


def _read(project: "Project", rows: list[dict[str, Any]], mosaic: Mosaic) -> Labelled:
    found = clips(project).read_blobs("video", [row["clip_id"] for row in rows])
    cut = [cells(decode_clip(video), mosaic) for _, video in found]
    empty = torch.empty((0, mosaic.frames, 3, mosaic.cell, mosaic.cell), dtype=torch.uint8)
    truths = tuple(json.loads(row["truth"])["fields"] if row.get("truth") else None for row in rows)
    return Labelled(torch.stack(cut) if cut else empty, tuple(row["label_caption"] or "" for row in rows), truths)


def channel_statistics(labelled: Labelled) -> tuple[list[float], list[float]]:
    """Answers mean and standard deviation of each channel over all cells, on a scale from 0 to 1."""
    values = labelled.cells.transpose(1, 2).transpose(0, 1).flatten(1)  # (3, N * F * cell * cell)
    wide = [channel.double() / 255 for channel in values]
    return [float(channel.mean()) for channel in wide], [max(float(channel.std()), 1e-3) for channel in wide]


def captioner_batches(
    labelled: Labelled, coca: "Coca", settings: "Captioner", rank: int = 0, world_size: int = 1
) -> Callable[[int], Iterator[CaptionBatch]]:
    """Answers the batches from a step on; each depends on (seed, step) alone, a worker's is its share.

    A batch is of `batch_size` clips over all workers. Every epoch is a permutation of the clips. Clips whose captions hold no words
    but the synthetic world's are mirrored and run backwards, and their captions say so; all are shifted by a few pixels and made a
    little lighter or darker.

    Raises:
        ValueError: the batch has fewer clips than there are workers.
    """
    size = min(settings.batch_size, max(1, len(labelled.captions)))
    check_shares(size, world_size, "captioner.batch_size")
    share = share_of(rank, world_size)
    turns = torch.tensor([settings.turns and can_turn(caption) for caption in labelled.captions])
    reverses = torch.tensor([settings.turns and can_turn(caption) and can_run_backwards(caption) for caption in labelled.captions])
    tokens: dict[str, Tensor] = {}

    def batch_of(step: int) -> CaptionBatch:
        rows = torch.from_numpy(_rows_of(step, len(labelled.captions), size, settings.seed))
        chance = torch.Generator().manual_seed(_mixed(settings.seed, step))
        across = (torch.rand(size, generator=chance) < 0.5) & turns[rows]
        backwards = (torch.rand(size, generator=chance) < 0.5) & reverses[rows]
        most = round(settings.shift_share * coca.mosaic.cell)
        down, right = torch.randint(-most, most + 1, (2, size), generator=chance)
        light = settings.light * (2 * torch.rand((2, size, 1, 1, 1), generator=chance) - 1)
        rows, across, backwards, down, right = (drawn[share] for drawn in (rows, across, backwards, down, right))
        light = light[:, share]
        moved = shift(turn(labelled.cells[rows], across, backwards), down, right)
        pictures = picture(moved, coca.mosaic, coca.mean, coca.std)
        pictures = pictures.mul_(1 + light[0]).add_(light[1])
        said = [turned(labelled.captions[row], bool(a), bool(b)) for row, a, b in zip(rows.tolist(), across, backwards, strict=True)]
        for caption in said:
            if caption not in tokens:
                tokens[caption] = coca.tokenizer([caption])[0]
        return CaptionBatch(pictures, torch.stack([tokens[caption] for caption in said]), size)

    def batches(first: int) -> Iterator[CaptionBatch]:
        step = first
        while True:
            yield batch_of(step)
            step += 1

    return batches


def _rows_of(step: int, count: int, size: int, seed: int) -> np.ndarray:
    """Answers the rows of a step: the next `size` of an epoch's permutation."""
    steps_an_epoch = max(1, count // size)
    epoch, place = divmod(step, steps_an_epoch)
    order = np.random.default_rng([seed, 1, epoch]).permutation(count)
    return np.resize(order[place * size : (place + 1) * size], size)


def _mixed(seed: int, step: int) -> int:
    return int(np.random.SeedSequence([seed, 2, step, 0]).generate_state(1, np.uint64)[0] >> 1)
