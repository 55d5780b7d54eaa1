import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from components.store import tables
from components.store.project import Project
from components.train.buckets import Filling
from components.train.dit_batches import Encoded, dit_batches, pad_text, places_of_a_step, read_encoded, read_held_out

PATCH = (1, 2, 2)
SHAPES = [(4, 3, 2, 2)] * 10 + [(4, 1, 2, 2)] * 3
ENCODED = Encoded(
    tuple(f"clip{row:02}" for row in range(13)),
    [np.full(shape, row, np.float16) for row, shape in enumerate(SHAPES)],
    [np.full((3 + row % 2, 5), row, np.float16) for row in range(13)],
    [1.0 + row for row in range(13)],
)


FOUR = Filling(4)


def names(first: int, count: int, filling: Filling = FOUR, rank: int = 0) -> list[tuple[str, ...]]:
    batches, _ = dit_batches(ENCODED, filling, PATCH, 3, rank)
    return [batch.clip_ids for batch in itertools.islice(batches(first), count)]


def test_an_epoch_shows_every_clip_and_batches_hold_one_shape():
    batches, steps_an_epoch = dit_batches(ENCODED, Filling(4), PATCH, 3)
    epoch = list(itertools.islice(batches(0), steps_an_epoch))
    assert steps_an_epoch == 4
    assert {name for batch in epoch for name in batch.clip_ids} == set(ENCODED.clip_ids)
    for batch in epoch:
        rows = [ENCODED.clip_ids.index(name) for name in batch.clip_ids]
        assert len(rows) == (4 if rows[0] < 10 else 3)
        assert batch.latents.shape[1:] == SHAPES[rows[0]]
        assert batch.latents.dtype == batch.text_embeds.dtype == torch.float16  # half of what a GPU would be sent else
        assert batch.latents[:, 0, 0, 0, 0].tolist() == rows
        assert batch.text_embeds[:, 0, 0].tolist() == rows
        assert batch.latents_fps.tolist() == [1.0 + row for row in rows]
        assert batch.text_mask.sum(1).tolist() == [3 + row % 2 for row in rows]


def test_a_later_start_gives_the_same_batches_and_epochs_differ():
    whole = names(0, 12)
    assert names(7, 5) == whole[7:]
    assert whole[:4] != whole[4:8]


@pytest.mark.parametrize("filling", [Filling(4), Filling(4, tokens=12), Filling(4, tokens=12, packed=True)])
@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_workers_share_each_step_and_its_clips_do_not_depend_on_how_many_they_are(world_size: int, filling: Filling):
    together = names(0, 12, filling)
    apart = []
    for rank in range(world_size):
        batches, _ = dit_batches(ENCODED, replace(filling, world_size=world_size), PATCH, 3, rank)
        apart.append(list(itertools.islice(batches(0), 12)))
    for step, *shares in zip(together, *apart, strict=True):
        assert sorted(step) == sorted(name for share in shares if not share.idle for name in share.clip_ids)
        assert all(share.clip_ids and set(share.clip_ids) <= set(step) and share.whole == len(step) for share in shares)
        assert sum(share.idle for share in shares) == max(0, world_size - len(step))
    assert world_size < 4 or min(map(len, together)) < 4  # a step of what is left


def test_what_a_training_says_of_its_steps_is_what_they_are(caplog: pytest.LogCaptureFixture):
    with caplog.at_level("INFO", "kinora"):
        dit_batches(ENCODED, Filling(4, tokens=12, world_size=2), (2, 2, 2), 3)
    (said,) = caplog.messages
    assert "36.1 % of the steps' room stays unused; 0.0 % of tokens are of clips seen before, 28.3 % padding; workers wait 4.2 %" in said


def test_a_worker_knows_the_places_of_its_clips_among_all():
    for filling in (Filling(5, world_size=2), Filling(1, tokens=15, packed=True, world_size=2)):
        whole = names(0, 4, replace(filling, world_size=1))
        for rank in range(2):
            batches, _ = dit_batches(ENCODED, filling, PATCH, 3, rank)
            for names_of_all, batch in zip(whole, batches(0), strict=False):
                alone = {batch.places[place]: name for place, name in enumerate(batch.clip_ids)}
                assert batch.whole == len(names_of_all)
                if not filling.packed:
                    assert all(names_of_all[place] == name for place, name in alone.items())


def test_packed_clips_keep_their_shapes_and_those_of_one_lie_side_by_side():
    batches, _ = dit_batches(ENCODED, Filling(1, tokens=13, packed=True), PATCH, 3)
    for batch in itertools.islice(batches(0), 6):
        rows = [ENCODED.clip_ids.index(name) for name in batch.clip_ids]
        assert [tuple(latents.shape) for latents in batch.latents] == [SHAPES[row] for row in rows]
        assert [latents[0, 0, 0, 0].item() for latents in batch.latents] == rows
        assert len(list(itertools.groupby(SHAPES[row] for row in rows))) == len({SHAPES[row] for row in rows})


def test_text_is_padded_behind():
    embeds, mask = pad_text([torch.ones(2, 3), torch.ones(4, 3)])
    assert embeds.sum(dim=(1, 2)).tolist() == [6, 12]
    assert mask.tolist() == [[True, True, False, False], [True] * 4]


@pytest.mark.parametrize("filling", [Filling(4), Filling(4, tokens=12, packed=True)])
def test_clips_that_stay_on_disk_make_the_batches_that_clips_in_memory_make(filling: Filling, tmp_path):
    project = Project(tmp_path, "demo")
    shared = {"num_frames": 9, "fps": "8", "split": "train", "keep": True}
    tables.clips(project).append(
        [
            {"clip_id": name, "latents": latents, "latents_shape": latents.shape, "text_embeds": text, "text_shape": text.shape, **shared}
            for name, latents, text in zip(ENCODED.clip_ids, ENCODED.latents, ENCODED.text_embeds, strict=True)
        ]
    )
    held, stored = read_encoded(project), read_encoded(project, most=100)
    assert stored.is_stored
    assert not held.is_stored
    assert (held.clip_ids, held.latents_fps, held.shapes) == (stored.clip_ids, stored.latents_fps, stored.shapes)
    for first, rank in ((0, 0), (5, 1)):
        shared = replace(filling, world_size=1 + rank)
        of_both = [dit_batches(encoded, shared, PATCH, 3, rank)[0](first) for encoded in (held, stored)]
        for expected, found in itertools.islice(zip(*of_both, strict=True), 12):
            for name, value in vars(expected).items():
                if name == "latents":
                    assert all(map(torch.equal, found.latents, value))
                else:
                    assert torch.equal(getattr(found, name), value) if isinstance(value, torch.Tensor) else getattr(found, name) == value


@pytest.mark.parametrize(
    ("filling", "tokens"),
    [
        (Filling(4), 4 * 4),
        (Filling(4, world_size=3), 16 // 3),
        (Filling(9), 5 * 4),  # no shape has more clips
        (Filling(1, tokens=9), 2 * 4),
        (Filling(1, tokens=9, packed=True), 9),
        (Filling(1, tokens=900, packed=True), 5 * 4 + 2),
    ],
)
def test_a_worker_has_so_many_places_of_the_largest_step(filling, tokens):
    latents = [np.zeros((4, 1, 4, 4), np.float16)] * 5 + [np.zeros((4, 1, 2, 4), np.float16)]
    encoded = Encoded(tuple("abcdef"), latents, [np.zeros((3, 8), np.float16)] * 6, [2.0] * 6)
    assert places_of_a_step(encoded, filling, (1, 2, 2)) == 4 * tokens


def test_what_is_held_out_is_never_learned_from(tmp_path):
    project = Project(tmp_path, "demo")
    rows = []
    for number, split in enumerate(["train", "val", "test", "val", "train", "val", "val"]):
        latents, text = np.full((4, 3, 2, 2), number, np.float16), np.full((3, 5), number, np.float16)
        row = {"clip_id": f"clip{number}", "num_frames": 9, "fps": "8", "split": split, "keep": number != 6}
        encoded = {"latents": latents, "latents_shape": list(latents.shape), "text_embeds": text, "text_shape": list(text.shape)}
        rows.append(row if number == 5 else row | encoded)  # the last one but one waits for its encoding
    tables.clips(project).append(rows)
    held_out = read_held_out(project, 4)
    assert [clip.clip_id for clip in held_out] == ["clip1", "clip3"]
    assert read_encoded(project).clip_ids == ("clip0", "clip4")
    for clip, number in zip(held_out, (1.0, 3.0), strict=True):
        assert torch.equal(clip.latents, torch.full((4, 3, 2, 2), number))
        assert torch.equal(clip.text_embeds, torch.full((3, 5), number))
        assert clip.latents_fps == 2.0
    assert [clip.clip_id for clip in read_held_out(project, 1)] == ["clip1"]
    extra = rows[1] | {"split": "val", "keep": True}
    tables.clips(project).append([extra | {"clip_id": f"later{number}"} for number in range(5)])
    assert [clip.clip_id for clip in read_held_out(project, 4)] == ["clip1", "later0", "later2", "later4"], "as far as the last"
    assert read_held_out(Project(tmp_path, "another"), 4) == []


def test_clips_that_are_lifted_out_of_quarantine_stand_where_they_stood(tmp_path):
    project = Project(tmp_path, "demo")
    whole = np.zeros((4, 3, 2, 2), np.float16)
    row = {"num_frames": 9, "fps": "8", "split": "train", "keep": True, "latents": whole, "latents_shape": [4, 3, 2, 2]}
    row |= {"text_embeds": np.zeros((3, 5), np.float16), "text_shape": [3, 5]}
    tables.clips(project).append([row | {"clip_id": f"clip{number:02}"} for number in range(20)])
    version = tables.clips(project).version
    aside = [{"clip_id": f"clip{number:02}", "quarantine": "train_dit, step 3: its gradient"} for number in (4, 11, 12)]
    tables.clips(project).update(aside)

    def order(pinned: Project) -> list[tuple[str, ...]]:
        batches, _ = dit_batches(read_encoded(pinned), FOUR, PATCH, 3)
        return [batch.clip_ids for batch in itertools.islice(batches(3), 7)]

    now = replace(project, clips_version=tables.clips(project).version)
    assert order(replace(now, clips_lifted=("clip04", "clip11", "clip12"))) == order(replace(project, clips_version=version))
    assert len(read_encoded(replace(now, clips_lifted=("clip11",))).clip_ids) == 18
    assert len(read_encoded(now).clip_ids) == 17
