"""Reads the images and videos that a person gives, brought to a model's size and frame rate."""

import math
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np

from components.media.probe import dropped, promised_seconds, reduced
from components.media.read import KINDS, Damage, Frame, UnusableFile, cover, open_container, picture_stream, read_frames

NOTED_LOSS = 0.02  # of a picture; a smaller part is cut without a word
SAME_RATE = 0.01  # by which the frame rate of a damaged video may differ from the model's without a word
WHOLE = 0.9  # of the seconds that a header promises; where fewer are there, that is said
MOST_FRAMES = 10_000  # of one call, which holds much of what it reads and makes


@dataclass(frozen=True)
class Fitted:
    """What was read: frames uint8 (T, H, W, 3), and a sentence on each thing that did not fit."""

    frames: np.ndarray
    notes: list[str]


def size_of(source: str | Path | bytes) -> tuple[int, int]:
    """Answers the size (height, width) of a file's first picture.

    Raises:
        ValueError: there is no such file, or no picture in it.
    """
    first = next(_frames(source))
    return first.height, first.width


def is_still(source: str | Path | bytes) -> bool:
    """Answers whether a file is a single picture; errors as those of `size_of`."""
    return len(list(islice(_frames(source), 2))) == 1


def read_image(source: str | Path | bytes, height: int, width: int) -> Fitted:
    """Reads a picture, or a video's first, so that it covers a size; what hangs over on both sides is cut.

    Raises:
        ValueError: there is no such file, or no picture in it.
    """
    damage = Damage()
    first = next(_frames(source, damage))
    notes = [*_cut(source, first, height, width), *_losses(source, reduced(first))]
    if damage.frames:
        notes.append(f"{named(source)} is damaged: what is taken is its first picture that decodes, at {first.seconds:.1f} s")
    return Fitted(_covering(first, height, width)[None].copy(), notes)


def read_video(source: str | Path | bytes, height: int, width: int, fps: Fraction | int) -> Fitted:
    """Reads a video so that it covers a size, at each tick of a frame rate the picture that is nearest in time.

    Raises:
        ValueError: there is no such file, or no picture in it, or more than one call can hold.
    """
    damage = Damage()
    frames = _frames(source, damage)
    first = held = next(frames)
    seconds = [first.seconds]
    pixels = bytearray()  # which grows where it is: frames in a list would be held a second time when they are put together
    times: list[int] = []  # that each frame is taken
    taken = 0

    def take(until: float) -> None:
        nonlocal taken
        times.append(_ticks(until - first.seconds, taken, fps))
        taken += times[-1]
        if taken > MOST_FRAMES:
            raise ValueError(_too_long(source, fps))
        picture = _covering(held, height, width).tobytes() if times[-1] else b""
        for _ in range(times[-1]):
            pixels.extend(picture)

    for frame in frames:
        take((held.seconds + frame.seconds) / 2)
        held = frame
        seconds.append(held.seconds)
    take(held.seconds)
    promised, left = _header(source)
    notes = [
        *_cut(source, first, height, width),
        *_losses(source, [*left, *reduced(first)]),
        *_missing(source, seconds, damage, promised),
        *_resampled(source, seconds, times, damage, fps),
    ]
    return Fitted(np.frombuffer(pixels, np.uint8).reshape(taken, height, width, 3), notes)


@dataclass(frozen=True)
class _Promise:
    """What a header says of a film: how many frames and seconds, None where it does not say."""

    frames: int | None
    seconds: float | None


def _header(source: str | Path | bytes) -> tuple[_Promise, list[str]]:
    """Answers what the header of a file of which frames were read promises, and what is left out of it."""
    with open_container(source) as container:
        stream = picture_stream(container)
        assert stream is not None
        return _Promise(stream.frames or None, promised_seconds(container, stream)), dropped(container, stream)


def _losses(source: str | Path | bytes, losses: list[str]) -> list[str]:
    return [f"{named(source)}: {', '.join(losses)}"] if losses else []


def _missing(source: str | Path | bytes, seconds: list[float], damage: Damage, promised: _Promise) -> list[str]:
    """Answers what to note of frames that are not there."""
    if damage.frames:
        total = max(promised.frames or 0, len(seconds) + damage.frames)
        return [
            f"{named(source)} is damaged or cut off: {len(seconds)} of {total} frames decode, from {seconds[0]:.1f} to {seconds[-1]:.1f} "
            "s, and where one is missing between them the nearest is shown; hint: a whole copy of the file"
        ]
    spent = (seconds[-1] - seconds[0]) * len(seconds) / max(1, len(seconds) - 1)
    if len(seconds) > 1 and promised.seconds and spent < WHOLE * promised.seconds:
        return [f"the header of {named(source)} promises {promised.seconds:.1f} seconds, {spent:.1f} are there"]
    return []


def _resampled(source: str | Path | bytes, seconds: list[float], times: list[int], damage: Damage, fps: Fraction | int) -> list[str]:
    """Answers what to note of a video of another frame rate; where frames are missing, the rate of the others counts."""
    if set(times) == {1}:
        return []
    rate = (len(times) - 1) / (seconds[-1] - seconds[0])
    if damage.frames:
        rate = 1 / float(np.median(np.diff(seconds)))
        if abs(rate / float(fps) - 1) <= SAME_RATE:
            return []
    return [f"{named(source)} has {rate:.4g} frames a second and the model {float(fps):g}: of its {len(times)} frames {_picked(times)}"]


def _too_long(source: str | Path | bytes, fps: Fraction | int) -> str:
    file = "FILE" if isinstance(source, bytes) else shlex.quote(str(source))
    seconds = int(MOST_FRAMES / fps)
    return (
        f"{named(source)} has more than {MOST_FRAMES} frames at the model's rate, which is more than one call holds; "
        f"hint: cut it, for example `ffmpeg -i {file} -t {seconds} short.mp4`, with `-sseof -{seconds}` in front for its end"
    )


def _picked(times: list[int]) -> str:
    left_out, repeated = times.count(0), sum(count > 1 for count in times)
    said = [f"{left_out} are left out"] if left_out else []
    return " and ".join([*said, f"{repeated} are shown longer"] if repeated else said)


def named(source: str | Path | bytes) -> str:
    """Answers how a sentence calls a file."""
    return "the given file" if isinstance(source, bytes) else f"`{source}`"


def _ticks(seconds: float, done: int, fps: Fraction | int) -> int:
    """Answers how many more ticks of a rate there are up to a time, which files round."""
    return max(0, int(seconds * float(fps) + 1e-3) + 1 - done)


def _frames(source: str | Path | bytes, damage: Damage | None = None) -> Iterator[Frame]:
    """Yields a file's frames, at least one."""
    if not isinstance(source, bytes) and not Path(source).is_file():
        raise ValueError(f"`{source}` is not a file; hint: name a video or an image")
    hint = f"hint: {KINDS}"
    try:
        frames = read_frames(source, damage)
        first = next(frames, None)
    except UnusableFile as error:
        raise ValueError(f"{named(source)} cannot be used: {error}{'' if '; hint: ' in str(error) else f'; {hint}'}") from error
    if first is None:
        raise ValueError(f"{named(source)} has no picture that can be decoded; {hint}")
    yield first
    yield from frames


def _covering(frame: Frame, height: int, width: int) -> np.ndarray:
    scaled_height, scaled_width, _ = cover(frame.height, frame.width, height, width)
    y, x = (scaled_height - height) // 2, (scaled_width - width) // 2
    return frame.resized(scaled_height, scaled_width)[y : y + height, x : x + width]


def _cut(source: str | Path | bytes, frame: Frame, height: int, width: int) -> list[str]:
    scaled_height, scaled_width, _ = cover(frame.height, frame.width, height, width)
    lost = 1 - height * width / (scaled_height * scaled_width)
    if lost <= NOTED_LOSS:
        return []
    whole = math.gcd(width, height)
    return [
        f"{named(source)} is {frame.width}x{frame.height}, another aspect than {width}x{height}: its middle is kept and {lost:.0%} cut; "
        f"hint: one of {width // whole}:{height // whole} stays whole"
    ]
