import itertools

import numpy as np
import pytest
import torch

from components.train.dit_batches import Encoded, dit_batches, pad_text

SHAPES = [(4, 3, 2, 2)] * 10 + [(4, 1, 2, 2)] * 3
ENCODED = Encoded(
    tuple(f"clip{row:02}" for row in range(13)),
    [np.full(shape, row, np.float16) for row, shape in enumerate(SHAPES)],
    [np.full((3 + row % 2, 5), row, np.float16) for row in range(13)],
    [1.0 + row for row in range(13)],
)


def names(first: int, count: int, **kwargs) -> list[tuple[str, ...]]:
    batches, _ = dit_batches(ENCODED, 4, seed=3, **kwargs)
    return [batch.clip_ids for batch in itertools.islice(batches(first), count)]


def test_an_epoch_shows_every_clip_and_batches_hold_one_shape():
    batches, steps_an_epoch = dit_batches(ENCODED, 4, seed=3)
    epoch = list(itertools.islice(batches(0), steps_an_epoch))
    assert steps_an_epoch == 4
    assert {name for batch in epoch for name in batch.clip_ids} == set(ENCODED.clip_ids)
    for batch in epoch:
        rows = [ENCODED.clip_ids.index(name) for name in batch.clip_ids]
        assert len(rows) == 4
        assert batch.latents.shape[1:] == SHAPES[rows[0]]
        assert batch.latents[:, 0, 0, 0, 0].tolist() == rows
        assert batch.text_embeds[:, 0, 0].tolist() == rows
        assert batch.latents_fps.tolist() == [1.0 + row for row in rows]
        assert batch.text_mask.sum(1).tolist() == [3 + row % 2 for row in rows]


def test_a_later_start_gives_the_same_batches_and_epochs_differ():
    whole = names(0, 12)
    assert names(7, 5) == whole[7:]
    assert whole[:4] != whole[4:8]


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_workers_share_each_batch_whether_it_divides_or_not(world_size: int):
    together, apart = names(0, 6), [names(0, 6, rank=rank, world_size=world_size) for rank in range(world_size)]
    for step in range(6):
        assert sorted(together[step]) == sorted(name for part in apart for name in part[step])
        assert max(len(part[step]) for part in apart) - min(len(part[step]) for part in apart) <= 1


def test_a_batch_with_too_few_clips_for_the_workers_is_refused():
    with pytest.raises(ValueError, match=r"`dit.batch_size` of 4 leaves some of 5 workers without a clip; hint: .*dit.batch_size=5"):
        dit_batches(ENCODED, 4, seed=0, world_size=5)


def test_text_is_padded_behind():
    embeds, mask = pad_text([torch.ones(2, 3), torch.ones(4, 3)])
    assert embeds.sum(dim=(1, 2)).tolist() == [6, 12]
    assert mask.tolist() == [[True, True, False, False], [True] * 4]
