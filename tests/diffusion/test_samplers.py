import math

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


def error_on_gaussian_clips(sampler, steps):
    """How far the end is from the exact one where clips are normal around 2 with spread 0.5: 2 + spread * noise."""

    def velocity(x, t):
        gain = (1 - t) * 0.25 / ((1 - t) ** 2 * 0.25 + t**2)
        return (x - 2.0 - gain * (x - (1 - t) * 2.0)) / t

    noise = torch.linspace(-2, 2, 9, dtype=torch.float64).view(-1, 1, 1, 1, 1)
    reached = sampler(velocity, noise, sampling_timesteps(steps, shift=3.0).double())
    return (reached - (2.0 + 0.5 * noise)).abs().max().item()


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("heun", 2), ("dpmpp_2m", 2), ("unipc", 2)])
def test_twice_the_steps_divide_the_error_as_the_order_says(name, order):
    coarse, fine = (error_on_gaussian_clips(SAMPLERS[name], steps) for steps in (256, 512))
    assert 0.75 * 2**order < coarse / fine < 1.5 * 2**order


def test_at_ten_calls_the_multistep_rules_are_nearest_and_the_corrector_helps():
    errors = {name: error_on_gaussian_clips(SAMPLERS[name], 10) for name in ("euler", "dpmpp_2m", "unipc")}
    errors["heun"] = error_on_gaussian_clips(heun, 5)  # two calls a step
    assert errors["unipc"] < errors["dpmpp_2m"] < min(errors["euler"], errors["heun"])


@pytest.mark.parametrize("sampler", [SAMPLERS["dpmpp_2m"], SAMPLERS["unipc"]])
def test_the_multistep_rules_ask_once_a_step(sampler):
    asked = []
    sampler(lambda x, t: asked.append(t) or x, NOISE, sampling_timesteps(6))
    assert len(asked) == 6


@pytest.mark.parametrize(("name", "theirs"), [("dpmpp_2m", "DPMSolverMultistepScheduler"), ("unipc", "UniPCMultistepScheduler")])
def test_the_multistep_rules_walk_as_diffusers_does(name, theirs):
    diffusers = pytest.importorskip("diffusers")
    velocity = lambda x, t: torch.tanh(x) + t * x  # noqa: E731
    options = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "solver_order": 2, "final_sigmas_type": "zero"}
    scheduler = getattr(diffusers, theirs)(**options)
    scheduler.set_timesteps(8)
    timesteps = torch.cat([scheduler.sigmas[:-1], torch.zeros(1)]).double()
    sample = NOISE.double()
    for t, sigma in zip(scheduler.timesteps, timesteps[:-1], strict=True):
        sample = scheduler.step(velocity(sample, sigma), t, sample).prev_sample
    ours = SAMPLERS[name](velocity, NOISE.double(), timesteps)
    torch.testing.assert_close(ours, sample, atol=1e-4, rtol=1e-4)


def test_steps_run_from_noise_to_the_clip_and_are_counted():
    timesteps = sampling_timesteps(5, shift=3.0)
    assert timesteps[0] == 1
    assert timesteps[-1] == 0
    assert (timesteps.diff() < 0).all()
    told = []
    euler(lambda x, t: x, NOISE, timesteps, on_step=lambda done, total: told.append((done, total)))
    assert told == [(i, 5) for i in range(1, 6)]


@pytest.mark.parametrize("sampler", SAMPLERS.values())
def test_no_shift_is_rounded_to_where_there_is_more_than_noise(sampler):
    """5 times the root of a third is the demo's shift for an image."""
    for shift in [5 * math.sqrt(1 / 3), *torch.linspace(0.05, 20.0, 400, dtype=torch.float64).tolist()]:
        timesteps = sampling_timesteps(5, shift)
        assert (timesteps[0], timesteps[-1]) == (1.0, 0.0)
        reached = sampler(lambda x, t: (x - CLIP) / t, NOISE, timesteps)
        torch.testing.assert_close(reached, CLIP, atol=1e-4, rtol=0, msg=f"shift {shift}")


def test_no_steps_are_refused():
    with pytest.raises(ValueError, match="num_inference_steps"):
        sampling_timesteps(0)


@pytest.mark.parametrize("shift", [1e9, 1e-45])
def test_steps_that_a_shift_leaves_nothing_between_are_refused(shift):
    with pytest.raises(ValueError, match="leaves nothing between two of 20 steps; hint: one nearer to 1, or fewer steps"):
        sampling_timesteps(20, shift)
