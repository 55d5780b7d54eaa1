import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from components.config import load_config
from components.generate.inputs import _covering, is_still, read_image, read_video, size_of
from components.media.probe import probe
from components.media.read import Frame
from components.media.write import write_video
from tests.heic import write_heic


def film(path: Path, frames: np.ndarray, fps: int) -> Path:
    write_video(path, frames, fps, crf=0, pix_fmt="yuv444p")
    return path


def sounding(path: Path, pix_fmt: str = "yuv420p", transfer: int = 1) -> Path:
    """A film of eight frames with sound."""
    with av.open(str(path), "w") as container:
        stream, sound = container.add_stream("ffv1", rate=8), container.add_stream("pcm_s16le", rate=8000)
        stream.height, stream.width, stream.pix_fmt = 32, 32, pix_fmt
        stream.codec_context.color_trc = transfer
        sound.layout = "mono"
        noise = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
        noise.rate, noise.pts = 8000, 0
        for at, picture in enumerate(flat([20 * k for k in range(8)])):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pix_fmt)
            frame.pts, frame.color_trc = at, transfer
            container.mux(stream.encode(frame))
        container.mux([*stream.encode(None), *sound.encode(noise), *sound.encode(None)])
    return path


def noise_film(path: Path, count: int = 24) -> tuple[Path, int, int]:
    """A film of noise whose header stands first, and where its frames' bytes begin and end."""
    frames = np.random.default_rng(0).integers(0, 255, (count, 64, 64, 3), dtype=np.uint8)
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=8, options={"crf": "10", "bf": "0", "x264-params": "log-level=none"})
        stream.height = stream.width = 64
        stream.pix_fmt, stream.codec_context.gop_size = "yuv420p", 4
        for at, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = at
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    data = path.read_bytes()
    start = data.index(b"mdat") + 4
    return path, start, start - 8 + struct.unpack(">I", data[start - 8 : start - 4])[0]


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
    with pytest.raises(ValueError, match=r"words.mp4` cannot be used: .*; hint: a video as MP4, .*, or an image as JPEG, PNG, "):
        read_video(tmp_path / "words.mp4", 32, 32, 8)
    with pytest.raises(ValueError, match=r"nothing.png` is not a file; hint"):
        read_image(tmp_path / "nothing.png", 32, 32)
    with pytest.raises(ValueError, match="the given file cannot be used"):
        size_of(b"no film")


def test_a_picture_that_is_clear_or_cut_off_says_so(tmp_path: Path) -> None:
    clear, cut = tmp_path / "clear.png", tmp_path / "cut.jpg"
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 4), dtype=np.uint8)
    for path, codec_name, pix_fmt in ((clear, "png", "rgba"), (cut, "mjpeg", "yuvj420p")):
        codec = av.CodecContext.create(codec_name, "w")
        codec.height, codec.width, codec.pix_fmt, codec.time_base = 64, 64, pix_fmt, Fraction(1)
        frame = av.VideoFrame.from_ndarray(pixels, format="rgba").reformat(format=pix_fmt)
        path.write_bytes(b"".join(bytes(packet) for packet in [*codec.encode(frame), *codec.encode(None)]))
    assert read_image(cut, 64, 64).notes == []
    cut.write_bytes(cut.read_bytes()[:2000])
    filled_in = "damaged or cut off: a part of the picture does not decode and is filled in"
    for read in (lambda path: read_image(path, 64, 64), lambda path: read_video(path, 64, 64, 8)):
        assert read(clear).notes == [f"`{clear}`: transparency laid over black"]
        assert read(cut).notes == [f"`{cut}`: {filled_in}"]
    assert probe(cut, load_config().footage).notes == [filled_in]


def test_a_video_that_loses_its_sound_or_brightness_says_so_and_a_picture_of_it_what_it_loses(tmp_path: Path) -> None:
    plain, bright = sounding(tmp_path / "plain.mkv"), sounding(tmp_path / "bright.mkv", "yuv420p10le", 18)
    assert read_video(plain, 32, 32, 8).notes == [f"`{plain}`: audio dropped"]
    assert read_image(plain, 32, 32).notes == []
    lost = "yuv420p10le reduced to 8 bits, HLG colours taken as they are, not tone-mapped"
    assert read_video(bright, 32, 32, 8).notes == [f"`{bright}`: audio dropped, {lost}"]
    assert read_image(bright.read_bytes(), 32, 32).notes == [f"the given file: {lost}"]


def test_a_damaged_video_says_what_is_missing_and_nothing_of_its_rate(tmp_path: Path) -> None:
    path, start, end = noise_film(tmp_path / "film.mp4")
    assert read_video(path, 64, 64, 8).notes == []
    data = bytearray(path.read_bytes())
    begin = start + (end - start) * 3 // 8
    data[begin : begin + (end - start) // 4] = bytes((end - start) // 4)
    (tmp_path / "damaged.mp4").write_bytes(data)
    fitted = read_video(tmp_path / "damaged.mp4", 64, 64, 8)
    assert len(fitted.frames) == 24
    (note,) = fitted.notes
    whole = int(note.split(" decode")[0].split("cut off: ")[1].split(" of 24 frames")[0])
    assert 12 <= whole < 20
    assert "from 0.0 to 2.9 s" in note
    (other,) = read_video(tmp_path / "damaged.mp4", 64, 64, 4).notes[1:]
    assert other.startswith(f"`{tmp_path / 'damaged.mp4'}` has 8 frames a second and the model 4: of its {whole} frames ")


def test_a_picture_of_a_video_whose_beginning_is_damaged_says_when_it_is(tmp_path: Path) -> None:
    path, start, end = noise_film(tmp_path / "film.mp4")
    data = bytearray(path.read_bytes())
    data[start : start + (end - start) // 6] = bytes((end - start) // 6)
    path.write_bytes(data)
    assert read_image(path, 64, 64).notes == [f"`{path}` is damaged: what is taken is its first picture that decodes, at 0.5 s"]


def test_a_video_whose_end_is_cut_off_says_where_it_ends(tmp_path: Path) -> None:
    path, start, end = noise_film(tmp_path / "film.mp4")
    path.write_bytes(path.read_bytes()[: start + (end - start) * 2 // 3])
    fitted = read_video(path, 64, 64, 8)
    count = len(fitted.frames)
    assert 12 <= count < 18
    (note,) = fitted.notes
    assert note.startswith(f"`{path}` is damaged or cut off: {count} of 24 frames decode, from 0.0 to {(count - 1) / 8:.1f} s")


def test_a_video_that_ends_before_its_header_says_is_noted(tmp_path: Path) -> None:
    path = sounding(tmp_path / "film.mkv")
    whole = path.read_bytes()
    with av.open(str(path)) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.size]
    path.write_bytes(whole[: places[4] - 8])  # a block's head stands before its data
    notes = read_video(path, 32, 32, 8).notes
    assert notes == [f"`{path}`: audio dropped", f"the header of `{path}` promises 1.0 seconds, 0.4 are there"]


def test_a_picture_in_tiles_is_refused_with_one_way_out(tmp_path: Path) -> None:
    path = write_heic(tmp_path / "phone.heic", tiles=2)
    for ask in (size_of, is_still, lambda path: read_image(path, 32, 32), lambda path: read_image(path.read_bytes(), 32, 32)):
        with pytest.raises(ValueError, match=r"cannot be used: its picture is in tiles .*; hint: save it as JPEG or PNG$"):
            ask(path)
