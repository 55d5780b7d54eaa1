"""What the video VAE's training minimises: the square of the error, what the settings weigh beside it, and a small KL. Needs torch alone.

All of it is float32, whatever the precision of the forward pass; a part whose weight is zero is not computed.
"""

from collections.abc import Callable, Sequence
from math import sqrt
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from components.sections import Vae

GRADIENT_SCALES = 3  # full size, half and quarter
PERCEPTUAL_FRAMES = 4  # of each clip and step, since looking at one costs more than making it


def vae_losses(
    settings: "Vae", clips: Tensor, passed: Sequence[Tensor], perceptual: Callable[[Tensor, Tensor], Tensor] | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Answers the loss of each clip, (B,), and the means of its parts.

    Args:
        clips: (B, 3, T, H, W) in [-1, 1].
        passed: reconstruction, mean and log variance, what the model makes of them.
        perceptual: answers how different each reconstruction looks, (B,), where that weighs anything.
    """
    reconstruction, mean, log_variance = (output.float() for output in passed)
    error = reconstruction - clips
    weighed: dict[str, tuple[float, Callable[[], Tensor]]] = {
        "absolute": (settings.l1_loss_weight, lambda: of_each(error.abs())),
        "gradient": (settings.gradient_loss_weight, lambda: gradient_loss(error)),
        "wavelet": (settings.wavelet_loss_weight, lambda: wavelet_loss(error)),
        "kl": (settings.kl_weight, lambda: kl_loss(mean, log_variance)),
    }
    if perceptual is not None:
        weighed["perceptual"] = (settings.perceptual_loss_weight, lambda: perceptual(reconstruction, clips))
    losses = of_each(error.square())
    parts = {"square": losses}
    for name, (weight, part) in weighed.items():
        if weight:
            parts[name] = part()
            losses = losses + weight * parts[name]
    means = {name: part.detach().mean() for name, part in parts.items()}
    return losses, {"loss": losses.detach().mean(), **means, "psnr": psnr(reconstruction.detach(), clips).mean()}


def gradient_loss(error: Tensor) -> Tensor:
    """Answers how much the error of each clip differs between neighbours in space, at full size and halved, (B,).

    Args:
        error: (B, C, T, H, W).
    """
    found = []
    for scale in range(GRADIENT_SCALES):
        if scale:
            error = F.avg_pool3d(error, (1, 2, 2))
        found.append(of_each(error.diff(dim=-1).abs()) + of_each(error.diff(dim=-2).abs()))
        if min(error.shape[-2:]) < 4:  # half of it has no neighbours
            break
    return torch.stack(found).mean(0)


def wavelet_loss(error: Tensor) -> Tensor:
    """Answers the mean absolute value of the wavelet coefficients of each clip's error, (B,).

    Args:
        error: (B, C, T, H, W).

    Source: HaCohen et al., LTX-Video (arXiv 2501.00103), section 2.1.3; Li et al., WF-VAE (arXiv 2411.17459).
    """
    bands = haar_bands(error)
    total = torch.stack([band.abs().flatten(1).sum(1) for band in bands]).sum(0)
    return total / sum(band[0].numel() for band in bands)


def haar_bands(clips: Tensor) -> list[Tensor]:
    """Answers the subbands of an orthonormal 3D Haar transform of clips (B, C, T, H, W).

    The first frame, which the VAE codes apart, is transformed in space alone: four bands; the later ones in pairs: eight. What is
    left without a partner, a frame, a row or a column, is taken twice.
    """
    first, later = clips[:, :, :1], clips[:, :, 1:]
    bands = _in_space([first])
    return bands + _in_space(_halves(later, 2)) if later.shape[2] else bands


def _in_space(bands: list[Tensor]) -> list[Tensor]:
    for axis in (3, 4):
        bands = [half for band in bands for half in _halves(band, axis)]
    return bands


def _halves(x: Tensor, axis: int) -> list[Tensor]:
    """Answers sums and differences of neighbours along an axis, each half as long."""
    if x.shape[axis] % 2:
        x = torch.cat([x, x.narrow(axis, x.shape[axis] - 1, 1)], dim=axis)
    one, other = x.unflatten(axis, (-1, 2)).unbind(axis + 1)
    return [(one + other) / sqrt(2), (one - other) / sqrt(2)]


def some_frames(clips: int, frames: int, generator: torch.Generator) -> Tensor:
    """Draws which frames of each clip are looked at, (clips, at most `PERCEPTUAL_FRAMES`), none twice."""
    return torch.rand(clips, frames, generator=generator).argsort(dim=1)[:, :PERCEPTUAL_FRAMES]


def perceptual_loss(net: Callable[[Tensor, Tensor], Tensor], frames: Tensor, reconstruction: Tensor, clips: Tensor) -> Tensor:
    """Answers how different some frames of each clip look, (B,).

    Args:
        net: answers the distance of each picture (N, 3, H, W) from its other, (N,).
        frames: (B, k), which ones of each clip.
        reconstruction, clips: (B, 3, T, H, W) in [-1, 1].
    """
    rows = torch.arange(len(clips), device=clips.device)[:, None]
    pictures, others = (of.transpose(1, 2)[rows, frames].flatten(0, 1) for of in (reconstruction, clips))  # (B * k, 3, H, W)
    return net(pictures, others).view(frames.shape).mean(1)


def kl_loss(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Answers the mean divergence of each clip's latents from a standard normal, (B,), in nats a value."""
    return of_each(0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance))


def of_each(values: Tensor) -> Tensor:
    """Answers the mean over all but the first axis, (B,)."""
    return values.flatten(1).mean(1)


def psnr(reconstruction: Tensor, clips: Tensor) -> Tensor:
    """Answers the peak signal-to-noise ratio of each clip in decibels, (B,); both in [-1, 1]."""
    error = of_each((reconstruction.clamp(-1, 1) - clips).square())
    return 10.0 * torch.log10(4.0 / error.clamp(min=1e-10))
