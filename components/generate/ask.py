"""One call for all that can be asked of a model: which verb is meant, with the files that it works on."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from components.generate import verbs, windows
from components.generate.arrangement import Piece, key_frame, moment
from components.generate.conditioning import in_whole_tokens
from components.generate.generator import Generator
from components.generate.inputs import MOST_FRAMES, Fitted, is_still, read_image, read_video, size_of
from components.generate.record import computed_by, record_of, without_folders
from components.generate.sampling import Sampling
from components.generate.shapes import OfUse, nearest_length
from components.generate.step_cache import uncalibrated

Source = str | Path | bytes
STRENGTH = 0.85  # of an edit, where none is given: the least that was tried at which the demo's model took every colour and shape


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
        num_frames: of the clip, which a loop leads back behind; where videos are given, of what is added to them. `seconds` says the
            same otherwise.
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
            "--image" if self.image is not None else "--keyframe": self.image is not None or bool(self.key_frames),
            "--extend": self.extend is not None,
            "--connect": self.connect is not None,
            "--edit": self.edit is not None,
        }
        chosen = [name for name, is_given in given.items() if is_given]
        if len(chosen) > 1:
            raise ValueError(
                f"`{chosen[0]}` and `{chosen[1]}` are two things to make; hint: one call makes one, and the next takes its file"
            )
        if self.backward and self.loop:
            raise ValueError("`--backward` says where `--extend` goes, and a loop has no such way; hint: leave out `--backward`")
        if self.backward and self.extend is None:
            raise ValueError("`--backward` says where `--extend` goes; hint: `--extend VIDEO --backward`")
        if self.loop and chosen in (["--connect"], ["--edit"]):
            raise ValueError(f"`--loop` does not go with `{chosen[0]}`; hint: `--extend` its file with `--loop`")
        if self.strength is not None and self.edit is None:
            raise ValueError("`--strength` is of an edit; hint: `--edit VIDEO --strength 0.85`")
        if self.num_frames is not None and self.seconds is not None:
            raise ValueError("`--num-frames` and `--seconds` say the same; hint: give one of them")
        if self.edit is not None and (self.num_frames is not None or self.seconds is not None):
            raise ValueError("an edit is as long as its video; hint: leave out `--num-frames` and `--seconds`")
        for name, value in (("num-frames", self.num_frames), ("seconds", self.seconds)):
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"`--{name}` is a number above 0, not {value}; hint: leave it out for the model's own length")

    @property
    def files(self) -> list[tuple[str, Source, float | None]]:
        """What it is made with: the use of each file, the file, and of a key frame its seconds."""
        alone = [("image", self.image), ("extend", self.extend), *(("connect", file) for file in self.connect or ()), ("edit", self.edit)]
        given: list[tuple[str, Source, float | None]] = [(use, file, None) for use, file in alone if file is not None]
        return [*given, *(("key frame", file, seconds) for file, seconds in self.key_frames)]


@dataclass(frozen=True)
class Making:
    """A film that was asked for.

    Attributes:
        sampling: what makes its frames; whose `progress` is told may be set until the first is taken.
        rewritten: the prompt as the captions say it.
        made: what makes the same film of the same model again, what of the words it was told, and the notes, as JSON values.
        notes: what was cut away of files and words, and what else was not as it was asked for, a sentence each.
    """

    film: verbs.Film
    sampling: Sampling
    verb: str
    rewritten: str
    made: Mapping[str, Any]
    notes: list[str]


def make(generator: Generator, ask: Ask, seed: int, **settings: Any) -> Making:
    """Reads what an ask needs and answers the film, which is sampled as its frames are taken.

    Args:
        settings: of the section `generate`, by name; what is not given is as the model's notes say.

    Raises:
        ValueError: an empty prompt, a file that cannot be used, or a size, length or setting that does not fit.
    """
    rewritten = generator.told(ask.prompt, ask.rewrite)
    _check_amount(generator, ask)
    files = _Files(generator, ask)
    sampling = generator.sampling([rewritten], [seed], **settings)
    notes = uncalibrated(sampling.settings, generator.notes)
    try:
        verb, film = _chosen(generator, ask, files, sampling)
    except verbs.ShortVideoError as error:
        raise verbs.ShortVideoError(f"{error}{_instead(generator, ask)}") from error
    words = {"prompt": rewritten, "negative_prompt": sampling.settings["negative_prompt"]}
    told = {name: generator.text_encoder.cut(text) for name, text in words.items()}
    notes += [
        f"the {name.replace('_', ' ')} is too long for the model, which is not told its end, `{end}`; hint: fewer words"
        for name, (_, end) in told.items()
        if end
    ]
    notes = list(dict.fromkeys([*notes, *files.notes]))
    made = {
        "prompt": ask.prompt,
        "rewritten": rewritten,
        "told": {name: heard for name, (heard, _) in told.items()},
        "verb": verb,
        "seed": seed,
        "strength": None if ask.edit is None else _strength(ask),
        **record_of(ask),
        "settings": sampling.settings,
        **computed_by(generator.device),
        "notes": without_folders(notes, ask),
    }
    return Making(film, sampling, verb, rewritten, made, notes)


class _Files:
    """Reads files at the size that is asked for or that is nearest to the first one's, and notes what did not fit.

    Raises:
        ValueError: the model saw no such size, or at it no clips as long as is needed.
    """

    def __init__(self, generator: Generator, ask: Ask) -> None:
        self.fps, self.notes = generator.fps, list[str]()
        first = next((file for _, file, _ in ask.files), None)
        shapes, (num_frames, least, self.of_use) = generator.shapes, _needed(generator, ask)
        self.size = shapes.size(ask.height, ask.width, None if first is None else size_of(first), num_frames, self.of_use)
        if first is not None or ask.loop:
            shapes.check_length(self.size, least, num_frames, self.of_use)

    def image(self, file: Source) -> np.ndarray:
        """uint8 (1, H, W, 3)."""
        return self._noted(read_image(file, *self.size))

    def video(self, file: Source) -> np.ndarray:
        """uint8 (1, T, H, W, 3)."""
        return self._noted(read_video(file, *self.size, self.fps))[None]

    def _noted(self, fitted: Fitted) -> np.ndarray:
        self.notes += fitted.notes
        return fitted.frames


def _needed(generator: Generator, ask: Ask) -> tuple[int | None, int, OfUse]:
    """Answers the length that a clip is to have, where one is asked for, how long the model's clips have to be, and which are of use."""
    group = generator.vae.frames
    token = generator.token * group

    def from_(least: int) -> tuple[int, OfUse]:
        return least, lambda lengths: [length for length in lengths if length >= least]

    if ask.edit is not None:
        return (1, 1, lambda lengths: lengths[: lengths[0] == 1]) if is_still(ask.edit) else (None, *from_(1 + group))
    if ask.connect is not None or (ask.extend is not None and ask.loop):
        return None, *from_(1 + 2 * token)
    if ask.extend is not None:
        return None, *from_(1 + token)
    num_frames = _num_frames(ask, generator.fps)
    if ask.loop:
        return num_frames, 1 + 2 * token, lambda lengths: _to_loop(generator, ask, lengths)
    return num_frames, *from_(1 + group if num_frames is None or ask.files else 1)


def _to_loop(generator: Generator, ask: Ask, lengths: list[int]) -> list[int]:
    """Answers the lengths of a clip that is led back to its beginning, where the longest of a size's has room to do so."""
    if windows.room_between(lengths[-1], generator.vae.frames, generator.token) < 1:
        return []
    least = max(_least_of_loop(generator, lengths[-1]), 1 + generator.vae.frames if ask.files else 1)
    return [length for length in lengths if length >= least]


def _least_of_loop(generator: Generator, longest: int) -> int:
    window = windows.window_between(longest, generator.vae.frames, token=generator.token)
    return max(window.frames_before, window.frames_after)


def _num_frames(ask: Ask, fps: int) -> int | None:
    """Answers how many frames a clip is asked to have."""
    return ask.num_frames if ask.seconds is None else 1 + round(ask.seconds * fps)


def _chosen(generator: Generator, ask: Ask, files: _Files, sampling: Sampling) -> tuple[str, verbs.Film]:
    shapes, size = generator.shapes, files.size
    added = ask.num_frames if ask.seconds is None else max(1, round(ask.seconds * files.fps))
    longest = shapes.length(size, None)
    if ask.edit is not None:
        video = files.video(ask.edit)
        fitting = [length for length in shapes.lengths[size] if length <= video.shape[1] and (length > 1 or video.shape[1] == 1)]
        length = max(fitting, default=min(length for length in shapes.lengths[size] if length > 1 or longest == 1))
        return "edit", verbs.edited(sampling, video, length, _strength(ask))
    if ask.connect is not None:
        before, after = (files.video(file) for file in ask.connect)
        return "connect", verbs.joined(sampling, before, after, longest, _between(generator, added, ask))
    if ask.extend is not None:
        video = files.video(ask.extend)
        if ask.loop:
            return "loop", verbs.looped(sampling, verbs.of_video(video), longest, _between(generator, added, ask))
        continued = verbs.led_to if ask.backward else verbs.extended
        return "extend backward" if ask.backward else "extend", continued(sampling, video, longest, added)
    length = shapes.length(size, _num_frames(ask, files.fps), generator.notes["clip"]["num_frames"], files.of_use)
    if ask.loop:
        _check_loop(generator, files, length)
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
            raise ValueError(
                f"there is no moment {seconds:g} s in a clip of {length} frames; hint: from 0 to {moment(length - 1, files.fps)} s"
            )
        piece = key_frame(seconds, files.image(file), files.fps, generator.vae.frames)
        if pieces and pieces[-1][0] == piece[0]:
            raise ValueError(
                f"two pictures fall together at {seconds:g} s; hint: at least {generator.vae.frames / files.fps:g} s between them"
            )
        pieces.append(piece)
    if sum(piece.shape[1] for _, piece in pieces) == length:
        raise ValueError(
            "every frame of the clip is a given picture, and nothing is left to make; hint: a longer clip or fewer pictures, "
            "and `--edit` draws a picture anew"
        )
    return pieces


def _strength(ask: Ask) -> float:
    return STRENGTH if ask.strength is None else ask.strength


def _check_amount(generator: Generator, ask: Ask) -> None:
    frames = ask.num_frames or (ask.seconds or 0) * generator.fps
    if frames > MOST_FRAMES:
        raise ValueError(
            f"one call makes at most {MOST_FRAMES} frames, not {frames:g}; hint: fewer, and then `--extend` that video for more"
        )
    if ask.seconds is not None and frames < 1:
        images = not (ask.files or ask.loop) and any(1 in lengths for lengths in generator.shapes.lengths.values())
        raise ValueError(
            f"`--seconds` {ask.seconds:g} is less than what a frame of this model takes, {1 / generator.fps:.3g} s; "
            f"hint: leave it out for the model's own length{', or `--num-frames 1` in its place for an image' if images else ''}"
        )


def _check_loop(generator: Generator, files: _Files, length: int) -> None:
    lengths = generator.shapes.lengths[files.size]
    needed, fitting = _least_of_loop(generator, lengths[-1]), files.of_use(lengths)
    if length < needed and fitting:
        raise ValueError(
            f"a clip of {length} frames is too short to be led back to its beginning, which takes {needed}; "
            f"hint: `--num-frames {nearest_length(length, fitting)}`"
        )


def _instead(generator: Generator, ask: Ask) -> str:
    """Answers what else can be made, of a picture, where a video is too short: `, or ...`, nothing where the model does not make that."""
    shapes, group, like = generator.shapes, generator.vae.frames, size_of(ask.files[0][1])
    if ask.edit is not None:
        images = any(
            1 in lengths and ask.height in (None, size[0]) and ask.width in (None, size[1]) for size, lengths in shapes.lengths.items()
        )
        return ", or `--edit` with a picture of it" if images and not is_still(ask.edit) else ""

    def of_use(lengths: list[int]) -> list[int]:
        return _to_loop(generator, ask, lengths) if ask.loop else [length for length in lengths if length > 1]

    size = shapes.size(ask.height, ask.width, like, None, of_use)
    length = shapes.length(size, None, generator.notes["clip"]["num_frames"])
    first, last, end = 0, (length - 1) // group, moment(length - 1, generator.fps)
    if ask.connect is not None:
        places, way = [first, last], f"`--image A --keyframe B@{end}` with a picture of each in place of `--connect`"
    elif ask.backward:
        places, way = [last], f"`--keyframe PICTURE@{end}` with a picture of it in place of `--extend` and `--backward`"
    else:
        places, way = [first], "`--image` with a picture of it in place of `--extend`"
    kept = torch.zeros(1 + last, dtype=torch.bool)
    kept[places] = True
    if length not in of_use(shapes.lengths[size]) or kept.all() or not torch.equal(in_whole_tokens(kept, generator.token), kept):
        return ""
    amount = "`--num-frames`" if ask.num_frames is not None else "`--seconds`" if ask.seconds is not None else None
    return f", or {way}{f', without {amount}' if amount else ''}"


def _between(generator: Generator, added: int | None, ask: Ask) -> int | None:
    """Answers how many frames go between two videos; seconds are rounded to what the tokens hold."""
    if added is None or ask.seconds is None:
        return added
    step = generator.token * generator.vae.frames
    return max(1, round(added / step)) * step
