"""What the video VAE learns from and is measured by: clips of the table, decoded when their turn comes."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import torch

from components.media.read import decode_clip
from components.store.filters import TRAINING, VALIDATION
from components.store.tables import Table, clips
from components.train.shares import check_shares, share_of
from components.train.vae_loop import ClipBatch

if TYPE_CHECKING:
    from components.store.project import Project

BATCHES_READ_AT_ONCE = 32
CLIPS_AT_ONCE = 16
SCARCE = 8  # videos are next to none where so many times as many would not make a sample

Shape = tuple[int, int, int]  # frames, height, width


def training_clips(project: "Project") -> dict[Shape, list[str]]:
    """Answers the ids of the training split's clips by their shape, the most frequent shape first.

    Raises:
        ValueError: there are none.
    """
    found = _by_shape(clips(project), TRAINING)
    if not found:
        raise ValueError("no clip is left to train the video VAE on; hint: `kinora show funnel` says why clips were dropped")
    return found


def vae_batches(
    project: "Project", shapes: dict[Shape, list[str]], batch_size: int, seed: int, rank: int = 0, world_size: int = 1
) -> Callable[[int], Iterator[ClipBatch]]:
    """Answers the batches from a step on; each depends on (seed, step) alone, a worker's is its share.

    A batch holds clips of one shape, `batch_size` over all workers. Every epoch shuffles the clips of each shape and the order of
    batches; a shape's last batch is filled up from the start of its shuffled clips.

    Raises:
        ValueError: the batch has fewer clips than there are workers.
    """
    check_shares(batch_size, world_size, "vae.batch_size")

    def drawn(first: int) -> Iterator[list[str]]:
        counts = [-(-len(ids) // batch_size) for ids in shapes.values()]
        epoch, place = divmod(first, sum(counts))
        while True:
            random = np.random.default_rng([seed, epoch])
            batches = []
            for ids, count in zip(shapes.values(), counts, strict=True):
                batches += np.split(np.resize(random.permutation(ids), count * batch_size), count)
            for number in random.permutation(len(batches))[place:]:
                yield batches[number].tolist()[share_of(rank, world_size)]
            epoch, place = epoch + 1, 0

    return lambda first: _decoded(clips(project), drawn(first), batch_size)


def sample_of(project: "Project", shapes: dict[Shape, list[str]], count: int) -> Iterator[ClipBatch]:
    """Answers about `count` clips of one shape, evenly spread over their ids, in small batches.

    It is the most frequent shape of several frames, whose first frames stand for images too, unless there are next to none of it.
    """
    commonest = next(iter(shapes.values()))
    moving = next((ids for (frames, _, _), ids in shapes.items() if frames > 1), [])
    ids = moving if len(moving) * SCARCE >= min(count, len(commonest)) else commonest
    spread = ids[:: max(1, len(ids) // count)][:count]
    return _decoded(clips(project), iter(_parts(spread)))


def held_out(project: "Project", count: int) -> list[ClipBatch]:
    """Reads at most `count` clips of the validation split, in small batches of one shape."""
    table, batches, left = clips(project), [], count
    for ids in _by_shape(table, VALIDATION).values():
        batches += _parts(ids[:left])
        left -= min(left, len(ids))
    return list(_decoded(table, iter(batches)))


def _parts(ids: list[str]) -> list[list[str]]:
    return [ids[at : at + CLIPS_AT_ONCE] for at in range(0, len(ids), CLIPS_AT_ONCE)]


def _by_shape(table: Table, where: str) -> dict[Shape, list[str]]:
    found: dict[Shape, list[str]] = defaultdict(list)
    for row in table.read(["clip_id", "num_frames", "height", "width"], where):
        found[row["num_frames"], row["height"], row["width"]].append(row["clip_id"])
    return dict(sorted(found.items(), key=lambda item: (-len(item[1]), item[0])))


def _decoded(table: Table, batches: Iterator[Sequence[str]], whole: int | None = None) -> Iterator[ClipBatch]:
    """Reads the bytes of some batches at once and decodes each batch when it is asked for."""
    while window := list(islice(batches, BATCHES_READ_AT_ONCE)):
        keys = sorted({key for batch in window for key in batch})
        videos = dict(table.read_blobs("video", keys))
        for batch in window:
            yield ClipBatch(torch.from_numpy(np.stack([decode_clip(videos[key]) for key in batch])), tuple(batch), whole)
