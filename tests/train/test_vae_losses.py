"""The parts of the VAE's loss against their formulas."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from components.train.vae_losses import gradient_loss, haar_bands, kl_loss, perceptual_loss, psnr, some_frames, vae_losses, wavelet_loss


def some_error(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def settings(**weights: float) -> SimpleNamespace:
    names = ("l1_loss_weight", "gradient_loss_weight", "wavelet_loss_weight", "perceptual_loss_weight", "kl_weight")
    return SimpleNamespace(**(dict.fromkeys(names, 0.0) | weights))


def test_each_clip_s_loss_is_the_weighed_sum_of_its_parts() -> None:
    clips, reconstruction = some_error(2, 3, 5, 8, 8), torch.zeros(2, 3, 5, 8, 8)
    mean, log_variance = some_error(2, 4, 2, 1, 1), some_error(2, 4, 2, 1, 1) - 3.0
    chosen = settings(l1_loss_weight=0.5, gradient_loss_weight=0.25, wavelet_loss_weight=0.125, kl_weight=0.01)
    losses, figures = vae_losses(chosen, clips, (reconstruction, mean, log_variance))
    expected = (
        clips.square().mean((1, 2, 3, 4))
        + 0.5 * clips.abs().mean((1, 2, 3, 4))
        + 0.25 * gradient_loss(clips)
        + 0.125 * wavelet_loss(clips)
        + 0.01 * kl_loss(mean, log_variance)
    )
    torch.testing.assert_close(losses, expected)
    assert figures["loss"] == pytest.approx(float(expected.mean()))
    assert set(figures) == {"loss", "square", "absolute", "gradient", "wavelet", "kl", "psnr"}


def test_what_weighs_nothing_is_not_computed() -> None:
    clips, latents = some_error(2, 3, 5, 8, 8), some_error(2, 4, 2, 1, 1)
    _, figures = vae_losses(settings(kl_weight=1e-4), clips, (clips + 0.1, latents, latents))
    assert set(figures) == {"loss", "square", "kl", "psnr"}


def test_the_divergence_is_that_of_torch_s_normals() -> None:
    mean, log_variance = some_error(2, 4, 2, 3, 3), some_error(2, 4, 2, 3, 3) / 2
    of = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    expected = torch.distributions.kl_divergence(of, torch.distributions.Normal(0.0, 1.0)).mean((1, 2, 3, 4))
    torch.testing.assert_close(kl_loss(mean, log_variance), expected)


def test_a_slope_differs_by_as_much_more_as_pixels_are_larger() -> None:
    slope = (0.01 * torch.arange(16.0)).expand(1, 3, 2, 16, 16)
    torch.testing.assert_close(gradient_loss(slope), torch.tensor([0.01 * (1 + 2 + 4) / 3]))
    torch.testing.assert_close(gradient_loss(slope.mT), torch.tensor([0.01 * (1 + 2 + 4) / 3]))
    torch.testing.assert_close(gradient_loss(torch.ones(1, 3, 1, 8, 8)), torch.zeros(1))


def haar_matrix(length: int) -> np.ndarray:
    """The rows of one level of the transform: sums of neighbours, then their differences."""
    pairs = np.repeat(np.eye(length // 2), 2, axis=1)
    return np.concatenate([pairs, pairs * np.tile([1.0, -1.0], length // 2)]) / math.sqrt(2)


def test_the_bands_are_those_of_the_transform_s_matrices() -> None:
    clip = some_error(1, 1, 5, 6, 8)
    bands = haar_bands(clip)
    space = np.einsum("yh,xw,bcthw->bctyx", haar_matrix(6), haar_matrix(8), clip.numpy())
    expected_first = [space[:, :, :1, y : y + 3, x : x + 4] for y in (0, 3) for x in (0, 4)]
    later = np.einsum("st,bctyx->bcsyx", haar_matrix(4), space[:, :, 1:])
    expected_later = [later[:, :, t : t + 2, y : y + 3, x : x + 4] for t in (0, 2) for y in (0, 3) for x in (0, 4)]
    assert len(bands) == 12
    for band, expected in zip(bands, expected_first + expected_later, strict=True):
        np.testing.assert_allclose(band.numpy(), expected, atol=1e-5)


def test_images_and_odd_lengths_have_wavelets() -> None:
    still = torch.full((2, 3, 1, 9, 7), 0.5)
    torch.testing.assert_close(wavelet_loss(still), torch.full((2,), 0.5 * 2 / 4))  # all of it is in one band of four
    torch.testing.assert_close(wavelet_loss(still.expand(-1, -1, 4, -1, -1))[0], wavelet_loss(still.expand(-1, -1, 5, -1, -1))[1])


def test_the_wavelets_of_a_clip_see_flicker_as_well_as_blur() -> None:
    flicker = torch.tensor([0.0, 1.0, -1.0, 1.0, -1.0]).view(1, 1, 5, 1, 1).expand(1, 3, 5, 4, 4)
    bands = haar_bands(flicker)
    assert [float(band.abs().max()) > 0 for band in bands] == [False] * 8 + [True] + [False] * 3


def test_the_look_of_a_clip_is_the_mean_over_its_drawn_frames() -> None:
    clips = torch.zeros(2, 3, 6, 8, 8)
    reconstruction = torch.arange(12.0).view(2, 1, 6, 1, 1).expand_as(clips)  # frame t of clip b is off by 6 b + t
    frames = torch.tensor([[0, 3], [5, 1]])
    off = lambda pictures, others: (pictures - others).mean((1, 2, 3))  # noqa: E731
    torch.testing.assert_close(perceptual_loss(off, frames, reconstruction, clips), torch.tensor([1.5, 9.0]))


def test_frames_are_drawn_from_everywhere_and_none_twice() -> None:
    drawn = some_frames(200, 9, torch.Generator().manual_seed(0))
    assert drawn.shape == (200, 4)
    assert all(len(set(row)) == 4 for row in drawn.tolist())
    assert set(drawn.flatten().tolist()) == set(range(9))
    assert some_frames(3, 1, torch.Generator()).tolist() == [[0]] * 3


def test_psnr_is_that_of_its_formula() -> None:
    clip = torch.zeros(2, 3, 1, 8, 8)
    off = clip + torch.tensor([0.02, 0.2]).view(2, 1, 1, 1, 1)
    torch.testing.assert_close(psnr(off, clip), torch.tensor([40.0, 20.0]))
