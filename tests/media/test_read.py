"""Reading pictures: upright, with square pixels, in the right colours and at the right times, whatever the file does."""

import struct
from fractions import Fraction

import av
import numpy as np
import pytest

from components.media.read import Damage, UnusableFile, cover, decode_clip, fit, read_frames
from components.media.write import encode_clip, encode_png, write_video
from tests.footage import clip, needs_footage, truth


def corners(frame: np.ndarray) -> list[str]:
    """Names the colours of the four corners, clockwise from the upper left."""
    height, width = frame.shape[:2]
    picked = [frame[2, 2], frame[2, width - 3], frame[height - 3, width - 3], frame[height - 3, 2]]
    return ["".join(name for name, value in zip("rgb", pixel, strict=True) if value > 128) or "-" for pixel in picked]


def card(height: int = 48, width: int = 80) -> np.ndarray:
    """A picture whose corners are red, green, blue and black, clockwise from the upper left."""
    frame = np.zeros((height, width, 3), np.uint8)
    frame[: height // 2, : width // 2, 0] = 255
    frame[: height // 2, width // 2 :, 1] = 255
    frame[height // 2 :, width // 2 :, 2] = 255
    return frame


def write(path, frames, *, rate=10, pix_fmt="yuv444p", times=None, change=lambda stream: None) -> None:
    """Writes frames with PyAV alone, at given times in milliseconds where the rate is not even."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "1", "x264-params": "log-level=none"})
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], pix_fmt
        stream.codec_context.time_base = Fraction(1, 1000)
        change(stream)
        for i, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pix_fmt)
            frame.pts, frame.time_base = (times[i] if times else 1000 * i // rate), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.mark.parametrize(
    ("degrees", "expected"),
    [(0, ["r", "g", "b", "-"]), (90, ["g", "b", "-", "r"]), (180, ["b", "-", "r", "g"]), (-90, ["-", "r", "g", "b"])],
)
def test_a_picture_stands_upright_whatever_way_the_camera_was_held(tmp_path, degrees, expected):
    path = tmp_path / "turned.mp4"
    write(path, [card()] * 3, change=lambda stream: stream.set_display_rotation(degrees))
    frame = next(read_frames(path))
    assert (frame.height, frame.width) == ((80, 48) if degrees % 180 else (48, 80))
    assert frame.rgb.shape == (frame.height, frame.width, 3)
    assert corners(frame.rgb) == expected


def photo(picture: np.ndarray, orientation: int) -> bytes:
    """A JPEG whose EXIF says how a camera held it."""
    codec = av.CodecContext.create("mjpeg", "w")
    codec.height, codec.width = picture.shape[:2]
    codec.pix_fmt, codec.time_base = "yuvj444p", Fraction(1)
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24").reformat(format="yuvj444p")
    jpeg = b"".join(bytes(packet) for packet in [*codec.encode(frame), *codec.encode(None)])
    said = b"Exif\0\0II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x112, 3, 1, orientation, 0, 0)
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(said) + 2) + said + jpeg[2:]


@pytest.mark.parametrize(
    ("orientation", "stored"),  # what a camera stores of an upright picture, by the numbers of EXIF
    [
        (1, lambda upright: upright),
        (2, np.fliplr),
        (3, lambda upright: np.rot90(upright, 2)),
        (4, np.flipud),
        (5, lambda upright: upright.swapaxes(0, 1)),
        (6, np.rot90),
        (7, lambda upright: np.rot90(upright, 2).swapaxes(0, 1)),
        (8, lambda upright: np.rot90(upright, -1)),
    ],
)
def test_a_photo_stands_upright_and_is_no_mirror_image_whatever_its_exif_says(tmp_path, orientation, stored):
    frame = next(read_frames(photo(stored(card()), orientation)))
    assert (frame.height, frame.width) == (48, 80)
    assert corners(frame.rgb) == corners(frame.resized(24, 40)) == ["r", "g", "b", "-"]


def test_pixels_that_are_not_square_are_made_square(tmp_path):
    path = tmp_path / "wide.mp4"
    write(path, [card()] * 2, change=lambda stream: setattr(stream.codec_context, "sample_aspect_ratio", Fraction(3, 2)))
    frame = next(read_frames(path))
    assert (frame.height, frame.width) == (48, 120)
    assert corners(frame.rgb) == ["r", "g", "b", "-"]


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize(("tag", "red", "blue"), [(1, 0.2126, 0.0722), (6, 0.299, 0.114), (9, 0.2627, 0.0593)])
def test_colours_follow_the_matrix_and_range_that_the_file_is_tagged_with(tmp_path, tag, red, blue, full_range):
    colour = np.array([200, 40, 90]) / 255
    luma = red * colour[0] + (1 - red - blue) * colour[1] + blue * colour[2]
    chroma = np.array([(colour[2] - luma) / (2 * (1 - blue)), (colour[0] - luma) / (2 * (1 - red))])
    levels = [255 * luma, *(255 * chroma + 128)] if full_range else [16 + 219 * luma, *(224 * chroma + 128)]
    path = tmp_path / "colour.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.height = stream.width = 32
        stream.pix_fmt = "yuv444p"
        stream.codec_context.colorspace, stream.codec_context.color_range = tag, 2 if full_range else 1
        frame = av.VideoFrame(32, 32, "yuv444p")
        for plane, level in zip(frame.planes, levels, strict=True):
            plane.update(bytes([round(level)]) * plane.buffer_size)
        frame.pts = 0
        container.mux([*stream.encode(frame), *stream.encode(None)])
    found = next(read_frames(path)).rgb[16, 16].astype(int)
    assert np.abs(found - [200, 40, 90]).max() <= 3


def test_times_are_those_of_the_file_when_frames_come_unevenly(tmp_path):
    times = [0, 40, 80, 200, 700, 740]
    write(tmp_path / "uneven.mp4", [card()] * 6, times=times)
    assert [round(1000 * frame.seconds) for frame in read_frames(tmp_path / "uneven.mp4")] == times


def test_transparency_is_laid_over_black(tmp_path):
    pixels = np.full((20, 30, 4), 255, np.uint8)
    pixels[:, 15:, 3] = 0
    codec = av.CodecContext.create("png", "w")
    codec.height, codec.width, codec.pix_fmt, codec.time_base = 20, 30, "rgba", Fraction(1)
    packets = [*codec.encode(av.VideoFrame.from_ndarray(pixels, format="rgba")), *codec.encode(None)]
    (tmp_path / "clear.png").write_bytes(b"".join(bytes(packet) for packet in packets))
    frame = next(read_frames(tmp_path / "clear.png")).rgb
    assert (frame[:, :15] == 255).all()
    assert (frame[:, 15:] == 0).all()


def encoded(codec_name: str, pix_fmt: str, frames: np.ndarray) -> bytes:
    """Pictures as the packets of a codec alone, which for stills is a file."""
    codec = av.CodecContext.create(codec_name, "w")
    codec.height, codec.width, codec.pix_fmt, codec.time_base = *frames.shape[1:3], pix_fmt, Fraction(1, 10)
    packets = []
    for at, picture in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pix_fmt)
        frame.pts, frame.time_base = at, Fraction(1, 10)
        packets += codec.encode(frame)
    return b"".join(bytes(packet) for packet in [*packets, *codec.encode(None)])


def test_a_jpeg_of_which_a_part_is_missing_or_garbled_is_partial_and_a_whole_one_is_not(tmp_path):
    data = encoded("mjpeg", "yuvj420p", np.random.default_rng(0).integers(0, 255, (1, 96, 96, 3), dtype=np.uint8))
    third, last = len(data) * 2 // 3, len(data) * 19 // 20
    holed = data[: len(data) // 2] + bytes(len(data) // 4) + data[len(data) // 2 + len(data) // 4 :]
    for content, partial in (
        (data, False),
        (data + b"words", False),
        (data[:third], True),
        (data[:last], True),
        (holed, True),
        (data, False),
    ):
        (tmp_path / "picture.jpg").write_bytes(content)
        assert [[frame.partial for frame in read_frames(source)] for source in (content, tmp_path / "picture.jpg")] == [[partial]] * 2


def test_an_animated_webp_is_named(tmp_path):
    (tmp_path / "moving.webp").write_bytes(encoded("libwebp_anim", "yuv420p", np.stack([card(), card()[::-1]])))
    for source in (tmp_path / "moving.webp", (tmp_path / "moving.webp").read_bytes()):
        with pytest.raises(UnusableFile, match="it is an animated WebP, which is not read; hint: save it as MP4 or GIF"):
            list(read_frames(source))
    assert corners(next(read_frames(encoded("libwebp", "yuv420p", card()[None]))).rgb) == ["r", "g", "b", "-"]


def test_a_kind_that_is_not_read_names_those_that_are(tmp_path):
    (tmp_path / "picture.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>')
    (tmp_path / "picture.jp2").write_bytes(encoded("jpeg2000", "rgb24", card()[None]))
    for name in ("picture.svg", "picture.jp2"):
        with pytest.raises(UnusableFile, match=r"^it is of a kind that is not read; hint: a video as MP4, .*, or an image as JPEG, PNG, "):
            list(read_frames(tmp_path / name))


def test_a_name_is_only_a_name(tmp_path):
    for name in ("-rf %03d \u00fc.png", "concat:x.png", "http:##x.png"):
        (tmp_path / name).write_bytes(encode_png(card()))
        assert len(list(read_frames(tmp_path / name))) == 1


def test_a_playlist_opens_no_other_file(tmp_path):
    write_video(tmp_path / "secret.mp4", np.stack([card()] * 4), 8)
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile secret.mp4\n")
    with pytest.raises(UnusableFile):
        list(read_frames(tmp_path / "list.mp4"))


def test_what_leans_on_a_damaged_frame_is_left_out_up_to_the_next_key_frame(tmp_path):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (40, 48, 80, 3), dtype=np.uint8)
    path = tmp_path / "damaged.mp4"
    write(path, frames, change=lambda stream: setattr(stream.codec_context, "gop_size", 10))
    with av.open(str(path)) as container:
        broken = [packet for packet in container.demux(video=0) if packet.size][14]
    data = bytearray(path.read_bytes())
    data[broken.pos + 4 : broken.pos + broken.size] = bytes(broken.size - 4)
    path.write_bytes(data)
    damage = Damage()
    read = list(read_frames(path, damage))
    assert damage.frames
    assert 28 <= len(read) < 40
    assert [frame.after_gap for frame in read].count(True) == 1
    for frame in read:
        source = frames[round(frame.seconds * 10)].astype(int)
        assert np.abs(frame.rgb.astype(int) - source).mean() < 12


def test_a_clip_of_a_table_comes_back_nearly_as_it_was():
    ramp = np.linspace(0, 255, 64).astype(np.uint8)
    frames = np.stack([np.stack([np.roll(ramp, t)[None].repeat(64, 0)] * 3, axis=-1) for t in range(9)])
    back = decode_clip(encode_clip(frames, 8))
    assert back.shape == frames.shape
    assert back.dtype == np.uint8
    assert np.abs(back.astype(int) - frames).mean() < 3


@pytest.mark.parametrize(("height", "width"), [(720, 1280), (1280, 720), (64, 64), (33, 97), (1, 400)])
def test_a_crop_is_centred_and_has_the_targets_shape(height, width):
    scaled_height, scaled_width, (x, y, crop_width, crop_height) = cover(height, width, 64, 64)
    assert min(scaled_height, scaled_width) == 64
    assert abs(crop_width / width * scaled_width - 64) < 1
    assert abs(crop_height / height * scaled_height - 64) < 1 or height == 1
    assert abs((width - crop_width) / 2 - x) <= 1
    assert abs((height - crop_height) / 2 - y) <= 1
    assert min(fit(height, width, 32)) <= 32


@needs_footage
def test_frames_come_out_as_many_and_as_other_projects_tests_say():
    reference = truth("reference")
    for name in ("broken/decord__video_0.mov", "broken/decord__video_90.mov"):
        frames = list(read_frames(clip(name)))
        assert len(frames) == reference[name]["frames"]
        assert list(frames[0].rgb.shape) == reference[name]["displayed_shape_h_w_c"]
    delayed = next(read_frames(clip("broken/pyscenedetect__delayed_start.mp4")))
    assert delayed.seconds == pytest.approx(reference["broken/pyscenedetect__delayed_start.mp4"]["first_frame_time_s"])
    counter = reference["broken/pyscenedetect__counter.mp4"]
    times = [frame.seconds for frame in read_frames(clip("broken/pyscenedetect__counter.mp4"))]
    assert (len(times), times[0], times[-1]) == (counter["frames"], counter["first_pts_s"], pytest.approx(counter["last_pts_s"]))


@needs_footage
def test_a_phone_held_two_ways_shows_the_same_keyboard():
    level, turned = (next(read_frames(clip(f"broken/decord__video_{degrees}.mov"))) for degrees in (0, 90))
    assert (level.height, level.width) == (turned.width, turned.height)


@needs_footage
def test_a_film_of_uneven_frame_rate_keeps_its_times():
    seconds = np.array([frame.seconds for frame in read_frames(clip("clips/dvr-scan__traffic_camera_vfr.mp4"))])
    steps = np.diff(seconds)
    assert len(seconds) == 576
    assert np.allclose(steps[:287], 1 / 25, atol=1e-3)
    assert np.allclose(steps[288:], 1 / 12.5, atol=1e-3)
