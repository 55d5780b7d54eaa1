"""What the steps of every training share."""

import logging
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from components.train.context import TrainContext
from components.train.norms import WARM_UP
from components.train.quarantine import NAME, read_quarantine
from components.train.steps import SkippedSteps, UnstableTrainingError, blamed, seed_of, tell_other_place, tell_warmup


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
    assert len(skipped.state()) == 6
    resumed.restore(skipped.state())
    assert torch.equal(resumed.state(), skipped.state())
    assert resumed.count == 1
    assert not resumed.is_whole(101, 30.0)


def test_the_only_clip_of_a_rare_shape_may_be_as_noisy_as_one_clip_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    skipped = SkippedSteps("dit", TrainContext.local(tmp_path), above=10.0)
    for step in range(WARM_UP):
        assert skipped.is_whole(step, 2.0, clips=256)
    assert skipped.is_whole(100, 16 * 2.0, torch.ones(1), ("rare",), 1)
    assert skipped.norms.mean == pytest.approx(2.0)
    usual = skipped.norms.clips
    assert usual == pytest.approx(256 - 255 / 100)
    with caplog.at_level(logging.WARNING, "kinora"):
        assert not skipped.is_whole(101, 16 * 22.0, torch.ones(1), ("rare",), 1)
        assert not skipped.is_whole(102, 22.0, torch.ones(1), ("common",), 256)
        assert not skipped.is_whole(103, math.nan, torch.ones(1), ("broken",), 1)
    assert [message.partition(", its")[0] for message in caplog.messages] == [f"step {step} is skipped" for step in (102, 103, 104)]
    assert skipped.is_whole(104, 2.0, clips=256)
    assert read_quarantine(tmp_path / NAME).keys() == {"common", "broken"}


def test_a_clip_without_a_finite_loss_in_every_step_is_accused_and_named(tmp_path: Path) -> None:
    skipped = SkippedSteps("dit", TrainContext.local(tmp_path))
    for step in range(19):
        assert not skipped.is_whole(step, math.nan, torch.tensor([0.5, 9.0, math.nan]), ("a", "b", "bad"))
    assert read_quarantine(tmp_path / NAME) == {"bad": "step 1: its loss is not finite"}
    said = (
        r"20 steps on end up to 20 had no finite gradient, and clips whose own loss is not finite: bad; "
        r"hint: another `dit\.seed` or a lower `dit\.learning_rate` begins without them"
    )
    with pytest.raises(UnstableTrainingError, match=said):
        skipped.is_whole(19, math.nan, torch.tensor([0.5, 0.5, math.nan]), ("a", "b", "bad"))


def test_weights_that_leave_most_clips_without_a_finite_loss_accuse_none(tmp_path: Path) -> None:
    skipped = SkippedSteps("dit", TrainContext.local(tmp_path))
    for step in range(19):
        assert not skipped.is_whole(step, math.nan, torch.tensor([0.5, math.inf, math.nan]), ("a", "b", "c"))
    with pytest.raises(UnstableTrainingError, match=r"had no finite gradient; hint: a lower `dit\.learning_rate`"):
        skipped.is_whole(19, math.nan, torch.tensor([math.nan]), ("d",))
    assert read_quarantine(tmp_path / NAME) == {}


def test_what_an_earlier_version_counted_is_gone_on_from() -> None:
    skipped, resumed = after_norms_of_two(), SkippedSteps("vae", above=10.0)
    resumed.restore(skipped.state()[:-1])
    assert not resumed.is_whole(100, 21.0)
    assert resumed.is_whole(101, 3.0)
    assert skipped.is_whole(101, 3.0)
    assert torch.equal(resumed.state()[2:], skipped.state()[2:])


def test_a_warm_up_that_leaves_no_steps_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    context = TrainContext.local(tmp_path)
    with caplog.at_level(logging.INFO, "kinora"):
        tell_warmup("dit", 50, 51, context)
        tell_warmup("dit", 50, 20, context)
        tell_warmup("dit", 50, 20, replace(context, rank=1, world_size=2))
    assert caplog.messages == ["`dit.warmup_steps` of 50 leaves none of 20 steps at the full rate, so it is 2"]


def test_other_threads_or_workers_than_a_checkpoints_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    context = TrainContext.local(tmp_path, threads=2)
    with caplog.at_level(logging.INFO, "kinora"):
        tell_other_place(5, {"threads": 2, "world_size": 1}, context)
        tell_other_place(5, {"threads": 2}, context)
        tell_other_place(5, {"threads": 4}, context)
        tell_other_place(6, {"threads": 1, "world_size": 3}, context)
    ends = "its results are equal up to rounding, not bit for bit"
    assert caplog.messages == [
        f"it goes on from step 5 with threads 2 in place of 4: {ends}",
        f"it goes on from step 6 with threads 2 in place of 1 and workers 1 in place of 3: {ends}",
    ]


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
