"""Walks the flow from noise at t = 1 to a clip at t = 0, by Euler's or Heun's rule."""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from components.diffusion.flow_matching import shift_timesteps

Velocity = Callable[[Tensor, Tensor], Tensor]  # (noisy (B, C, T, H, W), t 0-d) -> velocity (B, C, T, H, W)


def sampling_timesteps(num_inference_steps: int, shift: float = 1.0) -> Tensor:
    """Answers the num_inference_steps + 1 places to stop at, from 1 down to 0, closer together near noise for a shift above 1."""
    if num_inference_steps < 1:
        raise ValueError(f"`num_inference_steps` must be at least 1, not {num_inference_steps}")
    return shift_timesteps(torch.linspace(1.0, 0.0, num_inference_steps + 1), shift)


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


SAMPLERS = {"euler": euler, "heun": heun}
