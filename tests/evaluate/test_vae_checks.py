"""What must hold of any clip is found to hold of an honest VAE, and not of one that cheats."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from components.evaluate.vae_checks import SEAM_CLIPS, check_vae
from components.measure.distortion import MAX_PSNR
from components.models.vae import VideoVae
from components.world.render import render_clips
from tests.models.test_vae import trained_like

CLIPS = list(render_clips("demo", 3, num_frames=9, height=32, width=40, seed=2)[0])


class Changed:
    """A VAE one of whose ways is another."""

    def __init__(self, vae: VideoVae, **ways: Any) -> None:
        self.vae, self.ways = vae, ways

    def __getattr__(self, name: str) -> Any:
        return self.ways.get(name) or getattr(self.vae, name)


def test_an_honest_vae_keeps_all_of_it() -> None:
    found = check_vae(trained_like(), CLIPS)
    assert len(found.lookahead) == len(found.chunks) == 3
    assert len(found.seam_psnr) == SEAM_CLIPS
    assert max(found.lookahead) < 1e-5
    assert max(found.chunks) < 1e-5
    assert min(found.seam_psnr) > 90


def test_clips_of_one_frame_are_checked_too() -> None:
    found = check_vae(trained_like(), [clip[:1] for clip in CLIPS])
    assert max(found.lookahead + found.chunks) < 1e-5
    assert check_vae(trained_like(), []).seam_psnr == []


def test_a_vae_that_sees_the_future_is_caught() -> None:
    vae = trained_like()

    def seeing(clip: Tensor) -> Tensor:
        return vae.encode(clip) + 0.1 * clip.mean()

    def showing(latents: Tensor) -> Tensor:
        return vae.decode(latents) + 0.1 * latents[:, :, -1].mean()

    assert min(check_vae(Changed(vae, encode=seeing), CLIPS).lookahead) > 1e-3
    assert max(check_vae(Changed(vae, decode=showing), CLIPS).lookahead) > 1e-3


def test_a_vae_that_forgets_between_chunks_is_caught() -> None:
    vae = trained_like()

    def forgetful(latents: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        frames, left = vae.decode_chunk(latents, None)
        return frames if state is None else torch.cat([frames[:, :, :1].expand(-1, -1, 3, -1, -1), frames], dim=2), left

    found = check_vae(Changed(vae, decode_chunk=forgetful), CLIPS)
    assert min(found.chunks) > 1e-3
    assert max(found.lookahead) < 1e-5


def test_a_vae_that_knows_where_its_picture_ends_leaves_seams() -> None:
    vae = trained_like()

    def shaded(latents: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        frames, left = vae.decode_chunk(latents, state)
        return frames + 0.2 * torch.linspace(-1, 1, frames.shape[-1]), left

    assert max(check_vae(Changed(vae, decode_chunk=shaded), CLIPS).seam_psnr) < 45 < MAX_PSNR


def test_clips_may_be_of_several_shapes() -> None:
    found = check_vae(trained_like(), [CLIPS[0], CLIPS[1][:5, :16], np.ascontiguousarray(CLIPS[2][:, :, ::-1])])
    assert max(found.chunks) < 1e-5
