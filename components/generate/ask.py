"""One call for all that can be asked of a model: which verb is meant, with the files that it works on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from components.generate import verbs
from components.generate.arrangement import Piece, key_frame
from components.generate.generator import Generator
from components.generate.inputs import Fitted, read_image, read_video, size_of
from components.generate.sampling import Sampling

Source = str | Path | bytes
STRENGTH = 0.6  # of an edit, where none is given


@dataclass(frozen=True)
class Ask:
    """What a person wants made; of `image`, `extend`, `connect` and `edit` at most one.

    Attributes:
        image: what the first frame shows.
        key_frames: what other moments show, by their seconds.
        extend: a video to go on from, or with `backward` to lead to, or with `loop` to close.
        connect: two videos to be joined.
        edit: a video to be drawn anew, `strength` towards noise.
        loop: whether the end shall lead back to the beginning.
        num_frames: of the clip; where videos are given, of what is added to them; `seconds` says the same otherwise.
    """

    prompt: str
    image: Source | None = None
    key_frames: Sequence[tuple[Source, float]] = ()
    extend: Source | None = None
    backward: bool = False
    connect: tuple[Source, Source] | None = None
    edit: Source | None = None
    strength: float | None = None
    loop: bool = False
    num_frames: int | None = None
    seconds: float | None = None
    height: int | None = None
    width: int | None = None
    rewrite: bool = True

    def __post_init__(self) -> None:
        given = {
            "--image": self.image is not None or bool(self.key_frames),
            "--extend": self.extend is not None,
            "--connect": self.connect is not None,
            "--edit": self.edit is not None,
        }
        chosen = [name for name, is_given in given.items() if is_given]
        if len(chosen) > 1:
            raise ValueError(
                f"`{chosen[0]}` and `{chosen[1]}` are two things to make; hint: one call makes one, and the next takes its file"
            )
        if self.backward and (self.extend is None or self.loop):
            raise ValueError("`--backward` says where `--extend` goes, and a loop has no such way; hint: `--extend VIDEO --backward`")
        if self.loop and chosen in (["--connect"], ["--edit"]):
            raise ValueError(f"`--loop` does not go with `{chosen[0]}`; hint: `--extend` its file with `--loop`")
        if self.strength is not None and self.edit is None:
            raise ValueError("`--strength` is of an edit; hint: `--edit VIDEO --strength 0.6`")
        if self.num_frames is not None and self.seconds is not None:
            raise ValueError("`--num-frames` and `--seconds` say the same; hint: give one of them")
        if self.edit is not None and (self.num_frames is not None or self.seconds is not None):
            raise ValueError("an edit is as long as its video; hint: leave out `--num-frames` and `--seconds`")
        for name, value in (("num-frames", self.num_frames), ("seconds", self.seconds)):
            if value is not None and value <= 0:
                raise ValueError(f"`--{name}` is above 0, not {value}; hint: leave it out for the model's own length")


@dataclass(frozen=True)
class Making:
    """A film that was asked for.

    Attributes:
        sampling: what makes its frames; whose `progress` is told may be set until the first is taken.
        told: the prompt as the model is told it.
        notes: what was cut away of the files, a sentence each.
    """

    film: verbs.Film
    sampling: Sampling
    verb: str
    told: str
    notes: list[str]


def make(generator: Generator, ask: Ask, seed: int, **settings: Any) -> Making:
    """Reads what an ask needs and answers the film, which is sampled as its frames are taken.

    Args:
        settings: of the section `generate`, by name; what is not given is as the model's notes say.

    Raises:
        ValueError: an empty prompt, a file that cannot be used, or a size, length or setting that does not fit.
    """
    told = generator.told(ask.prompt, ask.rewrite)
    files = _Files(generator, ask)
    sampling = generator.sampling([told], [seed], **settings)
    verb, film = _chosen(generator, ask, files, sampling)
    return Making(film, sampling, verb, told, list(dict.fromkeys(files.notes)))


class _Files:
    """Reads files at the size that is asked for or that is nearest to the first one's, and notes what did not fit."""

    def __init__(self, generator: Generator, ask: Ask) -> None:
        self.fps, self.notes = generator.fps, list[str]()
        named = [ask.image, *(file for file, _ in ask.key_frames), ask.extend, *(ask.connect or ()), ask.edit]
        first = next((file for file in named if file is not None), None)
        self.size = generator.shapes.size(ask.height, ask.width, None if first is None else size_of(first))

    def image(self, file: Source) -> np.ndarray:
        """uint8 (1, H, W, 3)."""
        return self._noted(read_image(file, *self.size))

    def video(self, file: Source) -> np.ndarray:
        """uint8 (1, T, H, W, 3)."""
        return self._noted(read_video(file, *self.size, self.fps))[None]

    def _noted(self, fitted: Fitted) -> np.ndarray:
        self.notes += [] if fitted.note is None else [fitted.note]
        return fitted.frames


def _chosen(generator: Generator, ask: Ask, files: _Files, sampling: Sampling) -> tuple[str, verbs.Film]:
    shapes, size = generator.shapes, files.size
    added = ask.num_frames if ask.seconds is None else max(1, round(ask.seconds * files.fps))
    longest = shapes.length(size, None)
    if ask.edit is not None:
        video = files.video(ask.edit)
        fitting = [length for length in shapes.lengths[size] if length <= video.shape[1] and (length > 1 or video.shape[1] == 1)]
        length = max(fitting, default=min(length for length in shapes.lengths[size] if length > 1 or longest == 1))
        return "edit", verbs.edited(sampling, video, length, STRENGTH if ask.strength is None else ask.strength)
    if ask.connect is not None:
        before, after = (files.video(file) for file in ask.connect)
        return "connect", verbs.joined(sampling, before, after, longest, _between(generator, added, ask))
    if ask.extend is not None:
        video = files.video(ask.extend)
        if ask.loop:
            return "loop", verbs.looped(sampling, verbs.of_video(video), longest, _between(generator, added, ask))
        continued = verbs.led_to if ask.backward else verbs.extended
        return "extend backward" if ask.backward else "extend", continued(sampling, video, longest, added)
    num_frames = added if ask.seconds is None else 1 + round(ask.seconds * files.fps)
    length = shapes.length(size, num_frames, generator.notes["clip"]["num_frames"])
    film = verbs.clip(sampling, size, length, _pieces(generator, ask, files, length))
    if ask.loop:
        return "loop", verbs.looped(sampling, film, longest)
    verb = "key frames" if ask.key_frames else "image to video" if ask.image is not None else "text to video"
    return ("text to image" if length == 1 else verb), film


def _pieces(generator: Generator, ask: Ask, files: _Files, length: int) -> list[Piece]:
    """Answers the pictures of a clip, each where it stands."""
    pictures = [*([(ask.image, 0.0)] if ask.image is not None else []), *ask.key_frames]
    last = (length - 1) / files.fps
    pieces: list[Piece] = []
    for file, seconds in sorted(pictures, key=lambda picture: picture[1]):
        if not 0 <= seconds <= last:
            raise ValueError(f"there is no moment {seconds:g} s in a clip of {length} frames; hint: from 0 to {last:g} s")
        piece = key_frame(seconds, files.image(file), files.fps, generator.vae.frames)
        if pieces and pieces[-1][0] == piece[0]:
            raise ValueError(
                f"two pictures fall together at {seconds:g} s; hint: at least {generator.vae.frames / files.fps:g} s between them"
            )
        pieces.append(piece)
    return pieces


def _between(generator: Generator, added: int | None, ask: Ask) -> int | None:
    """Answers how many frames go between two videos; seconds are rounded to what the latents hold."""
    if added is None or ask.seconds is None:
        return added
    group = generator.vae.frames
    return max(1, round(added / group)) * group
