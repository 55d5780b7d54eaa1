import pytest
import torch

from components.diffusion.flow_matching import (
    interpolate,
    sample_timesteps,
    shift_timesteps,
    velocity_loss,
    velocity_of,
)


def clip_from_velocity(noisy, velocity, t):
    return noisy - t.view(-1, 1, 1, 1, 1) * velocity


CLIP, NOISE = torch.randn(3, 2, 3, 4, 4), torch.randn(3, 2, 3, 4, 4)


def test_the_path_runs_from_the_clip_to_noise():
    torch.testing.assert_close(interpolate(CLIP, NOISE, torch.zeros(3)), CLIP)
    torch.testing.assert_close(interpolate(CLIP, NOISE, torch.ones(3)), NOISE)


def test_the_velocity_is_the_derivative_of_the_path():
    t, step = torch.tensor([0.1, 0.5, 0.8]), 1e-3
    moved = interpolate(CLIP, NOISE, t + step) - interpolate(CLIP, NOISE, t)
    torch.testing.assert_close(moved / step, velocity_of(CLIP, NOISE), atol=2e-3, rtol=0)


def test_the_true_velocity_points_back_to_the_clip():
    t = torch.tensor([0.2, 0.6, 1.0])
    torch.testing.assert_close(clip_from_velocity(interpolate(CLIP, NOISE, t), velocity_of(CLIP, NOISE), t), CLIP)


def test_at_clip_weight_one_the_loss_is_the_error_of_the_clip():
    t, velocity = torch.tensor([0.2, 0.6, 1.0]), torch.randn_like(CLIP)
    clip = clip_from_velocity(interpolate(CLIP, NOISE, t), velocity, t)
    torch.testing.assert_close(velocity_loss(velocity, CLIP, NOISE, t, clip_weight=1.0), (clip - CLIP).square().mean(dim=(1, 2, 3, 4)))


def test_the_best_velocity_of_gaussian_clips_is_the_closed_form():
    """For clips N(0, s^2): E[noise - clip | x at t] = (t - (1 - t) s^2) / (t^2 + (1 - t)^2 s^2) x, and no factor of x does better."""
    spread, t = 0.5, torch.full((20000,), 0.3)
    generator = torch.Generator().manual_seed(0)
    clips, noise = (torch.randn(20000, 1, 1, 1, 1, generator=generator) for _ in range(2))
    clips = clips * spread
    noisy = interpolate(clips, noise, t)
    best = (0.3 - 0.7 * spread**2) / (0.3**2 + 0.7**2 * spread**2)
    losses = [velocity_loss(factor * noisy, clips, noise, t).mean().item() for factor in (best - 0.1, best, best + 0.1)]
    assert min(losses) == losses[1]
    assert losses[1] == pytest.approx(spread**2 / (0.3**2 + 0.7**2 * spread**2), rel=0.05)


def test_timesteps_cover_every_stratum_and_repeat_by_seed():
    t = sample_timesteps(1000, torch.Generator().manual_seed(1), mean=0.0, std=1.0)
    assert torch.equal(t, sample_timesteps(1000, torch.Generator().manual_seed(1), mean=0.0, std=1.0))
    assert t.min() > 0
    assert t.max() < 1
    normal = torch.distributions.Normal(0.0, 1.0).cdf(torch.logit(t)).sort().values  # uniform if logit-normal
    assert (normal - (torch.arange(1000) + 0.5) / 1000).abs().max() < 1.5e-3


def test_a_shift_keeps_the_ends_and_moves_the_rest_towards_noise():
    t = torch.linspace(0, 1, 11)
    shifted = shift_timesteps(t, 3.0)
    assert shifted[0] == 0
    assert shifted[-1] == 1
    assert (shifted[1:-1] > t[1:-1]).all()
    torch.testing.assert_close(shift_timesteps(shifted, 1 / 3.0), t)


def test_a_shift_of_nothing_is_refused():
    with pytest.raises(ValueError, match="timestep_shift"):
        shift_timesteps(torch.ones(1), 0.0)
