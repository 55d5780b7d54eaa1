"""What the diffusion transformer learns from: cached latents and text embeddings of the table, and the batches drawn from them."""

import logging
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from components.store.choice import evenly
from components.store.filters import ENCODED, READY, VALIDATION
from components.store.tables import clips
from components.store.tensors import IN_MEMORY, StoredArrays, arrays_of, bytes_of, shapes_of
from components.train.buckets import Filling, Step, first_epoch, steps_of
from components.train.dit_draws import DitBatch
from components.train.dit_validation import HeldOut

if TYPE_CHECKING:
    from components.store.project import Project

logger = logging.getLogger("kinora")


@dataclass(frozen=True)
class Encoded:
    """Training clips: latents (C, T, H, W) and text_embeds (S, C) of each, float16, ordered by clip id, in memory or read as steps ask.

    Attributes:
        latents_fps: latent frames a second of each.
    """

    clip_ids: tuple[str, ...]
    latents: Sequence[np.ndarray]
    text_embeds: Sequence[np.ndarray]
    latents_fps: Sequence[float]

    @property
    def is_stored(self) -> bool:
        """Whether steps read their own."""
        return isinstance(self.latents, StoredArrays)

    @cached_property
    def each_shape(self) -> Sequence[tuple[int, ...]]:
        """The shape of each clip's latents."""
        return shapes_of(self.latents)

    @property
    def shapes(self) -> dict[tuple[int, ...], list[int]]:
        """The rows of each shape of latents, the most frequent shape first."""
        rows: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for row, shape in enumerate(self.each_shape):
            rows[shape].append(row)
        return dict(sorted(rows.items(), key=lambda item: (-len(item[1]), item[0])))

    def tokens(self, patch_size: tuple[int, int, int]) -> list[int]:
        """Answers how many tokens each is, in patches of so many places of latents."""
        of_shape = {shape: math.prod(-(-side // patch) for side, patch in zip(shape[1:], patch_size, strict=True)) for shape in self.shapes}
        return [of_shape[shape] for shape in self.each_shape]


def read_encoded(project: "Project", most: int | None = None) -> Encoded:
    """Reads the clips of the training split that have latents and text embeddings.

    Args:
        most: bytes of them that are held in memory, None: `IN_MEMORY`; of more, each step reads its own.

    Raises:
        ValueError: there are none.
    """
    table = clips(project)
    rows = table.read(["clip_id", "fps", "num_frames", "latents_shape", "text_shape"], READY)
    clip_ids = tuple(row["clip_id"] for row in rows)
    if not rows:
        raise ValueError(
            "no clip of the training split has latents and text embeddings; hint: `kinora run encode`, and `kinora show funnel`"
        )
    held = bytes_of(row[shape] for row in rows for shape in ("latents_shape", "text_shape"))
    stays = held > (IN_MEMORY if most is None else most)
    if stays:
        logger.info("latents and text embeddings take %.3g GiB, so each step reads its own", held / 2**30)
    read = table.stored_tensor if stays else table.read_tensor
    latents, text_embeds = read("latents", clip_ids), read("text_embeds", clip_ids)
    rates = [_latents_fps(row["fps"], row["num_frames"], row["latents_shape"][1]) for row in rows]
    return Encoded(clip_ids, latents, text_embeds, rates)


def read_held_out(project: "Project", count: int) -> list[HeldOut]:
    """Reads at most `count` clips of the validation split, evenly spread over their ids."""
    table = clips(project)
    rows = sorted(table.read(["clip_id", "fps", "num_frames"], f"{VALIDATION} AND {ENCODED}"), key=lambda row: row["clip_id"])
    rows = evenly(rows, count)
    keys = [row["clip_id"] for row in rows]
    tensors = zip(table.read_tensor("latents", keys), table.read_tensor("text_embeds", keys), strict=True)
    return [
        HeldOut(
            row["clip_id"],
            torch.from_numpy(latents.astype(np.float32)),
            torch.from_numpy(embeds.astype(np.float32)),
            _latents_fps(row["fps"], row["num_frames"], latents.shape[1]),
        )
        for row, (latents, embeds) in zip(rows, tensors, strict=True)
    ]


def _latents_fps(fps: str, num_frames: int, latent_frames: int) -> float:
    """Answers how many latent frames pass in a second, the same of clips of all lengths; of a single frame, the rate that it has."""
    return float(Fraction(fps) * (1 if num_frames == 1 else Fraction(latent_frames - 1, num_frames - 1)))


def dit_batches(
    encoded: Encoded, filling: Filling, patch_size: tuple[int, int, int], seed: int, rank: int = 0
) -> tuple[Callable[[int], Iterator[DitBatch]], int]:
    """Answers the batches from a step on, and how many make an epoch; each depends on (seed, step) alone, a worker's is its share.

    Args:
        filling: which clips make a step.
        patch_size: of a token, in places of latents.

    Raises:
        ValueError: a step has fewer clips than there are workers.
    """
    shapes, tokens = encoded.shapes, encoded.tokens(patch_size)
    filling.check(max(tokens))

    def batches(first: int) -> Iterator[DitBatch]:
        return (_collate(encoded, step, rank, filling.packed) for step in steps_of(filling, tokens, shapes, seed, first))

    epoch = first_epoch(filling, tokens, shapes, seed)
    held = sum(math.prod(shape[1:]) for shape in encoded.each_shape)
    logger.info(
        "%d shapes of latents; %.1f %% of the steps' room stays unused; %.1f %% of tokens are of clips seen before, %.1f %% padding; "
        "workers wait %.1f %% of the time for the fullest",
        len(shapes),
        100 * epoch.unfilled,
        100 * epoch.seen_again,
        100 * (1.0 - held / (sum(tokens) * math.prod(patch_size))),
        100 * epoch.waiting,
    )
    return batches, epoch.steps


def places_of_a_step(encoded: Encoded, filling: Filling, patch_size: tuple[int, int, int]) -> int:
    """Answers the places of latents, frames x height x width, that a worker, or its group, has of the largest step."""
    tokens = encoded.tokens(patch_size)
    if filling.packed:
        most = min(filling.tokens or 0, sum(tokens))
    else:
        most = max(min(len(rows), filling.clips_of(tokens[rows[0]])) * tokens[rows[0]] for rows in encoded.shapes.values())
    return max(max(tokens), most // filling.world_size) * math.prod(patch_size)


def _collate(encoded: Encoded, step: Step, rank: int, packed: bool) -> DitBatch:
    """Gathers a worker's clips in float16, those of one shape as one tensor; text is padded to the batch's longest.

    A worker that a step has no clip for takes the smallest of the others', which weighs nothing.
    """
    sizes = [math.prod(encoded.each_shape[int(row)]) for row in step.rows]
    places = step.places[rank].tolist() or [sizes.index(min(sizes))]
    mine = [int(step.rows[place]) for place in places]
    clips, texts = ([torch.from_numpy(array.copy()) for array in arrays_of(held, mine)] for held in (encoded.latents, encoded.text_embeds))
    embeds, mask = pad_text(texts)
    rates = torch.tensor([encoded.latents_fps[row] for row in mine])
    names = tuple(encoded.clip_ids[row] for row in mine)
    latents = tuple(clips) if packed else torch.stack(clips)
    return DitBatch(latents, embeds, mask, names, rates, tuple(places), len(step.rows), idle=not len(step.places[rank]))


def pad_text(texts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Answers embeddings (B, S, C) of texts (S_i, C), zeros behind the shorter ones, and the mask (B, S) of their own tokens."""
    lengths = torch.tensor([len(text) for text in texts])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    return torch.nn.utils.rnn.pad_sequence(list(texts), batch_first=True), mask
