import json
from pathlib import Path

import av
import numpy as np
import pytest

from components.generate.output import film_bytes, write_film
from components.generate.verbs import Film
from components.media.probe import read_metadata
from components.media.read import decode_clip, read_frames

MADE = {"prompt": 'a "red" square; moves = left', "rewritten": "a red square moves left", "seed": 2**40, "settings": {"sampler": "heun"}}


@pytest.fixture
def film() -> Film:
    frames = np.arange(10, dtype=np.uint8)[None, :, None, None, None] * np.full((1, 10, 32, 48, 3), 20, np.uint8)
    return Film(10, np.zeros(10, bool), iter(np.split(frames, [1, 7], axis=1)))


def test_a_film_is_a_file_that_browsers_play_from_its_first_byte_on(film: Film, tmp_path: Path) -> None:
    (tmp_path / "out.png").write_bytes(b"a picture of somebody's")
    sheet = write_film(tmp_path / "out.mp4", film, 8, MADE)
    held = (tmp_path / "out.mp4").read_bytes()
    assert held.index(b"moov") < held.index(b"mdat")  # else a browser has to have all of it first
    with av.open(str(tmp_path / "out.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt, stream.average_rate) == ("h264", "yuv420p", 8)
    means = [round(float(frame.mean()) / 20) for frame in decode_clip(held)]
    assert means == list(range(10))
    (picture,) = read_frames(sheet)
    assert sheet == tmp_path / "out.sheet.png"
    assert (tmp_path / "out.png").read_bytes() == b"a picture of somebody's"
    assert (picture.height, picture.width) == (96, 9 * 144 + 8 * 2)  # nine of ten frames, three times as large
    assert picture.rgb[0, 0].tolist() == [0, 0, 0]
    assert picture.rgb[0, -1].tolist() == [180, 180, 180]


def test_what_made_a_film_is_read_from_its_file_again(film: Film, tmp_path: Path) -> None:
    write_film(tmp_path / "out.mp4", film, 8, MADE)
    said = read_metadata(tmp_path / "out.mp4")
    assert said["title"] == MADE["prompt"]
    assert json.loads(said["comment"]) == MADE


def test_the_bytes_of_a_film_are_the_same_video(film: Film, tmp_path: Path) -> None:
    held = film_bytes(film, 8, MADE)
    (tmp_path / "out.mp4").write_bytes(held)
    assert decode_clip(held).shape == (10, 32, 48, 3)
    assert json.loads(read_metadata(tmp_path / "out.mp4")["comment"]) == MADE
