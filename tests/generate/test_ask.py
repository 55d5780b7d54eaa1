"""One call: which verb is meant, and what does not go together."""

from pathlib import Path

import numpy as np
import pytest

from components.generate.ask import Ask, make
from components.generate.generator import Generator
from components.media.write import write_video
from components.world.render import render_clips
from tests.generate.test_generator import CAPTIONS, folder, generator  # noqa: F401  (small untrained parts)

PROMPT = CAPTIONS[0]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A film of 14 frames of 32x32 at the model's rate."""
    path = tmp_path_factory.mktemp("films") / "film.mp4"
    write_video(path, render_clips("demo", 1, num_frames=14, height=32, width=32, seed=1)[0][0], 8, crf=0, pix_fmt="yuv444p")
    return path


@pytest.mark.parametrize(
    ("asked", "verb", "frames", "given"),
    [
        ({}, "text to video", 9, []),
        ({"num_frames": 1}, "text to image", 1, []),
        ({"seconds": 1.0}, "text to video", 9, []),
        ({"height": 40}, "text to video", 5, []),
        ({"image": "VIDEO"}, "image to video", 9, [0]),
        ({"key_frames": [("VIDEO", 0.0), ("VIDEO", 1.0)]}, "key frames", 9, [0, 5, 6, 7, 8]),
        ({"loop": True}, "loop", 13, []),
        ({"image": "VIDEO", "loop": True}, "loop", 13, [0]),
        ({"extend": "VIDEO"}, "extend", 18, range(14)),
        ({"extend": "VIDEO", "seconds": 1.25}, "extend", 24, range(14)),
        ({"extend": "VIDEO", "backward": True, "num_frames": 7}, "extend backward", 21, range(7, 21)),
        ({"extend": "VIDEO", "loop": True}, "loop", 18, range(14)),
        ({"connect": ("VIDEO", "VIDEO"), "seconds": 0.4}, "connect", 32, [*range(14), *range(18, 32)]),
        ({"edit": "VIDEO", "strength": 0.3}, "edit", 14, []),
    ],
)
def test_every_verb_is_one_call(generator: Generator, video: Path, asked: dict, verb: str, frames: int, given: list[int]) -> None:  # type: ignore[type-arg] # noqa: F811
    with_files = {name: _with(value, video) for name, value in asked.items()}
    generator = generator if "height" not in asked else _of_narrow(generator)
    making = make(generator, Ask(PROMPT, **with_files), 3, num_inference_steps=1)
    assert (making.verb, making.film.num_frames) == (verb, frames)
    assert np.flatnonzero(making.film.given).tolist() == list(given)
    assert making.film.whole().shape[:2] == (1, frames)
    assert making.notes == []


def test_the_size_is_the_seen_one_nearest_in_aspect(generator: Generator, tmp_path: Path) -> None:  # noqa: F811
    write_video(tmp_path / "wide.mp4", np.zeros((1, 54, 96, 3), np.uint8), 8)
    making = make(generator, Ask(PROMPT, image=tmp_path / "wide.mp4"), 3, num_inference_steps=1)
    assert making.film.whole().shape == (1, 5, 24, 40, 3)
    assert making.notes[0].startswith(f"`{tmp_path / 'wide.mp4'}` is 96x54, another aspect than 40x24: its middle is kept and 7% cut")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"image": "a.png", "extend": "b.mp4"}, "`--image` and `--extend` are two things to make"),
        ({"backward": True}, "`--backward` says where `--extend` goes"),
        ({"extend": "a.mp4", "backward": True, "loop": True}, "a loop has no such way"),
        ({"connect": ("a.mp4", "b.mp4"), "loop": True}, "`--loop` does not go with `--connect`"),
        ({"strength": 0.5}, "`--strength` is of an edit; hint: `--edit VIDEO --strength 0.6`"),
        ({"num_frames": 9, "seconds": 1.0}, "say the same; hint: give one of them"),
        ({"edit": "a.mp4", "num_frames": 9}, "an edit is as long as its video"),
        ({"seconds": 0.0}, "`--seconds` is above 0, not 0.0"),
    ],
)
def test_what_does_not_go_together_is_said(asked: dict, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(ValueError, match=message):
        Ask(PROMPT, **asked)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"prompt": " "}, "the prompt is empty; hint: say what should be seen"),
        ({"image": "nothing.png"}, "`nothing.png` is not a file"),
        ({"width": 128}, "the model never saw `width` 128, only 40x24 and 32x32; hint"),
        ({"seconds": 3.0}, "the model never saw clips of 25 frames"),
        ({"key_frames": [("VIDEO", 2.0)]}, "there is no moment 2 s in a clip of 9 frames; hint: from 0 to 1 s"),
        ({"key_frames": [("VIDEO", 0.2), ("VIDEO", 0.4)]}, "two pictures fall together at 0.4 s; hint: at least 0.5 s between them"),
        ({"connect": ("VIDEO", "VIDEO"), "num_frames": 6}, "a multiple of 4 frames, at most 4, not 6"),
    ],
)
def test_what_cannot_be_made_is_one_sentence(generator: Generator, video: Path, asked: dict, message: str) -> None:  # type: ignore[type-arg] # noqa: F811
    with pytest.raises(ValueError, match=message):
        make(generator, Ask(**{"prompt": PROMPT, **{name: _with(value, video) for name, value in asked.items()}}), 3)


def _with(value: object, video: Path) -> object:
    """Puts the video in the place of its name."""
    if isinstance(value, list | tuple):
        return type(value)(_with(entry, video) for entry in value)
    return video if value == "VIDEO" else value


def _of_narrow(generator: Generator) -> Generator:  # noqa: F811
    from dataclasses import replace

    return replace(generator, notes={**generator.notes, "latents_shapes": [[16, 3, 4, 4], [16, 2, 5, 3]]})
