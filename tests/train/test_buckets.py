import itertools
import re
from dataclasses import replace

import numpy as np
import pytest

from components.train.buckets import Filling, Shapes, Step, first_epoch, steps_of

RANDOM = np.random.default_rng(0)
KINDS = {(4, 1, 2, 2): 1, (4, 3, 2, 2): 3, (4, 3, 4, 4): 12}  # tokens of each
ROWS = [list(KINDS)[kind] for kind in RANDOM.integers(0, 3, 200)]
TOKENS = [KINDS[shape] for shape in ROWS]
SHAPES = {shape: [row for row, of_row in enumerate(ROWS) if of_row == shape] for shape in KINDS}


def epoch(filling: Filling, tokens: list[int] = TOKENS, shapes: Shapes = SHAPES) -> list[Step]:
    return list(itertools.islice(steps_of(filling, tokens, shapes, 5, 0), first_epoch(filling, tokens, shapes, 5).steps))


def many_and_few(many: int, few: int, of_many: int, of_few: int) -> tuple[list[int], Shapes]:
    """The tokens of each of many clips of one shape and of few of another, and the rows of both."""
    return [of_many] * many + [of_few] * few, {(1, 2, 2): range(many), (1, 1, 1): range(many, many + few)}


@pytest.mark.parametrize("filling", [Filling(16), Filling(16, 48), Filling(16, 48, packed=True), Filling(16, 48, True, world_size=3)])
def test_an_epoch_shows_every_clip_and_no_step_is_over_the_budget(filling):
    steps = epoch(filling)
    assert {int(row) for step in steps for row in step.rows} == set(range(200))
    for step in steps:
        assert sum(TOKENS[row] for row in step.rows) <= (filling.tokens or 16 * 12)
        assert sorted(place for places in step.places for place in places) == list(range(len(step.rows)))


def test_a_budget_holds_more_of_the_smaller_clips():
    sizes = [(ROWS[step.rows[0]], len(step.rows)) for step in epoch(Filling(1, tokens=48))]
    for shape, rows in SHAPES.items():
        found, most = sorted(count for other, count in sizes if other == shape), 48 // KINDS[shape]
        assert sum(found) == len(rows)
        assert len(found) == -(-len(rows) // most)
        assert set(found[2:]) <= {most}
        assert most >= found[-1] >= found[0] >= most // 2


@pytest.mark.parametrize(
    ("clips", "sizes"),
    [(65, [32, 33]), (128, [64, 64]), (7, [7]), (64, [64]), (130, [33, 33, 64]), (96, [32, 64]), (95, [47, 48]), (127, [63, 64])],
)
def test_what_is_left_of_a_shape_is_shared_out_among_its_steps(clips, sizes):
    filling, shapes = Filling(1, tokens=64 * 4), {(1, 2, 2): range(clips)}
    steps = epoch(filling, [4] * clips, shapes)
    assert sorted(len(step.rows) for step in steps) == sizes
    random = np.random.default_rng([5, 0])
    order = random.permutation(clips).tolist()
    place = {clip: number for number, clip in enumerate(order)}
    starts = sorted(place[int(step.rows[0])] for step in steps)
    assert [row for start in starts for step in steps if place[int(step.rows[0])] == start for row in step.rows.tolist()] == order
    alike = epoch(replace(filling, world_size=3), [4] * clips, shapes)
    assert [step.rows.tolist() for step in alike] == [step.rows.tolist() for step in steps]
    found = first_epoch(filling, [4] * clips, shapes, 5)
    assert (found.steps, found.seen_again) == (len(sizes), 0.0)
    assert found.unfilled == pytest.approx(1 - clips / (64 * len(sizes)))


@pytest.mark.parametrize("filling", [Filling(1, tokens=20_000), Filling(1, tokens=20_000, packed=True)])
def test_an_epoch_within_a_budget_shows_every_clip_once_however_rare_its_shape_is(filling):
    tokens, shapes = many_and_few(4000, 5, 1000, 16)
    seen = np.concatenate([step.rows for step in epoch(filling, tokens, shapes)])
    assert sorted(seen) == list(range(4005))
    assert first_epoch(filling, tokens, shapes, 5).seen_again == 0.0


def test_batches_of_a_number_of_clips_are_filled_up_only_where_no_clip_comes_more_than_twice():
    tokens, shapes = many_and_few(40, 1, 4, 1)
    rare, *common = sorted((step.rows for step in epoch(Filling(32), tokens, shapes)), key=len)
    assert rare.tolist() == [40]
    assert [len(rows) for rows in common] == [32, 32]
    assert np.bincount(np.concatenate(common)).tolist().count(2) == 24
    found = first_epoch(Filling(32), tokens, shapes, 5)
    assert found.seen_again == pytest.approx(24 * 4 / (64 * 4 + 1))
    assert found.unfilled == pytest.approx(31 / (64 * 4 + 32))


def test_clips_of_one_shape_come_as_a_shuffle_has_them_and_only_an_epochs_last_batch_is_filled_up():
    random = np.random.default_rng([5, 0])
    order = random.permutation(70)
    batches = np.resize(order, 96).reshape(3, 32)[random.permutation(3)]
    steps = epoch(Filling(32), [4] * 70, {(1, 2, 2): range(70)})
    assert [step.rows.tolist() for step in steps] == batches.tolist()


def test_packed_steps_are_nearly_full_and_workers_hold_alike():
    filling = Filling(1, tokens=120, packed=True, world_size=2)
    assert first_epoch(filling, TOKENS, SHAPES, 5).unfilled < 0.1
    for step in epoch(filling):
        loads = [sum(TOKENS[step.rows[place]] for place in places) for places in step.places]
        assert max(loads) - min(loads) <= 12


def test_packed_clips_of_one_shape_lie_side_by_side_although_others_have_as_many_tokens():
    shapes = {(13, 60, 104): range(0, 40, 2), (13, 104, 60): range(1, 40, 2)}
    for world_size in (1, 2, 3):
        for step in epoch(Filling(1, tokens=160, packed=True, world_size=world_size), [16] * 40, shapes):
            for places in step.places:
                kinds = (step.rows[places] % 2).tolist()
                assert kinds == sorted(kinds)


@pytest.mark.parametrize("filling", [Filling(2), Filling(1, tokens=32), Filling(1, tokens=32, packed=True)])
@pytest.mark.parametrize("world_size", [2, 3])
def test_steps_are_the_same_for_any_number_of_workers_also_the_last_with_fewer_clips(filling, world_size):
    tokens, shapes = many_and_few(6, 1, 16, 16)
    alone, shared = (epoch(each, tokens, shapes) for each in (filling, replace(filling, world_size=world_size)))
    assert [step.rows.tolist() for step in shared] == [step.rows.tolist() for step in alone]
    assert any(len(step.rows) < world_size for step in shared)
    for step in shared:
        assert sorted(place for places in step.places for place in places) == list(range(len(step.rows)))


def test_what_stays_empty_is_what_is_not_in_the_steps():
    for filling in (Filling(1, tokens=50), Filling(1, tokens=50, packed=True)):
        steps = epoch(filling)
        held = sum(TOKENS[row] for step in steps for row in step.rows)
        assert first_epoch(filling, TOKENS, SHAPES, 5).unfilled == pytest.approx(1 - held / (50 * len(steps)))


@pytest.mark.parametrize("packed", [False, True])
def test_workers_wait_for_the_one_that_has_most(packed):
    shares = Filling(1, tokens=8000, packed=packed, world_size=8)
    found = first_epoch(shares, [888] * 90, {(1, 2, 2): range(90)}, 5)
    assert (found.steps, found.unfilled) == (10, pytest.approx(1 - 9 * 888 / 8000))
    assert found.waiting == pytest.approx(1 - 9 / 16)
    assert first_epoch(replace(shares, world_size=3), [888] * 90, {(1, 2, 2): range(90)}, 5).waiting == pytest.approx(0.0)


@pytest.mark.parametrize("filling", [Filling(16), Filling(16, 48, packed=True)])
def test_a_later_start_goes_on_with_the_same_steps_across_epochs(filling):
    whole = list(itertools.islice(steps_of(filling, TOKENS, SHAPES, 5, 0), 120))
    for first in (1, 37, 90):
        later = itertools.islice(steps_of(filling, TOKENS, SHAPES, 5, first), 5)
        assert all(np.array_equal(one.rows, other.rows) for one, other in zip(later, whole[first:], strict=False))


@pytest.mark.parametrize(
    ("filling", "sentence"),
    [
        (Filling(4, world_size=5), "`dit.batch_size` of 4 leaves some of 5 workers without a clip; hint: `--set dit.batch_size=5`"),
        (
            Filling(4, tokens=11),
            "`dit.tokens_per_batch` of 11 leaves it without a clip, the largest of which has 12 tokens; hint: `--set dit.tok",
        ),
        (Filling(4, tokens=20, world_size=2), "hint: `--set dit.tokens_per_batch=24`"),
        (Filling(4, packed=True), "`dit.packing` fills a budget; hint: `--set dit.tokens_per_batch=N`"),
    ],
)
def test_steps_that_leave_a_worker_with_nothing_are_refused(filling, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        filling.check(12)
