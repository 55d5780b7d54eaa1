"""The video VAE: shapes, causality, its linear start beside numpy's principal components, and its way to disk and back."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from components.models.pixels import to_pixels
from components.models.sizes import VAE_SIZES, VaeSize
from components.models.vae import VideoVae, load_vae, principal_axes, save_vae

SIZE = VaeSize(latent_channels=8, hidden_channels=16, num_blocks=2, encoder_channels=16, encoder_blocks=1)
NARROW = {"hidden_channels": 16, "num_blocks": 2, "encoder_channels": 16, "encoder_blocks": 2}
PUBLISHED = [pytest.param(replace(VAE_SIZES[name], **NARROW), id=name) for name in ("base", "long", "wide")]


def some_clips(count: int, frames: int, side: int = 32, seed: int = 0) -> Tensor:
    """Coloured waves that slide: smooth, and not still."""
    generator = torch.Generator().manual_seed(seed)
    phase, pace, pitch = torch.rand(3, count, 3, 1, 1, 1, generator=generator)
    t, y, x = (torch.arange(n).view(shape) for n, shape in ((frames, (-1, 1, 1)), (side, (-1, 1)), (side, (-1,))))
    return torch.sin(6.3 * (phase + pace * t / 8 + (x + 2 * pitch * y) / side))


def trained_like(size: VaeSize = SIZE) -> VideoVae:
    """A VAE none of whose layers are zero."""
    torch.manual_seed(0)
    vae = VideoVae(size)
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    vae.set_normalisation(torch.randn(size.latent_channels), torch.rand(size.latent_channels) + 0.5)
    return vae.eval()


@torch.no_grad()
def test_latents_have_the_promised_shape_and_decode_to_the_clip_s() -> None:
    for size, (frames, height, width), latents_shape in (
        (SIZE, (9, 32, 16), (8, 3, 4, 2)),
        (SIZE, (1, 8, 8), (8, 1, 1, 1)),
        (VaeSize(4, 8, 1, 8, 1, temporal_compression_ratio=8, spatial_compression_ratio=16), (17, 32, 32), (4, 3, 2, 2)),
    ):
        vae = VideoVae(size)
        latents = vae.encode(torch.randn(2, 3, frames, height, width))
        assert latents.shape[1:] == latents_shape == vae.latents_shape(frames, height, width)
        assert vae.decode(latents).shape == (2, 3, frames, height, width)


@torch.no_grad()
def test_latents_and_frames_do_not_see_the_future() -> None:
    vae, clip = trained_like(), some_clips(2, 13)
    latents = vae.encode(clip)
    for frames in (1, 5, 9):
        kept = 1 + (frames - 1) // 4
        torch.testing.assert_close(vae.encode(clip[:, :, :frames]), latents[:, :, :kept], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(vae.decode(latents[:, :, :kept]), vae.decode(latents)[:, :, :frames], atol=1e-5, rtol=1e-5)


def test_the_named_sizes_have_the_published_compressions() -> None:
    found = {
        name: (size.temporal_compression_ratio, size.spatial_compression_ratio, size.latent_channels) for name, size in VAE_SIZES.items()
    }
    assert (found["base"], found["long"], found["wide"]) == ((4, 8, 16), (8, 8, 32), (4, 16, 48))


@torch.no_grad()
@pytest.mark.parametrize("size", PUBLISHED)
def test_every_published_compression_is_causal_and_takes_a_frame_alone(size: VaeSize) -> None:
    vae, clip = trained_like(size), some_clips(2, 17)
    latents, frames = vae.encode(clip), size.temporal_compression_ratio
    side = 32 // size.spatial_compression_ratio
    assert latents.shape == (2, size.latent_channels, 1 + 16 // frames, side, side)
    for kept in range(1, latents.shape[2]):  # one of them is the first frame
        shown = 1 + (kept - 1) * frames
        torch.testing.assert_close(vae.encode(clip[:, :, :shown]), latents[:, :, :kept], atol=1e-5, rtol=0)
        torch.testing.assert_close(vae.decode(latents[:, :, :kept]), vae.decode(latents)[:, :, :shown], atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", PUBLISHED)
def test_every_published_compression_names_the_nearest_frame_counts_and_sides(size: VaeSize) -> None:
    vae, frames, side = VideoVae(size), size.temporal_compression_ratio, size.spatial_compression_ratio
    with pytest.raises(ValueError, match=f"a clip of {2 * frames} frames does not fit; the nearest are {1 + frames} and {1 + 2 * frames}"):
        vae.encode(torch.zeros(1, 3, 2 * frames, side, side))
    with pytest.raises(ValueError, match=f"not a multiple of {side}; the nearest is {2 * side}"):
        vae.encode(torch.zeros(1, 3, 1, 2 * side + 1, side))


@torch.no_grad()
def test_a_clip_is_coded_the_same_in_any_company() -> None:
    vae, clips = trained_like(), some_clips(3, 5)
    torch.testing.assert_close(vae.encode(clips)[:1], vae.encode(clips[:1]), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_linear_start_is_the_principal_components_of_patches() -> None:
    clips = some_clips(40, 9)
    vae = VideoVae(SIZE)
    vae.start_linear(clips)
    reconstruction = vae.decode(vae.encode(clips)).numpy()
    x = clips.numpy().reshape(40, 3, 9, 4, 8, 4, 8)
    for frames in (slice(0, 1), slice(1, 9)):
        deep = 1 if frames.start == 0 else 4
        patches = x[:, :, frames].reshape(40, 3, -1, deep, 4, 8, 4, 8).transpose(0, 2, 4, 6, 1, 3, 5, 7)
        rows = patches.reshape(-1, 3 * deep * 64).astype(np.float64)
        mean = rows.mean(0)
        _, _, axes = np.linalg.svd(rows - mean, full_matrices=False)
        best = ((rows - mean) @ axes[:8].T @ axes[:8] + mean).reshape(patches.shape)
        expected = best.transpose(0, 4, 1, 5, 2, 6, 3, 7).reshape(40, 3, -1, 32, 32)
        np.testing.assert_allclose(reconstruction[:, :, frames], expected, atol=1e-4)


@torch.no_grad()
def test_the_linear_start_is_the_same_from_frames_as_they_are_decoded() -> None:
    frames = torch.randint(0, 256, (6, 9, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    from_pixels, from_bytes = VideoVae(SIZE), VideoVae(SIZE)
    from_pixels.start_linear(to_pixels(frames))
    from_bytes.start_linear(frames.permute(0, 4, 1, 2, 3))
    assert torch.equal(from_pixels.later_out.weight, from_bytes.later_out.weight)
    assert torch.equal(from_pixels.first_in.weight, from_bytes.first_in.weight)


@torch.no_grad()
def test_the_linear_start_beats_a_random_one_on_other_clips() -> None:
    torch.manual_seed(0)
    vae, others = VideoVae(SIZE), some_clips(8, 9, seed=1)
    random_error = (vae.decode(vae.encode(others)) - others).square().mean()
    vae.start_linear(some_clips(40, 9))
    assert (vae.decode(vae.encode(others)) - others).square().mean() < 0.1 * random_error


@torch.no_grad()
def test_a_still_clip_s_latents_change_little_over_time_after_the_linear_start() -> None:
    vae = VideoVae(SIZE)
    vae.start_linear(some_clips(40, 9))
    latents = vae.encode(some_clips(8, 1, seed=1).expand(-1, -1, 9, -1, -1))
    torch.testing.assert_close(latents[:, :, 1], latents[:, :, 2], atol=1e-5, rtol=1e-5)
    assert (latents[:, :, 0] - latents[:, :, 1]).square().mean() < 0.1 * latents.square().mean()


@torch.no_grad()
def test_the_linear_start_takes_images_and_flat_clips() -> None:
    for clips in (some_clips(20, 1), torch.zeros(2, 3, 5, 16, 16)):
        vae = VideoVae(SIZE)
        vae.start_linear(clips)
        assert (vae.decode(vae.encode(clips)) - clips).square().mean() < 0.1


@torch.no_grad()
def test_the_linear_start_samples_every_column_of_many_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.models.vae.MAX_FITTED_PATCHES", 64)
    columns = torch.tensor([-1.0, 1.0]).repeat(4).repeat_interleave(8)  # dark and bright patches in turns
    clips = columns.expand(8, 3, 5, 16, 64) + 0.01 * some_clips(8, 5, side=64)[..., :16, :]
    vae = VideoVae(SIZE)
    vae.start_linear(clips)
    assert (vae.decode(vae.encode(clips)) - clips).square().mean() < 1e-3


def test_principal_axes_do_not_depend_on_a_sign() -> None:
    rows = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 7)
    _, axes, variances = principal_axes(rows, 3)
    _, mirrored, _ = principal_axes(-rows, 3)
    torch.testing.assert_close(axes, mirrored, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(((rows - rows.mean(0)) @ axes).var(0, unbiased=False), variances, atol=1e-3, rtol=1e-4)


def test_gradients_reach_every_parameter() -> None:
    vae = trained_like().train()
    clip = some_clips(2, 5)
    reconstruction, mean, log_variance = vae(clip, torch.randn(2, 8, 2, 4, 4))
    ((reconstruction - clip).square().mean() + mean.square().mean() + log_variance.square().mean()).backward()
    without = [name for name, parameter in vae.named_parameters() if parameter.grad is None or parameter.grad.abs().max() == 0]
    assert without == []


def test_noise_moves_latents_by_their_standard_deviation() -> None:
    vae, clip = trained_like(), some_clips(1, 5)
    with torch.no_grad():
        plain, mean, log_variance = vae(clip)
        noise = torch.ones_like(mean)
        moved, _, _ = vae(clip, noise)
        by_hand = vae.decode(
            (mean + (log_variance / 2).exp() - vae.latents_mean.view(1, -1, 1, 1, 1)) / vae.latents_std.view(1, -1, 1, 1, 1)
        )
    torch.testing.assert_close(moved, by_hand, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(moved, plain)


@torch.no_grad()
def test_normalised_latents_have_mean_zero_and_deviation_one() -> None:
    vae, clips = trained_like(), some_clips(16, 9)
    raw, _ = vae.moments(clips)
    vae.set_normalisation(raw.mean((0, 2, 3, 4)), raw.std((0, 2, 3, 4)))
    latents = vae.encode(clips)
    torch.testing.assert_close(latents.mean((0, 2, 3, 4)), torch.zeros(8), atol=1e-4, rtol=0)
    torch.testing.assert_close(latents.std((0, 2, 3, 4)), torch.ones(8), atol=1e-4, rtol=0)
    torch.testing.assert_close(vae.decode(latents), vae(clips)[0], atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("size", PUBLISHED)
def test_a_saved_vae_is_the_same_after_loading(tmp_path: Path, size: VaeSize) -> None:
    vae, clip = trained_like(size), some_clips(2, 9)
    save_vae(tmp_path / "vae", vae, {"clip": {"fps": 8}})
    loaded = load_vae(tmp_path / "vae")
    assert loaded.size == vae.size
    torch.testing.assert_close(loaded.encode(clip), vae.encode(clip), atol=1e-5, rtol=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), vae.state_dict().values(), strict=True))


def test_clips_that_do_not_fit_are_refused_with_the_nearest_that_do() -> None:
    vae = VideoVae(SIZE)
    for shape, words in (
        ((1, 3, 8, 16, 16), "the nearest are 5 and 9"),
        ((1, 3, 5, 20, 16), "height of 20 is not a multiple of 8; the nearest is 16"),
        ((1, 3, 5, 16, 3), "width of 3 is not a multiple of 8; the nearest is 8"),
        ((1, 4, 5, 16, 16), r"\(B, 3, T, H, W\)"),
    ):
        with pytest.raises(ValueError, match=words):
            vae.encode(torch.zeros(shape))


def test_the_first_log_variance_is_small_beside_the_latents() -> None:
    vae, clips = VideoVae(SIZE), some_clips(40, 9)
    vae.start_linear(clips)
    with torch.no_grad():
        mean, log_variance = vae.moments(clips)
    assert math.sqrt(log_variance.exp().mean()) < 0.1 * mean.square().mean().sqrt()
