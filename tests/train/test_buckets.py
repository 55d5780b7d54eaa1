import itertools
import re

import numpy as np
import pytest

from components.train.buckets import Filling, steps_an_epoch, steps_of, unfilled

RANDOM = np.random.default_rng(0)
KINDS = {(4, 1, 2, 2): 1, (4, 3, 2, 2): 3, (4, 3, 4, 4): 12}  # tokens of each
ROWS = [list(KINDS)[kind] for kind in RANDOM.integers(0, 3, 200)]
TOKENS = [KINDS[shape] for shape in ROWS]
SHAPES = {shape: [row for row, of_row in enumerate(ROWS) if of_row == shape] for shape in KINDS}


def epoch(filling: Filling, first: int = 0) -> list:
    return list(itertools.islice(steps_of(filling, TOKENS, SHAPES, 5, first), steps_an_epoch(filling, TOKENS, SHAPES, 5)))


@pytest.mark.parametrize("filling", [Filling(16), Filling(16, 48), Filling(16, 48, packed=True), Filling(16, 48, True, world_size=3)])
def test_an_epoch_shows_every_clip_and_no_step_is_over_the_budget(filling):
    steps = epoch(filling)
    assert {int(row) for step in steps for row in step.rows} == set(range(200))
    for step in steps:
        assert sum(TOKENS[row] for row in step.rows) <= (filling.tokens or 16 * 12)
        assert sorted(place for places in step.places for place in places) == list(range(len(step.rows)))


def test_a_budget_holds_more_of_the_smaller_clips():
    sizes = {(ROWS[step.rows[0]], len(step.rows)) for step in epoch(Filling(1, tokens=48))}
    assert sizes == {((4, 1, 2, 2), 48), ((4, 3, 2, 2), 16), ((4, 3, 4, 4), 4)}


def test_packed_steps_are_nearly_full_and_workers_hold_alike():
    filling = Filling(1, tokens=120, packed=True, world_size=2)
    assert unfilled(filling, TOKENS, SHAPES, 5) < 0.1
    for step in epoch(filling):
        loads = [sum(TOKENS[step.rows[place]] for place in places) for places in step.places]
        assert max(loads) - min(loads) <= 12


def test_what_stays_empty_is_what_is_not_in_the_steps():
    for filling in (Filling(1, tokens=50), Filling(1, tokens=50, packed=True)):
        steps = epoch(filling)
        held = sum(TOKENS[row] for step in steps for row in step.rows)
        assert unfilled(filling, TOKENS, SHAPES, 5) == pytest.approx(1 - held / (50 * len(steps)))
    assert unfilled(Filling(16), TOKENS, SHAPES, 5) == 0.0


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
