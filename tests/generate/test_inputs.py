from pathlib import Path

import numpy as np
import pytest

from components.generate.inputs import _covering, is_still, read_image, read_video, size_of
from components.media.read import Frame
from components.media.write import write_video
from tests.heic import write_heic


def film(path: Path, frames: np.ndarray, fps: int) -> Path:
    write_video(path, frames, fps, crf=0, pix_fmt="yuv444p")
    return path


def flat(levels: list[int], height: int = 32, width: int = 32) -> np.ndarray:
    return np.broadcast_to(np.array(levels, np.uint8)[:, None, None, None], (len(levels), height, width, 3)).copy()


@pytest.mark.parametrize(
    ("fps", "wanted", "picked"),
    [(8, 8, list(range(12))), (24, 8, [0, 3, 6, 9]), (12, 8, [0, 1, 3, 4, 6, 7, 9, 10]), (4, 8, [0, 0, 1, 1, 2, 2, 3, 3])],
)
def test_a_video_is_read_at_another_rate_by_its_nearest_frames(tmp_path: Path, fps: int, wanted: int, picked: list[int]) -> None:
    levels = [20 * k for k in range(12)]
    fitted = read_video(film(tmp_path / "in.mp4", flat(levels), fps), 32, 32, wanted)
    read = fitted.frames
    found = [round(float(frame.mean()) / 20) for frame in read]
    if fps == 12:  # halfway between two frames either is nearest
        assert len(found) == len(picked)
        assert all(abs(a - k * 1.5) <= 0.5 for k, a in enumerate(found))
    else:
        assert found[: len(picked)] == picked
    said = {
        8: [],
        24: ["`{}` has 24 frames a second and the model 8: of its 12 frames 8 are left out"],
        12: ["`{}` has 12 frames a second and the model 8: of its 12 frames 4 are left out"],
        4: ["`{}` has 4 frames a second and the model 8: of its 12 frames 11 are shown longer"],
    }
    assert fitted.notes == [note.format(tmp_path / "in.mp4") for note in said[fps]]


def test_a_picture_of_another_aspect_is_cut_around_its_middle_and_that_is_said(tmp_path: Path) -> None:
    wide = np.zeros((1, 32, 96, 3), np.uint8)
    wide[:, :, 32:64] = 255
    path = film(tmp_path / "wide.mp4", wide, 8)
    fitted = read_image(path, 32, 32)
    assert fitted.frames.shape == (1, 32, 32, 3)
    assert fitted.frames.min() > 200
    assert fitted.notes == [f"`{path}` is 96x32, another aspect than 32x32: its middle is kept and 67% cut; hint: one of 1:1 stays whole"]
    assert read_image(path, 16, 48).notes == []
    assert size_of(path) == (32, 96)
    assert np.array_equal(read_image(path.read_bytes(), 32, 32).frames, fitted.frames)


def test_a_video_that_is_too_long_is_refused_with_the_way_to_cut_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.generate.inputs.MOST_FRAMES", 16)
    path = film(tmp_path / "a film.mp4", flat([0] * 17), 8)
    assert len(read_video(path, 32, 32, 7).frames) == 15
    said = "film.mp4` has more than 16 frames at the model's rate, .*; hint: cut it, for example `ffmpeg -i '.*/a film.mp4' -t 2 short.mp4`"
    with pytest.raises(ValueError, match=said):
        read_video(path, 32, 32, 8)
    with pytest.raises(ValueError, match=r"the given file has more than 16 frames .* `ffmpeg -i FILE -t 2 short.mp4`"):
        read_video(path.read_bytes(), 32, 32, 8)


def test_no_frame_that_is_left_out_is_scaled_and_no_larger_picture_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scaled: list[int] = []

    def covering(frame: Frame, height: int, width: int) -> np.ndarray:
        scaled.append(frame.index)
        return _covering(frame, height, width)

    monkeypatch.setattr("components.generate.inputs._covering", covering)
    path = film(tmp_path / "wide.mp4", flat([20 * k for k in range(12)], width=96), 24)
    read = read_video(path, 32, 32, 8).frames
    assert len(read) == len(scaled) == 4
    assert read.flags.writeable
    picture = read_image(path, 32, 32).frames
    assert picture.base is None or picture.base.nbytes == picture.nbytes


def test_a_single_picture_is_told_from_a_film(tmp_path: Path) -> None:
    assert is_still(film(tmp_path / "still.mp4", flat([0]), 8))
    assert not is_still(film(tmp_path / "film.mp4", flat([0, 0]), 8))


def test_a_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "words.mp4").write_text("no film")
    with pytest.raises(ValueError, match=r"words.mp4` cannot be used: .*; hint: a video or an image that `ffmpeg` plays"):
        read_video(tmp_path / "words.mp4", 32, 32, 8)
    with pytest.raises(ValueError, match=r"nothing.png` is not a file; hint"):
        read_image(tmp_path / "nothing.png", 32, 32)
    with pytest.raises(ValueError, match="the given file cannot be used"):
        size_of(b"no film")


def test_a_picture_in_tiles_is_refused_with_one_way_out(tmp_path: Path) -> None:
    path = write_heic(tmp_path / "phone.heic", tiles=2)
    for ask in (size_of, is_still, lambda path: read_image(path, 32, 32), lambda path: read_image(path.read_bytes(), 32, 32)):
        with pytest.raises(ValueError, match=r"cannot be used: its picture is in tiles .*; hint: save it as JPEG or PNG$"):
            ask(path)
