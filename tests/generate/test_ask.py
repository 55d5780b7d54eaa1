"""One call: which verb is meant, and what does not go together."""

import hashlib
import json
import re
from contextlib import nullcontext
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.generate import verbs
from components.generate.ask import Ask, make
from components.generate.generator import Generator
from components.media.write import write_video
from components.models.dit import DiT
from components.world.render import render_clips
from tests.generate.test_generator import CAPTIONS, SIZE, folder, generator  # noqa: F401  (small untrained parts)

PROMPT = CAPTIONS[0]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A film of 14 frames of 32x32 at the model's rate."""
    path = tmp_path_factory.mktemp("films") / "film.mp4"
    write_video(path, render_clips("demo", 1, num_frames=14, height=32, width=32, seed=1)[0][0], 8, crf=0, pix_fmt="yuv444p")
    write_video(path.with_name("short.mp4"), np.zeros((2, 32, 32, 3), np.uint8), 8)
    write_video(path.with_name("tall.mp4"), np.zeros((14, 96, 48, 3), np.uint8), 8)
    write_video(path.with_name("wide.mp4"), np.zeros((14, 48, 80, 3), np.uint8), 8)
    write_video(path.with_name("still.mp4"), np.zeros((1, 96, 48, 3), np.uint8), 8)
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
    ("asked", "size"),
    [
        ({"image": "TALL"}, (32, 32)),
        ({"image": "TALL", "num_frames": 9}, (32, 32)),
        ({"image": "WIDE", "num_frames": 9}, (32, 32)),
        ({"key_frames": [("TALL", 0.0)], "seconds": 0.5}, (24, 24)),
        ({"extend": "TALL"}, (32, 32)),
        ({"extend": "WIDE", "loop": True}, (32, 32)),
        ({"edit": "TALL"}, (32, 32)),
        ({"edit": "STILL"}, (48, 24)),
        ({"image": "WIDE", "height": 24}, (24, 40)),
        ({"image": "VIDEO", "height": 24}, (24, 24)),
        ({"image": "WIDE", "width": 40}, (24, 40)),
        ({"height": 24}, (24, 24)),
        ({"num_frames": 5}, (24, 24)),
        ({"num_frames": 1, "height": 48}, (48, 24)),
    ],
)
def test_the_size_is_one_at_which_the_model_saw_what_is_asked_for(
    generator: Generator,  # noqa: F811
    video: Path,
    asked: dict[str, Any],
    size: tuple[int, int],
) -> None:
    shapes = [[16, 1, 6, 3], [16, 2, 3, 5], [16, 2, 3, 3], [16, 3, 4, 4]]  # the first, 48x24, as images alone
    making = make(_of_shapes(generator, shapes), Ask(PROMPT, **_given(asked, video)), 3, num_inference_steps=1)
    assert making.film.whole().shape[2:4] == size


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"image": "TALL", "height": 48}, "saw only images at 24x48, and this takes 5 frames; hint: `--height 32 --width 32`"),
        ({"extend": "TALL", "height": 48}, "saw only images at 24x48, and this takes 5 frames; hint: `--height 32 --width 32`"),
        ({"loop": True, "width": 40}, "saw clips of at most 5 frames at 40x24, and this takes 9 frames; hint: `--height 32 --width 32`"),
        ({"num_frames": 9, "height": 48}, "never saw clips of 9 frames at 24x48, only images; hint: `--height 32 --width 32`"),
        ({"num_frames": 7, "height": 48}, "never saw clips of 7 frames at 24x48, only images; hint: `--num-frames 1`$"),
    ],
)
def test_a_length_that_was_seen_at_another_size_is_said_with_that_size(
    generator: Generator,  # noqa: F811
    video: Path,
    asked: dict[str, Any],
    message: str,
) -> None:
    shapes = [[16, 1, 6, 3], [16, 2, 3, 5], [16, 3, 4, 4]]
    with pytest.raises(ValueError, match=message):
        make(_of_shapes(generator, shapes), Ask(PROMPT, **_given(asked, video)), 3, num_inference_steps=1)


OPTIONS = re.compile(r"--(height|width|num-frames) (\d+)")


@pytest.mark.parametrize(
    ("asked", "way"),
    [
        ({"num_frames": 5, "height": 32}, {"num_frames": 9}),
        ({"num_frames": 4, "height": 32}, {"num_frames": 9}),
        ({"num_frames": 11, "height": 32}, {"num_frames": 9}),
        ({"num_frames": 5, "height": 32, "loop": True}, {"num_frames": 9}),
        ({"num_frames": 1, "height": 32, "loop": True}, {"num_frames": 9}),
        ({"num_frames": 5, "height": 48, "loop": True}, {"height": 32, "width": 32, "num_frames": 9}),
        ({"num_frames": 5, "height": 32, "image": "VIDEO"}, {"num_frames": 9}),
        ({"num_frames": 5, "height": 48, "image": "VIDEO"}, {"height": 32, "width": 32, "num_frames": 9}),
        ({"num_frames": 1, "height": 48, "image": "VIDEO"}, {"height": 32, "width": 32, "num_frames": 9}),
        ({"num_frames": 7, "height": 50}, {"height": 40, "width": 40, "num_frames": 9}),
        ({"edit": "STILL", "height": 40}, {"height": 32, "width": 32}),
    ],
)
def test_the_size_and_length_that_a_hint_names_can_be_made(
    generator: Generator,  # noqa: F811
    video: Path,
    asked: dict[str, Any],
    way: dict[str, int],
) -> None:
    shaped = _of_shapes(generator, [[16, 1, 6, 3], [16, 3, 5, 5], [16, 1, 4, 4], [16, 3, 4, 4], [16, 4, 3, 5]])
    with pytest.raises(ValueError, match="hint: ") as raised:
        make(shaped, Ask(PROMPT, **_given(asked, video)), 3, num_inference_steps=1)
    hinted = {name.replace("-", "_"): int(value) for name, value in OPTIONS.findall(str(raised.value).partition("hint: ")[2])}
    assert hinted == way
    make(shaped, Ask(PROMPT, **_given({**asked, **hinted}, video)), 3, num_inference_steps=1).film.whole()


@pytest.mark.parametrize(
    ("asked", "way", "instead"),
    [
        ({"extend": "SHORT"}, "`--image` with a picture of it in place of `--extend`", {"image": "VIDEO"}),
        (
            {"extend": "SHORT", "backward": True, "seconds": 0.5},
            "`--keyframe PICTURE@1` with a picture of it in place of `--extend` and `--backward`, without `--seconds`",
            {"key_frames": [("VIDEO", 1.0)]},
        ),
        (
            {"extend": "SHORT", "loop": True, "num_frames": 4},
            "`--image` with a picture of it in place of `--extend`, without `--num-frames`",
            {"image": "VIDEO", "loop": True},
        ),
        (
            {"connect": ("VIDEO", "SHORT")},
            "`--image A --keyframe B@1` with a picture of each in place of `--connect`",
            {"image": "VIDEO", "key_frames": [("SHORT", 1.0)]},
        ),
        ({"edit": "SHORT"}, "`--edit` with a picture of it", {"edit": "STILL"}),
        ({"edit": "SHORT", "height": 32}, None, None),
    ],
)
def test_what_is_made_of_a_picture_in_place_of_a_video_that_is_too_short_can_be_made(
    generator: Generator,  # noqa: F811
    video: Path,
    asked: dict[str, Any],
    way: str | None,
    instead: dict[str, Any] | None,
) -> None:
    shaped = _of_shapes(generator, [[16, 1, 6, 3], [16, 3, 4, 4]])
    with pytest.raises(verbs.ShortVideoError) as raised:
        make(shaped, Ask(PROMPT, **_given(asked, video)), 3, num_inference_steps=1)
    assert str(raised.value).partition("; hint: ")[2] == f"a longer video{f', or {way}' if way else ''}"
    if instead is not None:
        make(shaped, Ask(PROMPT, **_given(instead, video)), 3, num_inference_steps=1).film.whole()


def test_what_tokens_of_several_latents_cannot_keep_is_not_hinted_at(generator: Generator, video: Path) -> None:  # noqa: F811
    paired = replace(generator, model=DiT(replace(SIZE, patch_size=(2, 2, 2)), 16, generator.text_encoder.width))
    with pytest.raises(verbs.ShortVideoError, match=r"hint: a longer video$"):
        make(paired, Ask(PROMPT, **_given({"extend": "SHORT"}, video)), 3, num_inference_steps=1)
    with pytest.raises(verbs.ShortVideoError, match="hint: a longer video, or `--keyframe PICTURE@1` with"):
        make(paired, Ask(PROMPT, **_given({"extend": "SHORT", "backward": True}, video)), 3, num_inference_steps=1)


def test_the_last_moment_of_a_clip_that_a_hint_names_is_within_it(generator: Generator, video: Path) -> None:  # noqa: F811
    quick = replace(generator, notes={**generator.notes, "clip": {**generator.notes["clip"], "fps": 7}})
    with pytest.raises(ValueError, match=r"hint: from 0 to 1\.142 s"):  # of 8 / 7, which is 1.142857
        make(quick, Ask(PROMPT, key_frames=[(video, 2.0)]), 3, num_inference_steps=1)
    assert make(quick, Ask(PROMPT, key_frames=[(video, 1.142)]), 3, num_inference_steps=1).film.given.tolist() == [False] * 5 + [True] * 4


NOT_FILLED = "this model's tokens hold 2 latent frames, 8 frames of film, and what is given does not fill them"
NO_ROOM = "the model's clips of 9 frames have no room between two videos; hint: one trained on at least 17 frames"


@pytest.mark.parametrize(
    ("asked", "refused"),
    [
        ({"image": "VIDEO"}, NOT_FILLED),
        ({"key_frames": [("VIDEO", 0.0), ("VIDEO", 1.0)]}, NOT_FILLED),
        ({"key_frames": [("VIDEO", 0.0), ("VIDEO", 0.5)]}, None),
        ({"key_frames": [("VIDEO", 1.0)]}, None),
        ({"extend": "VIDEO"}, None),
        ({"extend": "VIDEO", "backward": True}, None),
        ({"extend": "VIDEO", "loop": True}, NO_ROOM),
        ({"connect": ("VIDEO", "VIDEO")}, NO_ROOM),
        ({"edit": "VIDEO"}, None),
    ],
)
def test_what_the_tokens_of_a_model_cannot_keep_is_refused(
    generator: Generator,  # noqa: F811
    video: Path,
    asked: dict[str, Any],
    refused: str | None,
) -> None:
    paired = replace(generator, model=DiT(replace(SIZE, patch_size=(2, 2, 2)), 16, generator.text_encoder.width))
    with nullcontext() if refused is None else pytest.raises(ValueError, match=refused):
        make(paired, Ask(PROMPT, **_given(asked, video)), 3, num_inference_steps=1)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"image": "a.png", "extend": "b.mp4"}, "`--image` and `--extend` are two things to make"),
        ({"key_frames": [("a.png", 1.0)], "connect": ("b.mp4", "c.mp4")}, "`--keyframe` and `--connect` are two things to make"),
        ({"backward": True}, "`--backward` says where `--extend` goes; hint: `--extend VIDEO --backward`$"),
        ({"backward": True, "loop": True}, "a loop has no such way; hint: leave out `--backward`$"),
        ({"extend": "a.mp4", "backward": True, "loop": True}, "a loop has no such way"),
        ({"connect": ("a.mp4", "b.mp4"), "loop": True}, "`--loop` does not go with `--connect`"),
        ({"strength": 0.5}, "`--strength` is of an edit; hint: `--edit VIDEO --strength 0.85`"),
        ({"num_frames": 9, "seconds": 1.0}, "say the same; hint: give one of them"),
        ({"edit": "a.mp4", "num_frames": 9}, "an edit is as long as its video"),
        ({"seconds": 0.0}, "`--seconds` is a number above 0, not 0.0; hint"),
        ({"seconds": float("nan")}, "`--seconds` is a number above 0, not nan; hint"),
        ({"seconds": float("inf")}, "`--seconds` is a number above 0, not inf; hint"),
        ({"num_frames": -3}, "`--num-frames` is a number above 0, not -3; hint"),
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
        (
            {"seconds": 0.1},
            "`--seconds` 0.1 is less than what a frame .* takes, 0.125 s; hint: leave .* length, or `--num-frames 1` in its",
        ),
        ({"extend": "VIDEO", "seconds": 0.01}, "`--seconds` 0.01 is less than .*; hint: leave it out for the model's own length$"),
        ({"seconds": 3.0}, "the model never saw clips of 25 frames"),
        ({"key_frames": [("VIDEO", 2.0)]}, "there is no moment 2 s in a clip of 9 frames; hint: from 0 to 1 s"),
        ({"key_frames": [("VIDEO", 0.2), ("VIDEO", 0.4)]}, "two pictures fall together at 0.4 s; hint: at least 0.5 s between them"),
        ({"image": "VIDEO", "num_frames": 1}, "every frame of the clip is a given picture, and nothing is left to make; hint"),
        ({"key_frames": [("VIDEO", at) for at in (0.0, 0.5, 1.0)]}, "every frame of the clip is a given picture"),
        ({"loop": True, "num_frames": 1}, "a clip of 1 frames is too short to be led back to .* takes 4; hint: `--num-frames 9`"),
        ({"extend": "VIDEO", "num_frames": 10**11}, r"at most 10000 frames, not 1e\+11; hint: fewer, and then `--extend` that video"),
        ({"extend": "VIDEO", "backward": True, "seconds": 1e308}, "one call makes at most 10000 frames, not inf; hint"),
        ({"connect": ("VIDEO", "SHORT")}, "the second video has 2 frames at the model's rate, and to lead to it the model needs 4; hint"),
        ({"connect": ("VIDEO", "VIDEO"), "num_frames": 6}, "a multiple of 4 frames, at most 4, not 6"),
    ],
)
def test_what_cannot_be_made_is_one_sentence(generator: Generator, video: Path, asked: dict, message: str) -> None:  # type: ignore[type-arg] # noqa: F811
    with pytest.raises(ValueError, match=message):
        make(generator, Ask(**{"prompt": PROMPT, **{name: _with(value, video) for name, value in asked.items()}}), 3)


def test_a_prompt_that_is_too_long_is_cut_and_what_is_left_out_is_said(generator: Generator) -> None:  # noqa: F811
    long = "a red square moves left over a striped background, the camera is still " * 2 + "and a blue ring moves up"
    assert make(generator, Ask(PROMPT, rewrite=False), 3, num_inference_steps=1).notes == []
    making = make(generator, Ask(long, rewrite=False), 3, num_inference_steps=1, negative_prompt=long)
    heard = making.made["told"]["prompt"]
    assert (making.made["prompt"], making.made["rewritten"], making.made["settings"]["negative_prompt"]) == (long, long, long)
    assert long.startswith(heard)
    assert making.made["told"]["negative_prompt"] == heard
    left_out = long[len(heard) :].strip()
    assert making.notes == [
        f"the {name} is too long for the model, which is not told its end, `{left_out}`; hint: fewer words"
        for name in ("prompt", "negative prompt")
    ]
    assert making.made["notes"] == making.notes
    cut = make(generator, Ask(heard, rewrite=False), 3, num_inference_steps=1, negative_prompt=heard)
    assert np.array_equal(making.film.whole(), cut.film.whole())


def test_what_made_a_film_says_all_that_makes_it_again_and_no_path(generator: Generator, video: Path) -> None:  # noqa: F811
    digest = hashlib.sha256(video.read_bytes()).hexdigest()
    edit = make(generator, Ask("a red box", edit=video), 3, num_inference_steps=1).made
    assert (edit["strength"], edit["files"]) == (0.85, [{"use": "edit", "name": "film.mp4", "sha256": digest}])
    keys = make(generator, Ask("a red box", key_frames=[(video.read_bytes(), 1.0)], seconds=1.0, width=32), 4, num_inference_steps=1).made
    assert keys["files"] == [{"use": "key frame", "name": None, "sha256": digest, "seconds": 1.0}]
    assert (keys["strength"], keys["seed"], keys["settings"]["num_inference_steps"]) == (None, 4, 1)
    asked = {"num_frames": None, "seconds": 1.0, "height": None, "width": 32, "backward": False, "loop": False, "rewrite": True}
    assert keys["asked"] == asked
    assert str(video.parent) not in json.dumps(edit)
    assert (edit["kinora"], edit["device"], edit["precision"]) == (version("kinora"), "cpu", "float32")
    write_video(video.with_name("wide.mp4"), np.zeros((9, 54, 96, 3), np.uint8), 8)
    wide = make(generator, Ask("a red box", edit=video.with_name("wide.mp4"), height=32, width=32), 3, num_inference_steps=1)
    (note,) = wide.notes
    assert note.startswith(f"`{video.with_name('wide.mp4')}` is 96x54, another aspect than 32x32")
    assert wide.made["notes"] == [note.replace(str(video.with_name("wide.mp4")), "wide.mp4")]


def test_a_step_cache_of_other_settings_is_said(generator: Generator) -> None:  # noqa: F811
    noted = replace(generator, notes={**generator.notes, "step_cache": {"gain": [], "threshold": 0.1, "sampler": "heun"}})
    making = make(noted, Ask(PROMPT), 3, step_cache="calibrated")
    assert [note.partition(",")[0] for note in making.notes] == ["the step cache was calibrated with `sampler` heun and not euler"]
    with pytest.raises(ValueError, match="`calibrated`, which this model is not"):
        make(generator, Ask(PROMPT), 3, step_cache="calibrated")


def _with(value: object, video: Path) -> object:
    """Puts the video in the place of its name."""
    if isinstance(value, list | tuple):
        return type(value)(_with(entry, video) for entry in value)
    files = {name: video.with_name(f"{name.lower()}.mp4") for name in ("SHORT", "TALL", "WIDE", "STILL")}
    return {"VIDEO": video, **files}.get(value, value) if isinstance(value, str) else value


def _given(asked: dict[str, Any], video: Path) -> dict[str, Any]:
    return {name: _with(value, video) for name, value in asked.items()}


def _of_narrow(generator: Generator) -> Generator:  # noqa: F811
    return _of_shapes(generator, [[16, 3, 4, 4], [16, 2, 5, 3]])


def _of_shapes(generator: Generator, shapes: list[list[int]]) -> Generator:  # noqa: F811
    return replace(generator, notes={**generator.notes, "latents_shapes": shapes})
