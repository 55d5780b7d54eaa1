"""What the steps of every training share."""

import logging
import math
from pathlib import Path

import pytest
import torch

from components.train.context import TrainContext
from components.train.norms import WARM_UP
from components.train.quarantine import NAME, read_quarantine
from components.train.steps import SkippedSteps, UnstableTrainingError, blamed, seed_of


def test_no_two_steps_share_a_seed() -> None:
    seeds = {seed_of(seed, step) for seed in range(4) for step in range(2000)}
    assert len(seeds) == 4 * 2000
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_only_the_clips_whose_loss_is_not_finite_are_named(caplog: pytest.LogCaptureFixture) -> None:
    skipped = SkippedSteps("dit")
    with caplog.at_level(logging.WARNING, "kinora"):
        assert not skipped.is_whole(6, math.nan, torch.tensor([0.5, math.inf, math.nan]), ("a", "b", "c"))
        assert not skipped.is_whole(7, math.inf, torch.tensor([0.5, 0.5]), ("d", "e"))
    assert [record.getMessage().rpartition(": ")[2] for record in caplog.records] == ["b, c", "d, e"]
    assert skipped.is_whole(8, 3.0)
    assert skipped.count == 2


def test_it_gives_up_only_when_no_good_step_comes_between() -> None:
    skipped = SkippedSteps("dit")
    for step in range(101):
        skipped.is_whole(step, math.nan if step % 10 else 1.0)
    assert skipped.count == 90
    for step in range(101, 120):
        skipped.is_whole(step, math.nan)
    with pytest.raises(
        UnstableTrainingError, match=r"20 steps on end up to 121 had no finite gradient; hint: a lower `dit\.learning_rate`"
    ):
        skipped.is_whole(120, math.nan)
    assert skipped.count == 110


def after_norms_of_two(**options: object) -> SkippedSteps:
    skipped = SkippedSteps("vae", above=10.0, **options)  # type: ignore[arg-type]
    assert all(skipped.is_whole(step, 2.0) for step in range(WARM_UP))
    return skipped


def test_a_gradient_far_longer_than_they_were_is_not_followed(caplog: pytest.LogCaptureFixture) -> None:
    skipped = after_norms_of_two()
    assert skipped.is_whole(100, 19.0)
    with caplog.at_level(logging.WARNING, "kinora"):
        assert not skipped.is_whole(101, 86.0, torch.tensor([0.5, 0.4, 9.0, 0.6]), ("a", "b", "c", "d"))
    mean = 2.0 + 17.0 / 100  # the longest but one is a hundredth of it by now
    assert caplog.messages == [f"step 102 is skipped, its gradient is {86 / mean:.0f} times the usual; clips: c"]
    assert SkippedSteps("dit").is_whole(0, 1e9)
    assert after_norms_of_two().is_whole(100, 20.0)


def test_nothing_is_out_of_range_before_norms_are_known() -> None:
    skipped = SkippedSteps("vae", above=10.0)
    assert all(skipped.is_whole(step, norm) for step, norm in enumerate([0.1, 50.0, 1.0]))


def test_only_gradients_out_of_range_on_end_are_said_when_it_gives_up() -> None:
    skipped = after_norms_of_two()
    for step in range(100, 119):
        assert not skipped.is_whole(step, 50.0)
    with pytest.raises(UnstableTrainingError, match="20 steps on end up to 120 had a gradient far out of range; hint: a lower `vae"):
        skipped.is_whole(119, 50.0)


def test_a_resumed_count_judges_as_the_one_before(tmp_path: Path) -> None:
    skipped, resumed = after_norms_of_two(), SkippedSteps("vae", above=10.0)
    skipped.is_whole(100, math.nan)
    resumed.restore(skipped.state())
    assert torch.equal(resumed.state(), skipped.state())
    assert resumed.count == 1
    assert not resumed.is_whole(101, 30.0)


@pytest.mark.parametrize(
    ("losses", "names"),
    [
        ([0.1, math.nan, 0.2, math.inf], "bd"),
        ([0.1, 0.2, 0.1, 0.6], "d"),
        ([0.1, 0.2, 0.1, 0.4], "abcd"),
        ([math.nan] * 4, "abcd"),
        ([0.1, 5.0, 0.2, math.nan], "bd"),
    ],
)
def test_the_clips_out_of_line_are_blamed_and_all_where_none_is(losses: list[float], names: str) -> None:
    assert blamed(list(zip("abcd", losses, strict=True))) == list(names)


def test_a_clip_that_fills_up_a_batch_is_blamed_once(tmp_path: Path) -> None:
    skipped = SkippedSteps("vae", TrainContext.local(tmp_path))
    skipped.is_whole(6, math.inf, torch.tensor([1.0, 1.0, 1.0]), ("a", "b", "a"))
    assert read_quarantine(tmp_path / NAME) == {}, "it may be the weights"
    skipped.is_whole(7, 1.0, torch.ones(1), ("c",))
    assert read_quarantine(tmp_path / NAME) == dict.fromkeys("ab", "step 7: its gradient is not finite")


def test_a_training_that_goes_on_after_a_skipped_step_still_accuses_its_clips(tmp_path: Path) -> None:
    skipped, resumed = (SkippedSteps("vae", TrainContext.local(tmp_path)) for _ in range(2))
    skipped.is_whole(6, math.nan, torch.ones(1), ("a",))
    resumed.restore(skipped.state())
    assert resumed.is_whole(7, 1.0, torch.ones(1), ("b",))
    assert resumed.is_whole(8, 1.0, torch.ones(1), ("c",))
    assert read_quarantine(tmp_path / NAME).keys() == {"a"}
    assert len((tmp_path / NAME).read_text().splitlines()) == 2
