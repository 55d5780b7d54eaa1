"""Walks the flow from noise at t = 1 to a clip at t = 0: by Euler's or Heun's rule, or by the multistep rules DPM++ 2M and UniPC.

The multistep rules follow the clip that the velocity points to, which changes less than the velocity does, along the logarithm of
the ratio of signal to noise, log((1 - t) / t); their first step, from pure noise, and their last, to the clip, are Euler's.
"""

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from components.diffusion.flow_matching import shift_timesteps
from components.diffusion.limits import MOST_STEPS

Velocity = Callable[[Tensor, Tensor], Tensor]  # (noisy (B, C, T, H, W), t 0-d) -> velocity (B, C, T, H, W)


def sampling_timesteps(num_inference_steps: int, shift: float = 1.0) -> Tensor:
    """Answers the num_inference_steps + 1 places to stop at, from 1 down to 0, closer together near noise for a shift above 1.

    Raises:
        ValueError: no step at all or too many, a shift that is not above 0, or one that leaves nothing between two of the steps.
    """
    if not 1 <= num_inference_steps <= MOST_STEPS:
        raise ValueError(f"`num_inference_steps` is from 1 to {MOST_STEPS}, not {num_inference_steps}; hint: 20 to 50 are usual")
    timesteps = shift_timesteps(torch.linspace(1.0, 0.0, num_inference_steps + 1, dtype=torch.float64), shift).float()
    timesteps[0], timesteps[-1] = 1.0, 0.0  # whatever was rounded: above 1 there is no guidance and no logarithm
    if not bool((timesteps[1:] < timesteps[:-1]).all()):
        raise ValueError(
            f"`timestep_shift` {shift:g} leaves nothing between two of {num_inference_steps} steps; hint: one nearer to 1, or fewer steps"
        )
    return timesteps


def euler(velocity: Velocity, noise: Tensor, timesteps: Tensor, on_step: Callable[[int, int], None] | None = None) -> Tensor:
    """Takes one straight step between neighbouring timesteps; exact where the velocity is constant along the path.

    Args:
        timesteps: falling, as `sampling_timesteps` gives them.
        on_step: told (steps done, steps in all).
    """
    sample = noise
    for index, (t, following) in enumerate(itertools.pairwise(timesteps)):
        sample = sample + (following - t) * velocity(sample, t)
        if on_step is not None:
            on_step(index + 1, len(timesteps) - 1)
    return sample


def heun(velocity: Velocity, noise: Tensor, timesteps: Tensor, on_step: Callable[[int, int], None] | None = None) -> Tensor:
    """Steps along the mean of the velocities at both ends, two calls a step, one in the last, which ends at t = 0.

    Source: Karras et al., Elucidating the Design Space (arXiv 2206.00364), algorithm 1.
    """
    sample = noise
    for index, (t, following) in enumerate(itertools.pairwise(timesteps)):
        first = velocity(sample, t)
        ahead = sample + (following - t) * first
        if following > 0:
            ahead = sample + (following - t) * 0.5 * (first + velocity(ahead, following))
        sample = ahead
        if on_step is not None:
            on_step(index + 1, len(timesteps) - 1)
    return sample


def dpmpp_2m(velocity: Velocity, noise: Tensor, timesteps: Tensor, on_step: Callable[[int, int], None] | None = None) -> Tensor:
    """Steps to where the clip will be seen halfway, on a line through where the last two steps saw it; second order, one call a step.

    Source: Lu et al., DPM-Solver++ (arXiv 2211.01095), algorithm 2.
    """
    sample, ratios = noise, _log_ratios(timesteps)
    seen: list[Tensor] = []
    for index, (t, following) in enumerate(itertools.pairwise(timesteps)):
        seen = [*seen[-1:], sample - t * velocity(sample, t)]
        sample = _towards(sample, _seen_halfway(seen, ratios, index), t, following)
        if on_step is not None:
            on_step(index + 1, len(timesteps) - 1)
    return sample


def unipc(velocity: Velocity, noise: Tensor, timesteps: Tensor, on_step: Callable[[int, int], None] | None = None) -> Tensor:
    """Steps as DPM++ 2M does, and corrects each step by where the clip is seen from its end; second order, one call a step.

    Source: Zhao et al., UniPC (arXiv 2302.04867), algorithms 5 to 8, with B2(h) and order 2, as Wan samples.
    """
    sample, start, ratios = noise, noise, _log_ratios(timesteps)
    seen: list[Tensor] = []
    for index, (t, following) in enumerate(itertools.pairwise(timesteps)):
        seen = [*seen[-2:], sample - t * velocity(sample, t)]
        if index > 0:
            sample = _towards(start, _seen_on_the_way(seen, ratios, index), timesteps[index - 1], t)
        start, sample = sample, _towards(sample, _seen_halfway(seen, ratios, index), t, following)
        if on_step is not None:
            on_step(index + 1, len(timesteps) - 1)
    return sample


def _towards(sample: Tensor, clip: Tensor, t: Tensor, following: Tensor) -> Tensor:
    """Answers where a sample at t is at the next timestep when the clip is seen there all the way."""
    return torch.lerp(clip, sample, float(following / t))


def _log_ratios(timesteps: Tensor) -> list[float]:
    """Answers log((1 - t) / t) of each timestep, from minus infinity at noise to infinity at the clip."""
    t = timesteps.double()
    return ((1.0 - t) / t).log().tolist()


def _seen_halfway(seen: list[Tensor], ratios: list[float], index: int) -> Tensor:
    """Answers where the clip will be seen in the middle of step `index`; at either end of the walk, where it is seen now."""
    if index < 1 or index + 2 == len(ratios):
        return seen[-1]
    last, this = ratios[index] - ratios[index - 1], ratios[index + 1] - ratios[index]  # steps' lengths, infinite from pure noise
    return seen[-1] + (seen[-1] - seen[-2]) / (2.0 * last / this)


def _seen_on_the_way(seen: list[Tensor], ratios: list[float], index: int) -> Tensor:
    """Answers where the clip was seen during the step before `index`, now that it has been seen from both of its ends."""
    clip, last = seen[-1], seen[-2]
    if index < 2 or math.isinf(ratios[index - 2]):
        return last + 0.5 * (clip - last)
    length = ratios[index] - ratios[index - 1]
    back = (ratios[index - 2] - ratios[index - 1]) / length  # below zero
    growth = math.expm1(-length)
    first = growth / -length - 1.0
    second = 2.0 * (first / -length - 0.5)
    older = (first - second) / growth / (1.0 - back)
    return last + older * (seen[-3] - last) / back + (first / growth - older) * (clip - last)


SAMPLERS = {"euler": euler, "heun": heun, "dpmpp_2m": dpmpp_2m, "unipc": unipc}
