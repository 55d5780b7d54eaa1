"""What the steps of every training share."""

import logging
import math

import pytest
import torch

from components.train.steps import SkippedSteps, UnstableTrainingError, mixed_precision, seed_of


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


def test_a_cpu_computes_in_float32() -> None:
    with mixed_precision("cpu"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
