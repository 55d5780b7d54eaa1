"""Bytes become pixels in [-1, 1] and the same bytes again."""

import torch

from components.models.pixels import to_frames, to_pixels


def test_every_byte_comes_back_and_what_is_beyond_is_cut() -> None:
    frames = torch.arange(256, dtype=torch.uint8).repeat(3).reshape(1, 2, 8, 16, 3)
    clip = to_pixels(frames)
    assert clip.shape == (1, 3, 2, 8, 16)
    assert (clip.min(), clip.max()) == (-1.0, 1.0)
    assert torch.equal(clip[0, :, 1, 2, 3], frames[0, 1, 2, 3].float() / 127.5 - 1.0)
    assert torch.equal(to_frames(clip), frames)
    assert torch.equal(to_frames(clip.sign() * 9.0).unique(), torch.tensor([0, 255], dtype=torch.uint8))
