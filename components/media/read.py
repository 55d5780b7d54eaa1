"""Reads pictures from files that anybody may have made: RGB, upright, square pixels, each with its time."""

from __future__ import annotations

import io
import math
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, cast

import av
import numpy as np
from av.container import InputContainer
from av.filter import Graph
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

# Only containers that hold their own pictures: playlists (hls, concat, dash) could name any other file of the machine.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif,apng,mpegts,mpeg,mpegvideo,m4v,h264,hevc,ivf,obu,flv,ogg,asf,mxf,nut,"
    "image2,jpeg_pipe,png_pipe,webp_pipe,bmp_pipe,tiff_pipe"
)
KINDS = "a video as MP4, MOV, MKV, WebM, AVI, MPEG, GIF, or an image as JPEG, PNG, WebP, BMP, TIFF"
SAFE = {"protocol_whitelist": "file", "format_whitelist": FORMATS, "pattern_type": "none"}  # "none": a `%d` in a name is a name
EXACT = Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP | Interpolation.BITEXACT
TRANSPARENT = ("rgba", "bgra", "argb", "abgr", "yuva", "ya", "pal8", "rgba64", "bgra64")
HDR_TRANSFERS = {16: "PQ", 18: "HLG"}
UNSPECIFIED = 2
JPEG_FORMATS = ("image2", "jpeg_pipe")
JPEG_FILLS_IN = ("overread", "error")  # how its decoder's remarks begin where data is missing or makes no sense
UNNAMED = range(28, 32)  # kinds of a frame's side data, EXIF among them, that PyAV has no names for

av.logging.set_level(av.logging.PANIC)  # what goes wrong in a file becomes its reason, not lines on stderr


class UnusableFile(ValueError):
    """A file of which no clip can be made; the message is the reason, without the file's name."""


@dataclass
class Damage:
    """What reading met on its way: packets the decoder refused, frames it marked as damaged, frames out of time."""

    errors: int = 0
    corrupt: int = 0
    out_of_time: int = 0

    @property
    def frames(self) -> int:
        """How many frames are missing at least."""
        return self.errors + self.corrupt + self.out_of_time


@dataclass
class Frame:
    """One decoded frame; its pixels are made when asked for, at the size asked for.

    `height` and `width` are as displayed, after rotation and sample aspect ratio. `after_gap` marks the first frame behind damage,
    `partial` a JPEG of which a part did not decode and is filled in.
    """

    index: int
    pts: int
    time_base: Fraction
    seconds: float
    height: int
    width: int
    after_gap: bool
    _frame: VideoFrame
    _painter: Painter
    _made: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)
    partial: bool = False

    @property
    def rgb(self) -> np.ndarray:
        """uint8 (H, W, 3) at the displayed size."""
        return self.resized(self.height, self.width)

    def resized(self, height: int, width: int) -> np.ndarray:
        """uint8 (height, width, 3), averaged over area where it shrinks; asked twice, the same array, so it is not to be changed."""
        if (height, width) not in self._made:
            self._made[height, width] = self._painter.paint(self._frame, height, width)
        return self._made[height, width]


@dataclass
class Painter:
    """Turns decoded frames of one stream into upright RGB; keeps one scaler for each size, since building one costs more than using it."""

    quarter_turns: int
    upside_down: bool = False  # as it is stored, which comes before the turns
    _scalers: dict[tuple[int, int, int, int, str], tuple[VideoReformatter, dict[str, Any]]] = field(default_factory=dict)

    def paint(self, frame: VideoFrame, height: int, width: int) -> np.ndarray:
        stored = (width, height) if self.quarter_turns % 2 else (height, width)
        key = (*stored, frame.height, frame.width, frame.format.name)
        if key not in self._scalers:
            self._scalers[key] = (VideoReformatter(), self._settings(frame, *stored))
        scaler, settings = self._scalers[key]
        try:
            rgb = scaler.reformat(frame, **settings).to_ndarray()
        except av.FFmpegError as error:
            raise UnusableFile(f"its pictures, {frame.format.name}, cannot be turned into RGB") from error
        if settings["format"] == "rgba":
            rgb = (rgb[..., :3] * (rgb[..., 3:].astype(np.uint16)) // 255).astype(np.uint8)
        return np.ascontiguousarray(np.rot90(rgb[::-1] if self.upside_down else rgb, self.quarter_turns))

    def _settings(self, frame: VideoFrame, height: int, width: int) -> dict[str, Any]:
        shrinks = height < frame.height or width < frame.width
        matrix, limits = colours(frame)
        return {
            "height": height,
            "width": width,
            "format": "rgba" if is_transparent(frame) else "rgb24",
            "interpolation": (Interpolation.AREA if shrinks else Interpolation.BICUBIC) | EXACT,
            "src_colorspace": matrix,
            "src_color_range": limits,
            "threads": 1,
        }


def open_container(source: str | os.PathLike | bytes, max_side_pixels: int = 16384) -> InputContainer:
    """Opens a file, or a file's bytes, for reading; nothing but the file itself is touched.

    Raises:
        UnusableFile: it is no media file.
    """
    options = SAFE | {"max_pixels": str(max_side_pixels**2)}
    logged = av.logging.get_last_error()[0]
    try:
        return av.open(io.BytesIO(source) if isinstance(source, bytes) else os.path.abspath(source), "r", options=options)
    except (av.FFmpegError, OSError) as error:
        count, last = av.logging.get_last_error()
        said = last[2].strip() if last and count > logged else (error.strerror or str(error)).lower()
        if said.startswith("Format not on whitelist"):
            raise UnusableFile(f"it is of a kind that is not read; hint: {KINDS}") from error
        raise UnusableFile(f"it cannot be opened: {said}") from error


def picture_stream(container: InputContainer) -> VideoStream | None:
    """Answers the first video stream that is not a cover picture of something else, or None; of a file of stills its main picture.

    Raises:
        UnusableFile: the main picture is in tiles.
    """
    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if streams and streams[0].frames == 1:  # HEIC and AVIF files hold thumbnails too, and PyAV does not say where a tile belongs
        main = [stream for stream in streams if stream.disposition & Disposition.default]
        if not main and any(stream.disposition & Disposition.dependent for stream in streams):
            raise UnusableFile("its picture is in tiles (HEIC, AVIF), which are not put together here; hint: save it as JPEG or PNG")
        streams = main or streams
    return streams[0] if streams else None


def read_frames(
    source: str | os.PathLike | bytes, damage: Damage | None = None, *, max_frames: int | None = None, max_side_pixels: int = 16384
) -> Iterator[Frame]:
    """Decodes the frames of the first video stream in order of time.

    What cannot be decoded, and all that leans on it up to the next key frame, is left out and counted in `damage`.

    Raises:
        UnusableFile: the file cannot be opened at all, its picture is in tiles, or it is an animated WebP.
    """
    damage = damage if damage is not None else Damage()
    with open_container(source, max_side_pixels) as container:
        stream = picture_stream(container)
        if stream is None or stream.codec_context is None:
            return
        stream.codec_context.options = {"max_pixels": str(max_side_pixels**2)}
        stream.thread_count = 1  # workers run side by side instead
        step = 1 / (sane_rate(stream) or Fraction(25))
        painter: Painter | None = None
        last: float | None = None
        index, gap = 0, False
        may_be_partial, logged = container.format.name in JPEG_FORMATS, av.logging.get_last_error()[0]
        for frame in _decode(container, stream, damage):
            if frame is None:
                gap = True
                continue
            base = frame.time_base or stream.time_base or step
            guessed = last + float(step) if last is not None else 0.0
            seconds = float(frame.pts * base) if frame.pts is not None else guessed
            if last is not None and seconds <= last:
                damage.out_of_time += 1
                continue
            painter = painter or Painter(quarter_turns(frame), is_mirrored(frame))
            height, width = displayed_size(stream, frame, painter.quarter_turns)
            pts = frame.pts if frame.pts is not None else round(seconds / float(base))
            yield Frame(
                index, pts, base, seconds, height, width, gap and index > 0, frame, painter, partial=may_be_partial and _fills_in(logged)
            )
            index, last, gap = index + 1, seconds, False
            if max_frames is not None and index >= max_frames:
                return
        if index == 0 and _is_animated_webp(source):
            raise UnusableFile("it is an animated WebP, which is not read; hint: save it as MP4 or GIF, or one picture of it as PNG")


def _fills_in(logged: int) -> bool:
    """Answers whether the JPEG decoder, since so many errors, made up what it could not decode; its frame does not say so."""
    count, last = av.logging.get_last_error()
    return last is not None and count > logged and last[1] == "mjpeg" and last[2].startswith(JPEG_FILLS_IN)


def _is_animated_webp(source: str | os.PathLike | bytes) -> bool:
    if isinstance(source, bytes):
        head = source[:21]
    else:
        with open(source, "rb") as handle:
            head = handle.read(21)
    return head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and bool(head[20] & 2)


def _decode(container: InputContainer, stream: VideoStream, damage: Damage) -> Iterator[VideoFrame | None]:
    """Yields whole frames, and None where damage was left out."""
    broken = False
    try:
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.FFmpegError:
                damage.errors += 1
                broken = True
                yield None
                continue
            for frame in frames:
                broken = broken and not frame.key_frame
                if broken or frame.is_corrupt:
                    damage.corrupt += 1
                    yield None
                else:
                    yield frame
    except av.FFmpegError:  # the container itself ends in the middle
        damage.errors += 1


def decode_clip(video: bytes) -> np.ndarray:
    """Decodes a clip of a table, uint8 (T, H, W, 3)."""
    frames = [frame.rgb for frame in read_frames(video)]
    if not frames:
        raise ValueError("a clip's bytes hold no frame; hint: `kinora doctor` looks for broken rows")
    return np.stack(frames)


def sane_rate(stream: VideoStream) -> Fraction | None:
    """Answers the frame rate that a stream declares, or None where it is absent or absurd."""
    for rate in (stream.average_rate, stream.guessed_rate):
        if rate and 0 < rate <= 1000:
            return rate
    return None


def quarter_turns(frame: VideoFrame) -> int:
    """Answers how often the picture must be turned by 90 degrees to the left to stand upright; 0 where the file does not make sense."""
    return round(frame.rotation / 90) % 4 if is_sane_rotation(frame) else 0


def is_sane_rotation(frame: VideoFrame) -> bool:
    return abs(frame.rotation) <= 360 and frame.rotation % 90 == 0


def is_mirrored(frame: VideoFrame) -> bool:
    """Answers whether a picture is stored in mirror writing; it stands upright once it is put upside down and then turned."""
    matrix = _display_matrix(frame)
    if matrix is None or not is_sane_rotation(frame):
        return False
    a, b, _, c, d, *_ = struct.unpack("9i", bytes(matrix))
    return bool(a * d < b * c)


def _display_matrix(frame: VideoFrame) -> Any:
    try:
        return cast(Any, frame).side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV lists none of it beside one kind that it has no name for
        try:
            return cast(Any, _with_named_data(frame)).side_data.get("DISPLAYMATRIX")
        except (ValueError, av.FFmpegError):
            return None


def _with_named_data(frame: VideoFrame) -> VideoFrame:
    graph = Graph()
    last = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1))
    for node in (*(graph.add("sidedata", f"mode=delete:type={kind}") for kind in UNNAMED), graph.add("buffersink")):
        last.link_to(node)
        last = node
    graph.configure()
    graph.push(frame)
    return cast(VideoFrame, graph.pull())


def sample_aspect(stream: VideoStream) -> Fraction:
    """Answers how wide a pixel is for its height; 1 where nothing, or nothing sensible, is said."""
    aspect = stream.sample_aspect_ratio
    return Fraction(aspect) if aspect and Fraction(1, 10) <= aspect <= 10 else Fraction(1)


def displayed_size(stream: VideoStream, frame: VideoFrame, turns: int) -> tuple[int, int]:
    """Answers (height, width) on a screen: pixels made square by widening or narrowing, then turned upright."""
    height, width = frame.height, max(1, round(frame.width * sample_aspect(stream)))
    return (width, height) if turns % 2 else (height, width)


def is_transparent(frame: VideoFrame) -> bool:
    """Answers whether pixels of this format may be clear."""
    return frame.format.name.startswith(TRANSPARENT)


def has_clear_pixels(frame: VideoFrame) -> bool:
    return is_transparent(frame) and bool((frame.to_ndarray(format="rgba")[..., 3] < 255).any())


def colours(frame: VideoFrame) -> tuple[int | None, int | None]:
    """Answers the matrix and range to read a frame's YUV with: its own tags, else BT.709 for HD and BT.601 below, limited range."""
    if frame.format.is_rgb or frame.format.has_palette or frame.format.name.startswith("gray"):
        return None, None
    matrix = frame.colorspace
    if matrix in (0, UNSPECIFIED, 3):
        hd = (frame.width >= 1280 or frame.height > 576) and not frame.format.name.startswith("yuvj")
        matrix = 1 if hd else 5
    if frame.color_range in (1, 2):
        return matrix, frame.color_range
    return matrix, 2 if frame.format.name.startswith("yuvj") else 1


def fit(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Answers the size (height, width) of a picture shrunk until its short side is `short_side`; a smaller one stays as it is."""
    scale = min(1.0, short_side / min(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def cover(height: int, width: int, target_height: int, target_width: int) -> tuple[int, int, list[int]]:
    """Answers the size (height, width) that just covers a target, and the centred crop [x, y, width, height] in source pixels."""
    scale = max(target_height / height, target_width / width)
    scaled_height = max(target_height, math.floor(height * scale + 0.5))
    scaled_width = max(target_width, math.floor(width * scale + 0.5))
    x = (scaled_width - target_width) // 2 / scaled_width * width
    y = (scaled_height - target_height) // 2 / scaled_height * height
    crop_width, crop_height = target_width / scaled_width * width, target_height / scaled_height * height
    return scaled_height, scaled_width, [round(x), round(y), round(crop_width), round(crop_height)]
