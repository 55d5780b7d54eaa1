"""Written videos play everywhere, keep their colours and what was said about them, and are there whole or not at all."""

import io
from fractions import Fraction

import av
import numpy as np
import pytest

from components.media.write import encode_clip, replacing, write_sheet, write_video
from components.world.render import render_clips


@pytest.fixture(scope="module")
def clip():
    return render_clips("demo", 1, seed=1)[0][0]


def opened(source):
    with av.open(io.BytesIO(source) if isinstance(source, bytes) else str(source)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        return np.stack([frame.to_ndarray(format="rgb24") for frame in frames]), frames, stream, dict(container.metadata)


def psnr(a, b):
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2))


def test_a_video_is_what_browsers_play(clip, tmp_path):
    assert write_video(tmp_path / "a.mp4", clip, 8) is None
    pixels, frames, stream, _ = opened(tmp_path / "a.mp4")
    assert pixels.shape == clip.shape
    assert psnr(pixels, clip) > 30
    assert (stream.codec_context.name, stream.codec_context.pix_fmt, stream.codec_context.profile) == ("h264", "yuv420p", "High")
    assert (frames[0].colorspace, frames[0].color_range, frames[0].color_primaries, frames[0].color_trc) == (1, 1, 1, 1)
    raw = (tmp_path / "a.mp4").read_bytes()
    assert raw.index(b"moov") < raw.index(b"mdat")


@pytest.mark.parametrize("rate", [8, 24, Fraction(24000, 1001), Fraction(30000, 1001)])
def test_frames_stand_at_their_times(clip, rate):
    _, frames, stream, _ = opened(write_video(None, clip, rate))
    assert stream.average_rate == rate
    assert [float(frame.pts * frame.time_base) for frame in frames] == pytest.approx([i / float(rate) for i in range(9)], abs=1e-3)


def test_odd_sizes_grow_by_a_repeated_edge(clip):
    pixels, *_ = opened(write_video(None, clip[:, :63, :61], 8, crf=4))
    assert pixels.shape == (9, 64, 62, 3)
    assert psnr(pixels[:, :63, :61], clip[:, :63, :61]) > 30
    assert psnr(pixels[:, 63], pixels[:, 62]) > 25


def test_one_frame_is_a_video(clip):
    assert opened(write_video(None, clip[:1], 8))[0].shape == (1, 64, 64, 3)


def test_metadata_comes_back(clip, tmp_path):
    said = {"prompt": "a red square; \u00e0 gauche", "seed": "3", "comment": "x"}
    write_video(tmp_path / "a.mp4", clip, 8, metadata=said)
    assert said.items() <= opened(tmp_path / "a.mp4")[3].items()


def test_the_same_frames_are_the_same_bytes_in_memory_and_in_a_file(clip, tmp_path):
    held = write_video(None, clip, 8, metadata={"prompt": "a red square"})
    write_video(tmp_path / "a.mp4", clip, 8, metadata={"prompt": "a red square"})
    assert held == write_video(None, clip, 8, metadata={"prompt": "a red square"}) == (tmp_path / "a.mp4").read_bytes()


def test_a_video_in_memory_has_its_index_in_front_and_plays_to_its_end():
    noise = np.random.default_rng(0).integers(0, 255, (40, 256, 256, 3), dtype=np.uint8)  # megabytes, which are moved in pieces
    for video in (write_video(None, noise, 8, crf=4), encode_clip(noise, 8)):
        assert video.index(b"moov") < video.index(b"mdat")
        pixels, frames, *_ = opened(video)
        assert pixels.shape == noise.shape
        assert not any(frame.is_corrupt for frame in frames)
        assert psnr(pixels, noise) > 12


def test_a_clip_for_the_table_keeps_its_colours_better(clip):
    assert psnr(opened(encode_clip(clip, 8))[0], clip) > 42


def test_a_sheet_holds_its_frames_pixel_by_pixel(clip, tmp_path):
    write_sheet(tmp_path / "sheet.png", [clip[:3], clip[3:8]], gap=2)
    sheet, *_ = opened(tmp_path / "sheet.png")
    assert sheet.shape == (1, 130, 5 * 64 + 4 * 2, 3)
    assert np.array_equal(sheet[0, :64, 66:130], clip[1])
    assert np.array_equal(sheet[0, 66:, :64], clip[3])
    assert (sheet[0, :64, 200:] == 255).all()


def test_a_write_that_breaks_leaves_the_old_file_and_nothing_else(clip, tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"old")

    def broken():
        with replacing(path) as temporary, open(temporary, "wb") as half:
            half.write(b"half")
            raise KeyError("broken")

    with pytest.raises(KeyError):
        broken()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_may_be_as_long_as_the_file_system_lets_it(clip, tmp_path):
    path = tmp_path / f"{'a' * 251}.mp4"
    write_video(path, clip[:2], 8)
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_is_said_by_its_own_name_and_leaves_nothing(clip, tmp_path):
    path = tmp_path / "a.mp4"
    path.mkdir()
    with pytest.raises(IsADirectoryError) as raised:
        write_video(path, clip[:2], 8)
    assert raised.value.filename == str(path)
    assert list(tmp_path.iterdir()) == [path]
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError) as raised:
        write_video(tmp_path / "file" / "b.mp4", clip[:2], 8)
    assert raised.value.filename in (str(tmp_path / "file" / "b.mp4"), str(tmp_path / "file"))


@pytest.mark.parametrize("frames", [np.zeros((2, 8, 8, 3), np.float32), np.zeros((8, 8, 3), np.uint8), np.zeros((0, 8, 8, 3), np.uint8)])
def test_what_is_no_video_is_refused(frames):
    with pytest.raises(ValueError, match="frames are uint8"):
        write_video(None, frames, 8)
