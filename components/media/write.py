"""Writes frames as files that everybody can play: H.264 in MP4, and contact sheets as PNG."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterable
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

# without `cpu-independent` x264 chooses by the processor, and its AVX-512 code for small pictures does not repeat itself
X264 = "log-level=none:cpu-independent=1"
# keeps keys of our own (without it MP4 drops all but title, comment and the like), and puts the index in front
MOVFLAGS = "use_metadata_tags+faststart"


def write_video(
    path: str | os.PathLike | None,
    frames: np.ndarray,
    fps: Fraction | int,
    *,
    crf: float = 18,
    preset: str = "veryfast",
    threads: int = 1,
    pix_fmt: str = "yuv420p",
    metadata: dict[str, str] | None = None,
) -> bytes | None:
    """Encodes frames as H.264 in MP4, BT.709 limited range, the index in front, which browsers play as it is and while it loads.

    yuv420p has no odd sizes: an odd height or width grows by one row or column that repeats the edge.

    Args:
        path: where to write, at once and whole; None answers the same bytes instead.
        frames: uint8 (T, H, W, 3), RGB.
        crf: x264's quality, 0 (lossless) to 51.
        threads: of the encoder; with one, the bytes do not depend on how many cores there are.

    Raises:
        ValueError: frames of another shape or type, or none at all.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames):
        raise ValueError(f"frames are uint8 (T, H, W, 3) with at least one of them, not {frames.dtype} {frames.shape}")
    settings = {"crf": str(crf), "preset": preset, "x264-params": X264}
    if path is None:
        buffer = io.BytesIO()
        _encode(buffer, frames, fps, pix_fmt, settings, threads, metadata)
        return buffer.getvalue()
    with replacing(path) as temporary:
        _encode(temporary, frames, fps, pix_fmt, settings, threads, metadata)
    return None


def write_stream(
    path: str | os.PathLike,
    pictures: Iterable[np.ndarray],
    fps: Fraction | int,
    *,
    crf: float = 18,
    preset: str = "veryfast",
    threads: int = 1,
    metadata: dict[str, str] | None = None,
) -> None:
    """Encodes pictures as `write_video` does, each when it comes, so that no more than one is held.

    Args:
        pictures: each uint8 (H, W, 3), all of one size.

    Raises:
        ValueError: a picture of another shape or type than the first, or none at all.
    """
    settings = {"crf": str(crf), "preset": preset, "x264-params": X264}
    with replacing(path) as temporary:
        _encode(temporary, pictures, fps, "yuv420p", settings, threads, metadata)


def encode_clip(frames: np.ndarray, fps: Fraction | int) -> bytes:
    """Encodes a clip for a table: full chroma and a low crf, since only this house's own reader will open it."""
    return write_video(None, frames, fps, crf=12, preset="veryfast", pix_fmt="yuv444p") or b""


def write_sheet(path: str | os.PathLike, rows: list[np.ndarray], *, gap: int = 2, scale: int = 1) -> None:
    """Writes a contact sheet as PNG: one row a clip, its frames from left to right.

    Args:
        rows: each uint8 (T, H, W, 3) or a list of frames (H, W, 3); rows may differ in length and size.
        gap: white pixels between pictures.
        scale: whole factor by which each pixel grows.
    """
    strips = [[np.asarray(frame).repeat(scale, 0).repeat(scale, 1) for frame in row] for row in rows]
    if not any(strips):
        raise ValueError("a sheet needs at least one frame")
    strips = [strip for strip in strips if strip]
    width = max(sum(frame.shape[1] + gap for frame in strip) for strip in strips) - gap
    height = sum(max(frame.shape[0] for frame in strip) + gap for strip in strips) - gap
    sheet = np.full((height, width, 3), 255, np.uint8)
    y = 0
    for strip in strips:
        x = 0
        for frame in strip:
            sheet[y : y + frame.shape[0], x : x + frame.shape[1]] = frame
            x += frame.shape[1] + gap
        y += max(frame.shape[0] for frame in strip) + gap
    with replacing(path) as temporary:
        Path(temporary).write_bytes(encode_png(sheet))


def encode_png(image: np.ndarray) -> bytes:
    """Encodes one RGB picture, uint8 (H, W, 3)."""
    codec = av.CodecContext.create("png", "w")
    codec.height, codec.width = image.shape[:2]
    codec.pix_fmt, codec.time_base = "rgb24", Fraction(1)
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
    return b"".join(bytes(packet) for packet in [*codec.encode(frame), *codec.encode(None)])


class replacing:
    """A context that hands out a temporary name beside a path and moves it there when the body ends well.

    The name is short, so that a path's own may be as long as the file system lets it.

    Raises:
        OSError: of the path, where nothing can be written there.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)

    def __enter__(self) -> str:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle, self.temporary = tempfile.mkstemp(prefix=".draft-", suffix=self.path.suffix, dir=self.path.parent)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        os.close(handle)
        return self.temporary

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            os.unlink(self.temporary)
            return
        try:
            os.chmod(self.temporary, 0o644)
            os.replace(self.temporary, self.path)
        except OSError as error:
            os.unlink(self.temporary)
            raise OSError(error.errno, error.strerror, str(self.path)) from error


def _encode(
    target: str | io.BytesIO,
    pictures: Iterable[np.ndarray],
    fps: Fraction | int,
    pix_fmt: str,
    settings: dict[str, str],
    threads: int,
    metadata: dict[str, str] | None,
) -> None:
    rate = Fraction(fps).limit_denominator(1001)
    pictures = iter(pictures)
    first = next(pictures, None)
    if first is None:
        raise ValueError("a video needs at least one frame")
    height, width = first.shape[:2]
    odd = (height % 2, width % 2) if pix_fmt == "yuv420p" else (0, 0)

    def reread(*_: object) -> io.BytesIO:
        """Lends what is written so far, which is moved behind the index at the end."""
        assert isinstance(target, io.BytesIO)
        return io.BytesIO(target.getvalue())

    again = reread if isinstance(target, io.BytesIO) else None  # a file is opened again by its name
    with av.open(target, "w", format="mp4", options={"movflags": MOVFLAGS}, io_open=again) as container:
        container.metadata.update({key: str(value) for key, value in (metadata or {}).items()})
        stream = container.add_stream("libx264", rate=rate, options=settings)
        stream.height, stream.width = height + odd[0], width + odd[1]
        stream.pix_fmt = pix_fmt
        codec = stream.codec_context
        codec.thread_count = threads
        codec.time_base = 1 / rate
        codec.color_primaries, codec.color_trc, codec.colorspace, codec.color_range = 1, 1, 1, 1  # BT.709, limited
        to_yuv = VideoReformatter()  # one for all, and no threads: else setting up costs more than the encoding
        for i, picture in enumerate(chain([first], pictures)):
            if picture.shape != (height, width, 3) or picture.dtype != np.uint8:
                raise ValueError(f"a picture of this video is uint8 {(height, width, 3)}, not {picture.dtype} {picture.shape}")
            even = np.pad(picture, ((0, odd[0]), (0, odd[1]), (0, 0)), mode="edge") if any(odd) else np.ascontiguousarray(picture)
            frame = av.VideoFrame.from_ndarray(even, format="rgb24")
            frame = to_yuv.reformat(frame, format=pix_fmt, dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG, threads=1)
            frame.pts, frame.time_base = i, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
