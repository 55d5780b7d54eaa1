"""Clips in chunks and pictures in tiles: together they are what the whole is, and only the state that is passed on ties them."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from components.models.sizes import VaeSize
from components.models.tiles import Tiles, decode_latents, decode_stream, encode_clip, encode_stream, paced, windows
from components.models.vae import VideoVae
from tests.models.test_vae import PUBLISHED, SIZE, some_clips, trained_like

PLANS = ((1, 4, 4, 4), (1, 8, 4), (1, 12), (13,), (2, 3, 8), (1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1), (5, 0, 7, 1))


def parts(clip: Tensor, plan: Sequence[int]) -> Iterator[Tensor]:
    return iter(clip.split(list(plan), dim=2))


def psnr(a: Tensor, b: Tensor) -> float:
    return 10 * math.log10(4.0 / max(1e-12, float((a - b).square().mean())))


@torch.no_grad()
@pytest.mark.parametrize("plan", PLANS)
def test_a_clip_in_chunks_has_the_latents_of_the_whole(plan: tuple[int, ...]) -> None:
    vae, clip = trained_like(), some_clips(2, 13)
    torch.testing.assert_close(torch.cat(list(encode_stream(vae, parts(clip, plan))), dim=2), vae.encode(clip), atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("plan", [(1, 1, 1, 1), (4,), (1, 3), (3, 1), (2, 2)])
def test_latents_in_chunks_decode_to_the_frames_of_the_whole(plan: tuple[int, ...]) -> None:
    vae = trained_like()
    latents = vae.encode(some_clips(2, 13))
    torch.testing.assert_close(torch.cat(list(decode_stream(vae, parts(latents, plan))), dim=2), vae.decode(latents), atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_codec_without_depth_in_time_or_blocks_streams_too() -> None:
    clip = some_clips(1, 9)
    for size in (VaeSize(4, 8, 0, 8, 0), VaeSize(4, 8, 1, 8, 0, temporal_compression_ratio=1), VaeSize(4, 8, 1, 8, 2, 8, 16)):
        vae = trained_like(size)
        latents = torch.cat(list(encode_stream(vae, parts(clip, (3, 6)))), dim=2)
        torch.testing.assert_close(latents, vae.encode(clip), atol=1e-5, rtol=0)
        frames = torch.cat(list(decode_stream(vae, parts(latents, (1,) * latents.shape[2]))), dim=2)
        torch.testing.assert_close(frames, vae.decode(latents), atol=1e-5, rtol=0)


@pytest.mark.parametrize("plan", PLANS)
def test_a_codec_with_a_pace_of_its_own_gets_a_clip_at_that(plan: tuple[int, ...]) -> None:
    clip = some_clips(1, 13)
    for first, later, lengths in ((1, 4, [1, 4, 4, 4]), (9, 8, [9, 4]), (10**9, 1, [13])):
        groups = list(paced(parts(clip, plan), first, later))
        assert [group.shape[2] for group in groups] == lengths
        assert torch.equal(torch.cat(groups, dim=2), clip)


@torch.no_grad()
@pytest.mark.parametrize("size", PUBLISHED)
def test_every_published_compression_streams(size: VaeSize) -> None:
    vae, clip = trained_like(size), some_clips(1, 17)
    latents = vae.encode(clip)
    frames = vae.decode(latents)
    for plan in ((1,) * 17, (1, 8, 8), (5, 0, 3, 9), (16, 1)):
        torch.testing.assert_close(torch.cat(list(encode_stream(vae, parts(clip, plan))), dim=2), latents, atol=1e-5, rtol=0)
    for plan in ((1,) * latents.shape[2], (2, latents.shape[2] - 2)):
        torch.testing.assert_close(torch.cat(list(decode_stream(vae, parts(latents, plan))), dim=2), frames, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("size", PUBLISHED)
def test_every_published_compression_is_cut_in_tiles_without_a_seam(size: VaeSize) -> None:
    vae = trained_like(replace(size, num_blocks=1, encoder_blocks=1))  # reaches two places
    clip = some_clips(1, 9, side=16 * size.spatial_compression_ratio)
    whole = vae.encode(clip)
    torch.testing.assert_close(torch.cat(list(encode_stream(vae, [clip], 12)), dim=2), whole, atol=1e-4, rtol=0)
    torch.testing.assert_close(torch.cat(list(decode_stream(vae, [whole], 12)), dim=2), vae.decode(whole), atol=1e-4, rtol=0)


@torch.no_grad()
def test_two_clips_may_be_streamed_in_turns() -> None:
    vae, (one, two) = trained_like(), some_clips(2, 9).split(1)
    turns = zip(encode_stream(vae, parts(one, (1, 4, 4))), encode_stream(vae, parts(two, (1, 4, 4))), strict=True)
    first, second = (torch.cat(chunks, dim=2) for chunks in zip(*turns, strict=True))
    torch.testing.assert_close(first, vae.encode(one), atol=1e-5, rtol=0)
    torch.testing.assert_close(second, vae.encode(two), atol=1e-5, rtol=0)


@torch.no_grad()
def test_what_is_kept_between_chunks_does_not_grow_and_holds_no_chunk() -> None:
    vae, clip = trained_like(), some_clips(1, 33)
    held, state = [], None
    for chunk in parts(clip, (1, 4, 28)):
        _, state = vae.encode_chunk(chunk, state)
        tensors = (state.rest, *state.pasts)
        held.append((sum(tensor.numel() for tensor in tensors), sum(tensor.untyped_storage().nbytes() // 4 for tensor in tensors)))
    assert len(set(held)) == 1
    assert held[0][0] == held[0][1]


@torch.no_grad()
@pytest.mark.parametrize("tile", [13, 16, 19])
def test_tiles_leave_no_seam(tile: int) -> None:
    size = VaeSize(8, 16, 1, 16, 1)  # reaches two places
    vae, clip = trained_like(size), some_clips(1, 5, side=256)
    whole = vae.encode(clip)
    latents = torch.cat(list(encode_stream(vae, parts(clip, (1, 4)), tile)), dim=2)
    torch.testing.assert_close(latents, whole, atol=1e-4, rtol=0)
    frames = torch.cat(list(decode_stream(vae, parts(whole, (1, 1)), tile)), dim=2)
    assert psnr(frames, vae.decode(whole)) > 90


@torch.no_grad()
def test_tiles_cover_a_picture_that_is_no_square() -> None:
    vae = trained_like(VaeSize(8, 16, 1, 16, 1))
    clip = some_clips(1, 1, side=248)[..., :120, :]
    latents = torch.cat(list(encode_stream(vae, [clip], 17)), dim=2)
    torch.testing.assert_close(latents, vae.encode(clip), atol=1e-4, rtol=0)


@torch.no_grad()
def test_long_and_large_clips_are_coded_as_short_and_small_ones_are() -> None:
    vae = trained_like(VaeSize(8, 16, 1, 16, 1))
    for frames, height, width in ((77, 16, 24), (5, 16, 536), (5, 24, 16)):
        clip = some_clips(1, frames, side=max(height, width))[..., :height, :width]
        latents = encode_clip(vae, clip)
        torch.testing.assert_close(latents, vae.encode(clip), atol=1e-4, rtol=0)
        torch.testing.assert_close(decode_latents(vae, latents), vae.decode(latents), atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="the nearest are 5 and 9"):
        encode_clip(vae, torch.zeros(1, 3, 8, 16, 16))


def test_windows_reach_from_end_to_end_and_share_what_was_asked() -> None:
    for length in range(1, 70):
        found = windows(length, 16, 5)
        assert (found[0].start, found[-1].end, found[0].before, found[-1].after) == (0, length, 0, 0)
        for one, two in pairwise(found):
            assert one.after == two.before == one.end - two.start >= 5
        weights = torch.zeros(length)
        for window in found:
            assert window.end - window.start == min(16, length)
            weights[window.start : window.end] += window.weights(2, 1)
        assert weights.min() > 0.4


def test_places_near_a_cut_count_for_nothing() -> None:
    first, *_ = windows(40, 16, 8)
    weights = first.weights(2, 8)
    assert weights[0] == 1.0
    assert (weights[-16:] == 0).all()
    assert (weights.diff() <= 0).all()


def test_a_picture_in_one_tile_is_not_copied() -> None:
    picture = torch.rand(1, 3, 2, 16, 24)
    tiles = Tiles(2, 3, None, 4)
    assert tiles.blend(tiles.cut(picture, 8), 8).data_ptr() == picture.data_ptr()


def test_what_cannot_be_streamed_is_refused_with_what_can() -> None:
    vae, clip = trained_like(), some_clips(1, 5)
    _, state = vae.encode_chunk(clip)
    for call, words in (
        (lambda: vae.encode_chunk(clip[..., :16], state), "a chunk of 32x16 does not follow one of 32x32"),
        (lambda: vae.encode_chunk(clip[:, :, :0]), "at least one frame"),
        (lambda: next(encode_stream(vae, [clip[..., :31]])), "width of 31 is not a multiple of 8; the nearest is 32"),
        (lambda: next(encode_stream(vae, [clip], 3)), "the smallest is 11"),
    ):
        with pytest.raises(ValueError, match=words):
            call()


def test_streams_do_not_change_the_codec() -> None:
    vae = trained_like()
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    attributes = {name: set(vars(module)) for name, module in vae.named_modules()}
    list(decode_stream(vae, encode_stream(vae, parts(some_clips(1, 13), (1, 4, 8)))))
    assert all(torch.equal(before[name], value) for name, value in vae.state_dict().items())
    assert attributes == {name: set(vars(module)) for name, module in vae.named_modules()}


def test_a_stream_of_the_reach_of_a_codec_is_what_it_says() -> None:
    """Moves one pixel and looks how far latents change, and one latent and looks how far pixels do."""
    vae = trained_like()
    clip = torch.zeros(1, 3, 1, 256, 256)
    moved = clip.clone()
    moved[..., 128, 128] = 1.0
    with torch.no_grad():
        changed = (vae.encode(moved) - vae.encode(clip)).abs().amax((0, 1, 2, 3)).nonzero()
        latents = torch.zeros(1, 8, 1, 32, 32)
        touched = latents.clone()
        touched[..., 16, 16] = 1.0
        pixels = (vae.decode(touched) - vae.decode(latents)).abs().amax((0, 1, 2, 3)).nonzero()
    assert vae.reach == VideoVae(SIZE).reach == 3
    assert changed.min() >= 16 - vae.reach
    assert pixels.min() == (16 - vae.reach) * 8
    assert pixels.max() == (17 + vae.reach) * 8 - 1
