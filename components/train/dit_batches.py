"""What the diffusion transformer learns from: cached latents and text embeddings of the table, and the batches drawn from them."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from components.store.filters import TRAINING
from components.store.tables import clips
from components.train.dit_loop import DitBatch
from components.train.shares import check_shares, share_of

if TYPE_CHECKING:
    from components.store.project import Project

READY = f"{TRAINING} AND latents IS NOT NULL AND text_embeds IS NOT NULL"


@dataclass(frozen=True)
class Encoded:
    """Training clips in memory: latents (C, T, H, W) and text_embeds (S, C) of each, float16, ordered by clip id.

    Attributes:
        latents_fps: latent frames a second of each.
    """

    clip_ids: tuple[str, ...]
    latents: Sequence[np.ndarray]
    text_embeds: Sequence[np.ndarray]
    latents_fps: Sequence[float]

    @property
    def shapes(self) -> dict[tuple[int, ...], list[int]]:
        """The rows of each shape of latents, the most frequent shape first."""
        rows: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for row, latents in enumerate(self.latents):
            rows[latents.shape].append(row)
        return dict(sorted(rows.items(), key=lambda item: (-len(item[1]), item[0])))


def read_encoded(project: "Project") -> Encoded:
    """Reads the clips of the training split that have latents and text embeddings.

    Raises:
        ValueError: there are none.
    """
    table = clips(project)
    rows = table.read(["clip_id", "fps", "num_frames"], READY)
    clip_ids = tuple(row["clip_id"] for row in rows)
    if not rows:
        raise ValueError(
            "no clip of the training split has latents and text embeddings; hint: `kinora run encode`, and `kinora show funnel`"
        )
    latents, text_embeds = table.read_tensor("latents", clip_ids), table.read_tensor("text_embeds", clip_ids)
    rates = [_latents_fps(row["fps"], row["num_frames"], of_clip.shape[1]) for row, of_clip in zip(rows, latents, strict=True)]
    return Encoded(clip_ids, latents, text_embeds, rates)


def _latents_fps(fps: str, num_frames: int, latent_frames: int) -> float:
    """Answers how many latent frames pass in a second; of a single frame, the rate that it has."""
    return float(Fraction(fps)) * (1.0 if num_frames == 1 else (latent_frames - 1) / (num_frames - 1))


def dit_batches(
    encoded: Encoded, batch_size: int, seed: int, rank: int = 0, world_size: int = 1
) -> tuple[Callable[[int], Iterator[DitBatch]], int]:
    """Answers the batches from a step on, and how many make an epoch; each depends on (seed, step) alone, a worker's is its share.

    A batch holds clips of one shape, `batch_size` over all workers. Every epoch shuffles the clips of each shape and the order
    of batches; a shape's last batch is filled up from the start of its shuffled clips.

    Raises:
        ValueError: the batch has fewer clips than there are workers.
    """
    check_shares(batch_size, world_size, "dit.batch_size")
    shapes = [np.array(rows) for rows in encoded.shapes.values()]
    steps_an_epoch = sum(-(-len(rows) // batch_size) for rows in shapes)

    def epoch_of(epoch: int) -> list[np.ndarray]:
        random = np.random.default_rng([seed, epoch])
        drawn = []
        for rows in shapes:
            count = -(-len(rows) // batch_size)
            drawn += np.split(np.resize(random.permutation(rows), count * batch_size), count)
        return [drawn[place] for place in random.permutation(len(drawn))]

    def batches(first: int) -> Iterator[DitBatch]:
        epoch, place = divmod(first, steps_an_epoch)
        while True:
            for rows in epoch_of(epoch)[place:]:
                places = range(batch_size)[share_of(rank, world_size)]
                yield _collate(encoded, rows[list(places)], tuple(places), batch_size)
            epoch, place = epoch + 1, 0

    return batches, steps_an_epoch


def _collate(encoded: Encoded, rows: np.ndarray, places: tuple[int, ...], whole: int) -> DitBatch:
    """Stacks clips of one shape, in float32; text is padded to the batch's longest."""
    latents = np.stack([encoded.latents[row] for row in rows]).astype(np.float32)
    embeds, mask = pad_text([torch.from_numpy(encoded.text_embeds[row].astype(np.float32)) for row in rows])
    rates = torch.tensor([encoded.latents_fps[row] for row in rows])
    return DitBatch(torch.from_numpy(latents), embeds, mask, tuple(encoded.clip_ids[row] for row in rows), rates, places, whole)


def pad_text(texts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Answers embeddings (B, S, C) of texts (S_i, C), zeros behind the shorter ones, and the mask (B, S) of their own tokens."""
    lengths = torch.tensor([len(text) for text in texts])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    return torch.nn.utils.rnn.pad_sequence(list(texts), batch_first=True), mask
