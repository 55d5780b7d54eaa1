"""A file goes through the VAE and comes out beside itself, whatever its size and length."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from components.generate.reconstruct import GAP_PIXELS, reconstruct
from components.measure.distortion import psnr, ssim
from components.media.read import UnusableFile, decode_clip
from components.media.write import write_video
from components.models.vae import VideoVae
from tests.models.test_vae import SIZE, some_clips


@pytest.fixture(scope="module")
def vae() -> VideoVae:
    """Principal components of waves like those that are passed through."""
    vae = VideoVae(SIZE)
    vae.start_linear(some_clips(40, 9))
    return vae.eval()


def waves(frames: int, height: int, width: int) -> np.ndarray:
    clip = some_clips(1, frames, side=max(height, width), seed=3)[0, :, :, :height, :width]
    return ((clip + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 3, 0).numpy()


@pytest.mark.parametrize(("frames", "height", "width"), [(9, 32, 48), (1, 32, 32), (38, 50, 44), (16, 34, 32), (6, 180, 330)])
def test_a_file_and_what_the_vae_makes_of_it_stand_side_by_side(
    vae: VideoVae, tmp_path: Path, frames: int, height: int, width: int
) -> None:
    write_video(tmp_path / "in.mp4", waves(frames, height, width), 8, crf=0)
    told: list[int] = []
    like = reconstruct(vae, tmp_path / "in.mp4", tmp_path / "out.mp4", Fraction(8), tile_pixels=80, progress=told.append)
    read, shown = decode_clip((tmp_path / "in.mp4").read_bytes()), decode_clip((tmp_path / "out.mp4").read_bytes())
    assert len(shown) == len(read) == frames
    assert told == list(range(1, frames + 1))
    by_hand = _through(vae, read)
    beside = np.concatenate([read, np.full((frames, height, GAP_PIXELS, 3), 255, np.uint8), by_hand], axis=2)
    assert psnr(shown, decode_clip(write_video(None, beside, 8) or b"")) > 45
    assert like.psnr == pytest.approx(psnr(read, by_hand), abs=0.05)
    assert like.ssim == pytest.approx(ssim(read, by_hand), abs=0.005)


def _through(vae: VideoVae, frames: np.ndarray) -> np.ndarray:
    """Passes frames through as a whole, continued by their edges to what fits."""
    count, height, width, _ = frames.shape
    padded = np.pad(frames, ((0, -(count - 1) % 4), (0, -height % 8), (0, -width % 8), (0, 0)), mode="edge")
    clip = torch.from_numpy(padded).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    with torch.no_grad():
        back = vae.decode(vae.encode(clip))[0]
    pixels: np.ndarray = ((back.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 3, 0).numpy()
    return pixels[:count, :height, :width]


def test_few_frames_are_held_however_long_a_file_is(vae: VideoVae, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path / "in.mp4", waves(120, 32, 32), 8)
    from components.generate import reconstruct as module

    read, written = 0, 0

    def counting(source: Path) -> Iterator[object]:
        nonlocal read
        for frame in read_frames(source):
            read += 1
            assert read - written <= 2 * module.FIRST_FRAMES
            yield frame

    def count(done: int) -> None:
        nonlocal written
        written = done

    read_frames = module.read_frames
    monkeypatch.setattr(module, "read_frames", counting)
    reconstruct(vae, tmp_path / "in.mp4", tmp_path / "out.mp4", Fraction(8), progress=count)
    assert read == written == 120


def test_a_file_without_a_picture_is_refused_and_nothing_is_left(vae: VideoVae, tmp_path: Path) -> None:
    (tmp_path / "in.mp4").write_bytes(b"no film")
    with pytest.raises(UnusableFile):
        reconstruct(vae, tmp_path / "in.mp4", tmp_path / "out.mp4", Fraction(8))
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]
