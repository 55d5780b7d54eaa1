"""What a step sees of its clips: drawn by seed and step alone, everything that fits and nothing else, in the shares that are set."""

from types import SimpleNamespace

import pytest
import torch

from components.models.pixels import to_pixels
from components.train.shares import share_of
from components.train.steps import seed_of
from components.train.views import View, draw_view, seen

RATIO, SIDE = 4, 8
SHAPE = (17, 40, 24)
EVERYTHING = {
    "image_share": 0.2, "random_lengths": True, "max_frame_stride": 4, "crop_size": 24, "min_crop_size": 8, "max_downscale": 3.0,
    "mirror_share": 0.5,
}  # fmt: skip
NOTHING = {
    "image_share": 0.0, "random_lengths": False, "max_frame_stride": 1, "crop_size": 64, "min_crop_size": None, "max_downscale": 1.0,
    "mirror_share": 0.0,
}  # fmt: skip


def view(step: int, shape: tuple[int, int, int] = SHAPE, whole: int = 5, **changes: object) -> View:
    settings = SimpleNamespace(**(EVERYTHING | changes))
    return draw_view(settings, shape, whole, RATIO, SIDE, torch.Generator().manual_seed(seed_of(0, step)))  # type: ignore[arg-type]


def frames_of(shape: tuple[int, int, int], count: int = 5) -> torch.Tensor:
    return torch.randint(256, (count, *shape, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def told(one: View) -> tuple[object, ...]:
    return (one.num_frames, one.stride, one.window, one.size, one.places.tolist())


def test_a_step_sees_the_same_whenever_it_is_drawn_and_another_step_something_else() -> None:
    assert [told(view(step)) for step in range(20)] == [told(view(step)) for step in range(20)]
    assert len({str(told(view(step))) for step in range(200)}) > 190


def test_every_length_stride_and_size_that_fits_is_seen_and_no_other() -> None:
    drawn = [view(step) for step in range(2000)]
    lengths = {(one.stride, one.num_frames) for one in drawn}
    assert lengths == {
        (1, 1),  # images
        *((1, frames) for frames in (5, 9, 13, 17)),
        *((2, frames) for frames in (5, 9)),
        (3, 5),
        (4, 5),
    }
    assert {one.size for one in drawn} == {(side, side) for side in (8, 16, 24)}
    for one in drawn:
        first, top, left, mirrored = one.places.T
        assert first.min() >= 0
        assert first.max() + (one.num_frames - 1) * one.stride < SHAPE[0]
        assert top.max() + one.window[0] <= SHAPE[1]
        assert left.max() + one.window[1] <= SHAPE[2]
        assert set(mirrored.tolist()) <= {0, 1}
        assert all(side <= there <= 3.0 * side + 0.5 for side, there in zip(one.size, one.window, strict=True))
    images = torch.cat([one.places[:, 0] for one in drawn if one.num_frames == 1])
    assert set(images.tolist()) == set(range(17)), "an image is any frame of its clip"


def test_images_and_mirrored_clips_come_as_often_as_set() -> None:
    drawn = [view(step) for step in range(2000)]
    images = sum(one.num_frames == 1 for one in drawn)
    assert images == pytest.approx(400, abs=4 * (2000 * 0.2 * 0.8) ** 0.5)  # four standard deviations of a binomial
    mirrored = sum(int(one.places[:, 3].sum()) for one in drawn)
    assert mirrored == pytest.approx(5000, abs=4 * (10000 * 0.25) ** 0.5)


@pytest.mark.parametrize("frames", [1, 3, 4])
def test_what_is_too_short_for_a_second_latent_is_seen_as_images(frames: int) -> None:
    shape = (frames, 16, 16)
    drawn = [view(step, shape, image_share=0.0) for step in range(30)]
    assert {(one.num_frames, one.stride) for one in drawn} == {(1, 1)}
    assert all(seen(frames_of(shape), one).shape == (5, 3, 1, *one.size) for one in drawn)


def test_a_clip_whose_frames_do_not_fit_is_seen_as_far_as_they_do() -> None:
    drawn = [view(step, (15, 16, 16), image_share=0.0, random_lengths=False, max_frame_stride=1) for step in range(60)]
    assert {one.num_frames for one in drawn} == {13}
    assert {int(first) for one in drawn for first in one.places[:, 0]} == {0, 1, 2}


def test_without_any_of_it_clips_are_seen_whole() -> None:
    frames = frames_of((9, 16, 24))
    assert torch.equal(seen(frames, view(3, (9, 16, 24), **NOTHING)), to_pixels(frames))


def test_workers_see_their_shares_of_what_one_sees() -> None:
    frames = frames_of(SHAPE)
    for step in range(12):
        together = seen(frames, view(step))
        for rank in range(2):
            share = share_of(rank, 2)
            assert torch.equal(seen(frames[share], view(step), share), together[share])


def test_the_pixels_are_those_of_their_places() -> None:
    frames = frames_of(SHAPE)
    for step in range(12):
        one = view(step, max_downscale=1.0)
        pixels = seen(frames, one)
        for clip, (first, top, left, mirrored) in enumerate(one.places.tolist()):
            for frame in range(one.num_frames):
                picture = frames[clip, first + frame * one.stride, top : top + one.size[0], left : left + one.size[1]]
                picture = picture.flip(1) if mirrored else picture
                assert torch.equal(pixels[clip, :, frame], picture.permute(2, 0, 1).float() / 127.5 - 1.0)


def test_what_is_scaled_down_does_not_alias() -> None:
    """A pattern finer than the pixels it is scaled down to leaves its mean; a plain one stays as it is."""
    fine = (torch.arange(48) % 2 * 255).to(torch.uint8).view(1, 1, 1, 48, 1).expand(1, 1, 48, 48, 3)
    plain = torch.full((1, 1, 48, 48, 3), 200, dtype=torch.uint8)
    half = View(1, 1, (48, 48), (24, 24), torch.zeros(1, 4, dtype=torch.int64))
    assert seen(fine, half)[..., 2:-2].abs().max() < 1e-5
    torch.testing.assert_close(seen(plain, half), torch.full((1, 3, 1, 24, 24), 200 / 127.5 - 1.0))
