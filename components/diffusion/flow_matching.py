"""Rectified flow between clips and noise: the straight path, its velocity, and where on the path to train.

t = 0 is the clip, t = 1 is noise, and velocity = noise - latents is the derivative of the path by t.

Source: Lipman et al., Flow Matching (arXiv 2210.02747); Esser et al., Scaling Rectified Flow (arXiv 2403.03206), section 3.
"""

import math

import torch
from torch import Tensor


def interpolate(latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Answers the point at t of the straight path from a clip to noise.

    Args:
        latents, noise: (B, C, T, H, W).
        t: (B,), in [0, 1].
    """
    return torch.lerp(latents, noise, _per_clip(t, latents))


def velocity_of(latents: Tensor, noise: Tensor) -> Tensor:
    """Answers the velocity of the path, the same at every t."""
    return noise - latents


def clip_from_velocity(noisy: Tensor, velocity: Tensor, t: Tensor) -> Tensor:
    """Answers the clip that a velocity points to: where the straight path that it belongs to began."""
    return noisy - _per_clip(t, noisy) * velocity


def velocity_loss(predicted: Tensor, latents: Tensor, noise: Tensor, t: Tensor, clip_weight: float = 0.0) -> Tensor:
    """Answers the loss of each clip, (B,): the mean squared error of its velocity times t ** (2 * clip_weight).

    At clip_weight 0 every t weighs alike as a velocity; at 1 the loss is the error of the clip that the velocity points to,
    which weighs large t, where the prompt decides what is drawn, above small t, where details are cleaned.
    """
    error = (predicted.float() - velocity_of(latents, noise).float()).square().mean(dim=tuple(range(1, latents.ndim)))  # (B,)
    return error * t.float() ** (2 * clip_weight) if clip_weight else error


def sample_timesteps(
    count: int, generator: torch.Generator, mean: float = 0.0, std: float = 1.0, shift: float = 1.0, device: str = "cpu"
) -> Tensor:
    """Draws logit-normal timesteps, one from each of `count` equally likely strata, in random order.

    Args:
        mean, std: of logit(t); a larger mean trains more on noise.
        shift: moves every t towards noise as `shift_timesteps` does.

    Returns:
        (count,), within (0, 1).
    """
    strata = (torch.randperm(count, generator=generator) + torch.rand(count, generator=generator)) / count
    normal = math.sqrt(2.0) * torch.erfinv((2.0 * strata - 1.0).clamp(-0.9999, 0.9999))
    return shift_timesteps(torch.sigmoid(mean + std * normal), shift).to(device)


def shift_timesteps(t: Tensor, shift: float) -> Tensor:
    """Moves timesteps towards noise: shift * t / (1 + (shift - 1) * t); 1 leaves them, 0 and 1 stay where they are.

    Raises:
        ValueError: the shift is not above zero.
    """
    if not shift > 0:
        raise ValueError(f"`timestep_shift` must be above 0, not {shift}; 1 leaves the steps evenly spaced")
    return shift * t / (1.0 + (shift - 1.0) * t)


def _per_clip(t: Tensor, latents: Tensor) -> Tensor:
    return t.to(latents.dtype).view(-1, *[1] * (latents.ndim - 1))
