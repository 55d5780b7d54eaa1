"""Looks at a media file before it is read: what its header promises, whether that keeps the limits, how its first frame stands."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from components.media.read import (
    HDR_TRANSFERS,
    Damage,
    Frame,
    UnusableFile,
    has_clear_pixels,
    is_mirrored,
    is_sane_rotation,
    open_container,
    picture_stream,
    quarter_turns,
    read_frames,
    sample_aspect,
    sane_rate,
)

if TYPE_CHECKING:
    from components.sections import Footage

STILL_FORMATS = ("image2", "jpeg_pipe", "png_pipe", "webp_pipe", "bmp_pipe", "tiff_pipe")
TURNED = {1: "turned by 90 degrees to the left", 2: "turned by 180 degrees", 3: "turned by 90 degrees to the right"}
MOOV_BYTES = 1 << 24  # of a header that is searched for the marks of encryption


@dataclass(frozen=True)
class Probe:
    """What is known of a file before it is read.

    Attributes:
        width: as displayed, after rotation and sample aspect ratio; so is `height`.
        rotation: degrees by which the stored picture is turned to the left.
        declared_frames: what the header promises, None where it does not say.
        notes: what is changed or dropped on the way in.
    """

    container: str
    codec: str
    pix_fmt: str
    width: int
    height: int
    rotation: int
    fps: Fraction | None
    declared_frames: int | None
    duration_seconds: float | None
    has_audio: bool
    kind: str
    notes: list[str] = field(default_factory=list)


def probe(path: str | os.PathLike, limits: Footage) -> Probe:
    """Probes a file: its header first, then one frame.

    Raises:
        UnusableFile: the file is no picture or one in tiles, breaks a limit, is locked, or no frame of it decodes.
    """
    size = os.path.getsize(path)
    if size == 0:
        raise UnusableFile("the file is empty")
    if size > limits.max_file_bytes:
        raise UnusableFile(f"{size} bytes, more than `footage.max_file_bytes` {limits.max_file_bytes}")
    with open_container(path, limits.max_side_pixels) as container:
        return _probe(path, container, limits)


def _probe(path: str | os.PathLike, container: InputContainer, limits: Footage) -> Probe:
    stream = picture_stream(container)
    if stream is None:
        kinds = sorted({stream.type for stream in container.streams})
        raise UnusableFile(f"it has no pictures, only {' and '.join(kinds)}" if kinds else "its header is cut off: it has no streams")
    if is_encrypted(path):
        raise UnusableFile("it is encrypted, and there is no key")
    if stream.codec_context is None:
        raise UnusableFile("its codec is not known here")
    duration = promised_seconds(container, stream)
    _check_header(stream, duration, limits)
    first = _first_frame(path, container, stream, limits)
    _check_sides(first.width, first.height, limits)
    picture, still = first._frame, container.format.name in STILL_FORMATS
    return Probe(
        container=container.format.name.split(",")[0],
        codec=stream.codec_context.codec.canonical_name,
        pix_fmt=picture.format.name,
        width=first.width,
        height=first.height,
        rotation=90 * quarter_turns(picture),
        fps=None if still else sane_rate(stream),
        declared_frames=stream.frames or None,
        duration_seconds=None if still else duration,
        has_audio=bool(container.streams.audio),
        kind="image" if still else "video",
        notes=_notes(container, stream, first),
    )


def promised_seconds(container: InputContainer, stream: VideoStream) -> float | None:
    """Answers how long the header says that a film is, or None."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration else None


def _check_header(stream: VideoStream, duration: float | None, limits: Footage) -> None:
    if stream.width and stream.height:
        _check_sides(stream.width, stream.height, limits)
    if stream.frames > limits.max_frames:
        raise UnusableFile(f"{stream.frames} frames, more than `footage.max_frames` {limits.max_frames}")
    if duration is not None and duration > limits.max_seconds:
        raise UnusableFile(f"{duration:.0f} seconds, more than `footage.max_seconds` {limits.max_seconds:g}")


def _check_sides(width: int, height: int, limits: Footage) -> None:
    if max(width, height) > limits.max_side_pixels:
        raise UnusableFile(f"{width}x{height} pixels, more than `footage.max_side_pixels` {limits.max_side_pixels}")
    if min(width, height) < limits.min_side_pixels:
        raise UnusableFile(f"{width}x{height} pixels, less than `footage.min_side_pixels` {limits.min_side_pixels}")


def _first_frame(path: str | os.PathLike, container: InputContainer, stream: VideoStream, limits: Footage) -> Frame:
    damage = Damage()
    for frame in read_frames(path, damage, max_frames=1, max_side_pixels=limits.max_side_pixels):
        return frame
    if damage.frames:
        raise UnusableFile("no frame of it decodes: its data is damaged")
    promised = f" of the {stream.frames} that its header promises" if stream.frames else ""
    raise UnusableFile(f"no frame{promised} is in the file: it is cut off")


def _notes(container: InputContainer, stream: VideoStream, first: Frame) -> list[str]:
    picture, aspect = first._frame, sample_aspect(stream)
    notes = dropped(container, stream)
    if is_mirrored(picture):
        notes.append("mirrored")
    if not is_sane_rotation(picture):
        notes.append("a rotation that makes no sense ignored")
    elif quarter_turns(picture):
        notes.append(TURNED[quarter_turns(picture)])
    if aspect != 1:
        notes.append(f"pixels {aspect.numerator}:{aspect.denominator} made square")
    return [*notes, *reduced(first)]


def dropped(container: InputContainer, stream: VideoStream) -> list[str]:
    """Answers what to note of a file's streams of which one alone is taken."""
    notes = ["audio dropped"] if container.streams.audio else []
    videos = container.streams.video
    if len(videos) > 1:
        notes.append(f"{'the first' if stream.index == videos[0].index else 'the main one'} of {len(videos)} video streams taken")
    return notes


def reduced(first: Frame) -> list[str]:
    """Answers what to note of a film's first frame that loses something on the way to 8-bit RGB: how whole, clear, fine or bright it is."""
    picture, notes = first._frame, []
    if first.partial:
        notes.append("damaged or cut off: a part of the picture does not decode and is filled in")
    if has_clear_pixels(picture):
        notes.append("transparency laid over black")
    if any(component.bits > 8 for component in picture.format.components):
        notes.append(f"{picture.format.name} reduced to 8 bits")
    if picture.color_trc in HDR_TRANSFERS:
        notes.append(f"{HDR_TRANSFERS[picture.color_trc]} colours taken as they are, not tone-mapped")
    return notes


def read_metadata(path: str | os.PathLike) -> dict[str, str]:
    """Answers what a file says of itself: title, comment and the like.

    Raises:
        UnusableFile: it is no media file.
    """
    with open_container(path) as container:
        return dict(container.metadata)


def is_encrypted(path: str | os.PathLike) -> bool:
    """Answers whether an MP4 file's tracks are encrypted: its header then names their format `encv`, which decoders pass over."""
    with Path(path).open("rb") as handle:
        return any(b"encv" in handle.read(min(size, MOOV_BYTES)) for kind, size in _boxes(handle) if kind == b"moov")


def _boxes(handle: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Yields (kind, bytes of content) of an MP4 file's outer boxes, the handle at the content; stops at what is no box."""
    start, end = 0, os.fstat(handle.fileno()).st_size
    while start + 8 <= end:
        handle.seek(start)
        size, kind = struct.unpack(">I4s", handle.read(8))
        header = 8
        if size == 1:
            long_size = handle.read(8)
            size, header = (struct.unpack(">Q", long_size)[0], 16) if len(long_size) == 8 else (0, 16)
        elif size == 0:
            size = end - start
        if size < header:
            return
        yield kind, size - header
        start += size
