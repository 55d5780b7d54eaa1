"""Probing: limits hold before anything is decoded, and every kind of broken file has its own reason."""

import numpy as np
import pytest

from components.config import load_config
from components.media.probe import is_encrypted, probe
from components.media.read import UnusableFile
from components.media.write import encode_png, write_video
from tests.footage import clip, needs_footage
from tests.heic import write_heic

FOOTAGE = load_config().footage


def film(path, num_frames=12, height=32, width=48):
    frames = np.random.default_rng(0).integers(0, 255, (num_frames, height, width, 3), dtype=np.uint8)
    write_video(path, frames, 8)
    return path


@pytest.mark.parametrize(
    ("limit", "reason"),
    [
        ({"max_frames": 11}, "12 frames, more than `footage.max_frames` 11"),
        ({"max_seconds": 1.0}, "2 seconds, more than `footage.max_seconds` 1"),
        ({"max_side_pixels": 40}, "48x32 pixels, more than `footage.max_side_pixels` 40"),
        ({"min_side_pixels": 33}, "48x32 pixels, less than `footage.min_side_pixels` 33"),
        ({"max_file_bytes": 100}, "bytes, more than `footage.max_file_bytes` 100"),
    ],
)
def test_a_header_that_breaks_a_limit_names_it(tmp_path, limit, reason):
    with pytest.raises(UnusableFile, match=reason):
        probe(film(tmp_path / "film.mp4"), FOOTAGE.model_copy(update=limit))


def test_a_whole_film_is_described(tmp_path):
    found = probe(film(tmp_path / "film.mp4"), FOOTAGE)
    assert (found.container, found.codec, found.pix_fmt) == ("mov", "h264", "yuv420p")
    assert (found.width, found.height, found.fps, found.declared_frames, found.kind) == (48, 32, 8, 12, "video")
    assert not found.has_audio
    assert found.notes == []


def test_a_picture_is_an_image(tmp_path):
    (tmp_path / "still.png").write_bytes(encode_png(np.zeros((20, 30, 3), np.uint8)))
    found = probe(tmp_path / "still.png", FOOTAGE)
    assert (found.kind, found.width, found.height, found.fps) == ("image", 30, 20, None)


@pytest.mark.parametrize(("content", "reason"), [(b"", "the file is empty"), (b"no film at all " * 40, "it cannot be opened")])
def test_what_is_no_film_says_so(tmp_path, content, reason):
    (tmp_path / "film.mp4").write_bytes(content)
    with pytest.raises(UnusableFile, match=reason):
        probe(tmp_path / "film.mp4", FOOTAGE)


def test_a_picture_in_tiles_is_not_taken_for_its_first_tile_nor_its_thumbnail(tmp_path):
    with pytest.raises(UnusableFile, match=r"its picture is in tiles .*; hint: save it as JPEG or PNG"):
        probe(write_heic(tmp_path / "tiles.heic", tiles=2), FOOTAGE)
    found = probe(write_heic(tmp_path / "whole.heic", tiles=1), FOOTAGE)
    assert (found.height, found.width) == (64, 64)
    assert found.notes == ["the main one of 2 video streams taken"]


def test_a_film_whose_index_is_lost_cannot_be_opened(tmp_path):
    path = film(tmp_path / "film.mp4", num_frames=40, height=64, width=64)
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"moov")])
    with pytest.raises(UnusableFile, match="it cannot be opened"):
        probe(path, FOOTAGE)


REASONS = {
    "broken/-video-with-dash-.mp4": "1x1 pixels",
    "broken/empty_0_bytes.webm": "empty",
    "broken/mp4ff__init_truncated.mp4": "header is cut off",
    "broken/mp4ff__prog_8s_enc_dashinit.mp4": "encrypted",
    "broken/mp4ff__stpp_prog.mp4": "no pictures, only subtitle",
    "broken/mp4ff__two-frames.264": "cannot be opened",
    "broken/mp4parse-rust__bipbop_cbcs_video_init.mp4": "encrypted",
    "broken/mp4parse-rust__invalid_userdata.mp4": "no frame of the 5544 that its header promises",
    "broken/mp4parse-rust__sine-3s-xhe-aac-44khz-mono.mp4": "no pictures, only audio",
    "broken/mp4parse-rust__test_case_1185230.mp4": "no frame of it decodes",
    "broken/mp4parse-rust__video_colr_nclx_hdr10.mp4": "2x2 pixels",
    "broken/streamio-ffmpeg__broken.mp4": "moov atom not found",
}


@needs_footage
@pytest.mark.parametrize("name", REASONS)
def test_a_broken_file_has_its_reason(name):
    with pytest.raises(UnusableFile, match=REASONS[name]):
        probe(clip(name), FOOTAGE)


@needs_footage
@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("broken/streamio-ffmpeg__ios9.mov", "turned by 90 degrees to the right"),
        ("broken/streamio-ffmpeg__ios9.mov", "audio dropped"),
        ("broken/mp4parse-rust__no_timescale.mp4", "a rotation that makes no sense ignored"),
        ("broken/mp4parse-rust__h264_white_frame_sar_16_9.mp4", "pixels 16:9 made square"),
        ("broken/torchcodec__h264_10bits.mp4", "yuv420p10le reduced to 8 bits"),
        ("multishot/torchcodec__nasa_13013.mp4", "the first of 2 video streams taken"),
    ],
)
def test_what_is_changed_or_dropped_is_noted(name, note):
    assert note in probe(clip(name), FOOTAGE).notes


@needs_footage
def test_encryption_is_told_by_the_header_alone():
    assert is_encrypted(clip("broken/mp4ff__prog_8s_enc_dashinit.mp4"))
    assert not is_encrypted(clip("clips/aana-sdk__squirrel.mp4"))
    assert not is_encrypted(clip("broken/mp4ff__vp9.ivf"))
