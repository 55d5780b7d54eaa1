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
        t: (B,), in [0, 1], or (B, T), by frame; a frame at 0 is kept.
    """
    return torch.lerp(latents, noise, _spread(t, latents))


def velocity_of(latents: Tensor, noise: Tensor) -> Tensor:
    """Answers the velocity of the path, the same at every t."""
    return noise - latents


def velocity_loss(predicted: Tensor, latents: Tensor, noise: Tensor, t: Tensor, clip_weight: float = 0.0) -> Tensor:
    """Answers the loss of each clip, (B,): the mean squared error of its velocity times t ** (2 * clip_weight).

    At clip_weight 0 every t weighs alike as a velocity; at 1 the loss is the error of the clip that the velocity points to,
    which weighs large t, where the prompt decides what is drawn, above small t, where details are cleaned.

    Args:
        t: (B,), or (B, T), by frame; frames at 0 are kept ones, which nobody asks for.
    """
    error = (predicted.float() - velocity_of(latents, noise).float()).square()  # (B, C, T, H, W)
    if t.ndim == 1:
        error = error.mean(dim=(1, 2, 3, 4))
        return error * t.float() ** (2 * clip_weight) if clip_weight else error
    weights = (t > 0) * t.float() ** (2 * clip_weight)  # (B, T)
    return (error.mean(dim=(1, 3, 4)) * weights).sum(dim=1) / (t > 0).sum(dim=1).clamp(min=1)


def sample_timesteps(
    count: int,
    generator: torch.Generator,
    mean: float = 0.0,
    std: float = 1.0,
    shift: float | Tensor = 1.0,
    device: str = "cpu",
) -> Tensor:
    """Draws logit-normal timesteps, one from each of `count` equally likely strata, in random order.

    Args:
        mean, std: of logit(t); a larger mean trains more on noise.
        shift: moves every t towards noise as `shift_timesteps` does; one for all, or one each, (count,).

    Returns:
        (count,), within (0, 1).
    """
    strata = (torch.randperm(count, generator=generator) + torch.rand(count, generator=generator)) / count
    return timestep_quantiles(strata, mean, std, shift).to(device)


def timestep_quantiles(shares: Tensor, mean: float = 0.0, std: float = 1.0, shift: float | Tensor = 1.0) -> Tensor:
    """Answers the timesteps that such shares, (N,), of what `sample_timesteps` draws lie below."""
    normal = math.sqrt(2.0) * torch.erfinv((2.0 * shares - 1.0).clamp(-0.9999, 0.9999))
    return shift_timesteps(torch.sigmoid(mean + std * normal), shift)


def shift_timesteps(t: Tensor, shift: float | Tensor) -> Tensor:
    """Moves timesteps towards noise: shift * t / (1 + (shift - 1) * t); 1 leaves them, 0 and 1 stay where they are.

    Raises:
        ValueError: a shift is not above zero.
    """
    if not bool(torch.as_tensor(shift > 0).all()):
        raise ValueError(f"`timestep_shift` must be above 0, not {shift}; 1 leaves the steps evenly spaced")
    return shift * t / (1.0 + (shift - 1.0) * t)


def shift_of(shift: float, tokens: int, reference: int) -> float:
    """Answers the shift of clips of so many tokens, where clips of `reference` tokens have `shift`.

    The more tokens say the same, the more noise it takes to hide what they say: the shift grows with the root of their number.

    Source: Esser et al., Scaling Rectified Flow (arXiv 2403.03206), section 5.3.2.
    """
    return shift * math.sqrt(tokens / reference)


def _spread(t: Tensor, latents: Tensor) -> Tensor:
    """Answers timesteps (B,) or (B, T) as they meet latents (B, C, T, H, W)."""
    return t.to(latents.dtype).view(len(t), 1, -1, 1, 1)
