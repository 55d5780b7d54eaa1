import pytest
import torch

from components.diffusion.samplers import SAMPLERS, euler, heun, sampling_timesteps

CLIP, NOISE = torch.randn(2, 3, 2, 4, 4), torch.randn(2, 3, 2, 4, 4)


@pytest.mark.parametrize("sampler", SAMPLERS.values())
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_the_velocity_of_one_clip_leads_to_it_in_any_number_of_steps(sampler, steps):
    """Where all clips are one clip, the velocity at x is (x - clip) / t, and its paths are straight."""
    reached = sampler(lambda x, t: (x - CLIP) / t, NOISE, sampling_timesteps(steps, shift=2.0))
    torch.testing.assert_close(reached, CLIP, atol=1e-5, rtol=0)


def test_heun_is_exact_where_the_velocity_grows_evenly_and_euler_is_not():
    """dx/dt = 2 t from t = 1 to 0 takes exactly 1 away."""
    timesteps = sampling_timesteps(4)
    velocity = lambda x, t: torch.full_like(x, 2.0) * t  # noqa: E731
    half_a_step = 2.0 * 0.25 * 0.25 / 2  # the last step of Heun ends at the clip, where it asks once
    torch.testing.assert_close(heun(velocity, NOISE, timesteps), NOISE - 1.0 - half_a_step, atol=1e-5, rtol=0)
    assert (euler(velocity, NOISE, timesteps) - (NOISE - 1.0)).abs().min() > 0.2


def test_gaussian_clips_come_out_with_their_spread():
    spread = 0.5

    def velocity(x, t):
        return (t - (1 - t) * spread**2) / (t**2 + (1 - t) ** 2 * spread**2) * x

    noise = torch.randn(4096, 1, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    assert heun(velocity, noise, sampling_timesteps(40)).std().item() == pytest.approx(spread * noise.std().item(), rel=0.01)


def test_steps_run_from_noise_to_the_clip_and_are_counted():
    timesteps = sampling_timesteps(5, shift=3.0)
    assert timesteps[0] == 1
    assert timesteps[-1] == 0
    assert (timesteps.diff() < 0).all()
    told = []
    euler(lambda x, t: x, NOISE, timesteps, on_step=lambda done, total: told.append((done, total)))
    assert told == [(i, 5) for i in range(1, 6)]


def test_no_steps_are_refused():
    with pytest.raises(ValueError, match="num_inference_steps"):
        sampling_timesteps(0)
