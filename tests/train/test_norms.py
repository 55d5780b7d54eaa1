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
    assert clip.ceiling == 100.0
    for norm in drawn:
        clip.add(norm)
    usual = fmean(drawn) + 3 * math.sqrt(pvariance(drawn))
    assert clip.ceiling == pytest.approx(usual)
    clip.add(usual + 1.0)
    assert clip.ceiling == pytest.approx(usual)
    parameter = torch.nn.Parameter(torch.zeros(4))
    parameter.grad = torch.full((4,), 30.0)
    assert clip_gradients([parameter], clip.ceiling) == pytest.approx(60.0)
    assert parameter.grad.norm().item() == pytest.approx(usual, rel=1e-5)
    clip.add(usual - 0.5)
    assert clip.ceiling != pytest.approx(usual, rel=1e-6)


def test_what_is_set_is_the_most_whether_it_adapts_or_not() -> None:
    for adapts in (True, False):
        clip = AdaptiveClip(1.0, adapts)
        for norm in range(2 * WARM_UP):
            clip.add(5.0 + norm % 3)
        assert clip.ceiling == 1.0


def test_a_restored_one_goes_on_to_the_bit() -> None:
    norms, restored = RunningNorm(), RunningNorm()
    for number in range(130):
        norms.add(math.sin(number) ** 2)
    restored.restore(norms.state())
    for one in (norms, restored):
        one.add(1 / 3)
    assert (norms.mean, norms.variance, norms.count) == (restored.mean, restored.variance, restored.count)
