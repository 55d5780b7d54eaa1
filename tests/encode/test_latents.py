"""The row stage of latents: shapes, normalisation, and clips that do not fit."""

import numpy as np
import pytest
import torch

from components.encode.latents import EncodeLatents
from components.media.read import decode_clip
from components.media.write import encode_clip
from components.models.sizes import VaeSize
from components.models.vae import VideoVae, save_vae
from components.world.render import render_clips


@pytest.fixture(scope="module")
def vae() -> VideoVae:
    torch.manual_seed(0)
    frames, _ = render_clips("demo", 16, num_frames=5, height=32, width=32, seed=1)
    model = VideoVae(VaeSize(latent_channels=4, hidden_channels=8, num_blocks=1, encoder_channels=8, encoder_blocks=1)).eval()
    model.start_linear(torch.from_numpy(frames).permute(0, 4, 1, 2, 3).float() / 127.5 - 1)
    model.set_normalisation(torch.arange(4.0), torch.arange(1.0, 5.0))
    return model


@pytest.fixture(scope="module")
def stage(vae: VideoVae, tmp_path_factory: pytest.TempPathFactory) -> EncodeLatents:
    folder = tmp_path_factory.mktemp("vae") / "export"
    save_vae(folder, vae, {})
    return EncodeLatents(folder)


def test_rows_get_the_normalised_latents_of_their_videos_in_their_order(stage: EncodeLatents, vae: VideoVae) -> None:
    frames, _ = render_clips("demo", 3, num_frames=5, height=32, width=32, seed=2)
    videos = [encode_clip(frames[0], 8), encode_clip(frames[1, :1, :16], 8), encode_clip(frames[2], 8)]
    rows = stage([{"clip_id": name, "video": video} for name, video in zip("abc", videos, strict=True)])
    assert [row["clip_id"] for row in rows] == ["a", "b", "c"]
    assert [row["latents_shape"] for row in rows] == [[4, 2, 4, 4], [4, 1, 2, 4], [4, 2, 4, 4]]
    for row, video in zip(rows, videos, strict=True):
        assert set(row) == set(EncodeLatents.WRITES)
        assert row["latents"].dtype == np.float16
        clip = torch.from_numpy(decode_clip(video)[None]).permute(0, 4, 1, 2, 3).float() / 127.5 - 1
        with torch.no_grad():
            np.testing.assert_allclose(row["latents"], vae.encode(clip)[0].numpy(), atol=2e-3, rtol=2e-3)


def test_a_clip_that_does_not_fit_is_named(stage: EncodeLatents) -> None:
    video = encode_clip(np.zeros((4, 32, 32, 3), np.uint8), 8)
    with pytest.raises(ValueError, match="clip `odd`: a clip of 4 frames does not fit; the nearest are 1 and 5"):
        stage([{"clip_id": "odd", "video": video}])
