"""Norms of late, and how long a gradient may be by them."""

import math
import random
from statistics import fmean, pvariance

import pytest
import torch

from components.train.norms import DECAY, WARM_UP, AdaptiveClip, RunningNorm
from components.train.optim import clip_gradients


def test_the_first_norms_weigh_alike() -> None:
    norms, drawn = RunningNorm(), [random.Random(0).uniform(0.5, 3.0) for _ in range(WARM_UP)]
    for norm in drawn:
        norms.add(norm)
    assert norms.mean == pytest.approx(fmean(drawn))
    assert norms.variance == pytest.approx(pvariance(drawn))


def test_later_norms_weigh_by_their_age() -> None:
    norms, drawn = RunningNorm(), [random.Random(1).uniform(0.5, 3.0) for _ in range(WARM_UP + 250)]
    for norm in drawn:
        norms.add(norm)
    early = [DECAY**250 / WARM_UP] * WARM_UP
    weights = early + [(1 - DECAY) * DECAY**age for age in range(249, -1, -1)]
    assert sum(weights) == pytest.approx(1.0)
    mean = sum(weight * norm for weight, norm in zip(weights, drawn, strict=True))
    assert norms.mean == pytest.approx(mean)
    assert norms.variance == pytest.approx(sum(weight * (norm - mean) ** 2 for weight, norm in zip(weights, drawn, strict=True)))


def test_a_gradient_is_cut_to_three_deviations_above_the_mean_and_teaches_nothing_there() -> None:
    clip, drawn = AdaptiveClip(100.0, adapts=True), [random.Random(2).uniform(0.5, 1.5) for _ in range(WARM_UP)]
    assert clip.ceiling() == 100.0
    for norm in drawn:
        clip.add(norm)
    usual = fmean(drawn) + 3 * math.sqrt(pvariance(drawn))
    assert clip.ceiling() == pytest.approx(usual)
    clip.add(usual + 1.0)
    assert clip.ceiling() == pytest.approx(usual)
    parameter = torch.nn.Parameter(torch.zeros(4))
    parameter.grad = torch.full((4,), 30.0)
    assert clip_gradients([parameter], clip.ceiling()) == pytest.approx(60.0)
    assert parameter.grad.norm().item() == pytest.approx(usual, rel=1e-5)
    clip.add(usual - 0.5)
    assert clip.ceiling() != pytest.approx(usual, rel=1e-6)


def test_what_is_set_is_the_most_whether_it_adapts_or_not() -> None:
    for adapts in (True, False):
        clip = AdaptiveClip(1.0, adapts)
        for norm in range(2 * WARM_UP):
            clip.add(5.0 + norm % 3)
        assert clip.ceiling() == 1.0


def test_a_restored_one_goes_on_to_the_bit() -> None:
    norms, restored = RunningNorm(), RunningNorm()
    for number in range(130):
        norms.add(math.sin(number) ** 2, 3 + number % 5)
    restored.restore(norms.state())
    for one in (norms, restored):
        one.add(1 / 3, 2)
    assert torch.equal(norms.state(), restored.state())


def test_where_all_steps_have_as_many_clips_their_number_changes_no_bit() -> None:
    alone, many = AdaptiveClip(100.0, adapts=True), AdaptiveClip(100.0, adapts=True)
    for number in range(150):
        norm = 0.1 + math.sin(number) ** 2
        alone.add(norm)
        many.add(norm, 37)
        assert alone.ceiling() == many.ceiling(37)
    assert torch.equal(alone.norms.state()[:3], many.norms.state()[:3])


def test_a_norm_that_an_earlier_version_kept_is_gone_on_from() -> None:
    norms, earlier = RunningNorm(), RunningNorm()
    for number in range(120):
        norms.add(1.0 + math.cos(number), 8)
    earlier.restore(norms.state()[:3])
    assert earlier.scale(1) == 1.0
    assert not earlier.is_few(1)
    for one in (norms, earlier):
        one.add(1.5, 8)
    assert torch.equal(norms.state(), earlier.state())


def test_noise_of_few_clips_is_no_longer_gradient_and_is_learned_from() -> None:
    clip = AdaptiveClip(1000.0, adapts=True)
    for number in range(WARM_UP):
        clip.add(1.0 + 0.1 * (number % 2), 64)
    usual = clip.ceiling(64)
    assert clip.ceiling(1) == pytest.approx(8 * usual)
    assert clip.ceiling(256) == usual, "what all clips agree on is not less with more of them"
    clip.add(9 * usual, 1)
    assert clip.norms.count == WARM_UP
    clip.add(7 * usual, 1)
    assert clip.norms.count == WARM_UP + 1
    assert clip.norms.clips == pytest.approx(64 - 63 / 100)
