"""VAEs of diffusers code as diffusers itself does, in chunks as the whole, and what cannot be used is refused in a sentence."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from components.encode.load_vae import load_vae
from components.encode.pretrained_vae import WHOLE, PretrainedVae, PretrainedVaeError
from components.encode.pretrained_weights import save_pretrained_vae, take
from components.models.tiles import decode_latents, decode_stream, encode_clip, encode_stream
from components.models.weights import load_json

WAN = {"base_dim": 8, "z_dim": 4, "dim_mult": [1, 2, 2, 2], "num_res_blocks": 1}
WAN |= {"latents_mean": [0.1, -0.2, 0.3, 0.4], "latents_std": [1.0, 2.0, 3.0, 0.5]}
PLAIN = {"latent_channels": 4, "block_out_channels": (8, 8, 8, 8)}
LTX = {**PLAIN, "decoder_block_out_channels": (8, 8, 8, 8), "layers_per_block": (1,) * 5, "decoder_layers_per_block": (1,) * 5}
NOISY = {"timestep_conditioning": True, "decoder_inject_noise": (True, False, False, False, False)}
TINY = {  # the class in diffusers, what it is called with, and the shape of a clip
    "wan": ("AutoencoderKLWan", WAN, (9, 32, 24)),
    "wan 2.2": (
        "AutoencoderKLWan",
        {**WAN, "in_channels": 12, "out_channels": 12, "is_residual": True, "patch_size": 2, "scale_factor_spatial": 16},
        (9, 32, 48),
    ),
    "cogvideox": ("AutoencoderKLCogVideoX", {**PLAIN, "layers_per_block": 1, "norm_num_groups": 2}, (17, 32, 24)),
    "ltx": ("AutoencoderKLLTXVideo", LTX, (9, 64, 32)),
    "noisy ltx": ("AutoencoderKLLTXVideo", {**LTX, **NOISY}, (9, 32, 32)),
    "hunyuan": ("AutoencoderKLHunyuanVideo", {**PLAIN, "layers_per_block": 1, "norm_num_groups": 2}, (9, 32, 24)),
}
STREAMING = ("wan", "wan 2.2", "cogvideox")

pytestmark = pytest.mark.slow  # to import diffusers takes longer than all that is tested here
Checkpoint = tuple[Any, Path, Tensor]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Checkpoint]:
    """Answers a tiny VAE of diffusers, the folder that it saved itself to, and a clip for it."""
    import diffusers

    made: dict[str, Checkpoint] = {}

    def of(name: str) -> Checkpoint:
        if name not in made:
            family, config, (frames, height, width) = TINY[name]
            torch.manual_seed(len(name))
            codec = getattr(diffusers, family)(**config).eval()
            if family == "AutoencoderKLLTXVideo":
                codec.latents_mean.uniform_(-1, 1)
                codec.latents_std.uniform_(0.5, 2)
            folder = tmp_path_factory.mktemp("saved")
            codec.save_pretrained(folder)
            made[name] = codec, folder, torch.rand(2, 3, frames, height, width) * 2 - 1
        return made[name]

    return of


@torch.no_grad()
@pytest.mark.parametrize("name", TINY)
def test_latents_are_those_of_diffusers_normalised_by_channel(name: str, checkpoint: Callable[[str], Checkpoint]) -> None:
    codec, folder, clip = checkpoint(name)
    vae = take(str(folder))
    theirs = codec.encode(clip).latent_dist
    config = codec.config
    if name.startswith("wan"):
        mean, std = torch.tensor(config.latents_mean), torch.tensor(config.latents_std)
    elif name.endswith("ltx"):
        mean, std = codec.latents_mean, codec.latents_std / config.scaling_factor
    else:
        mean, std = torch.zeros(4), torch.full((4,), 1 / config.scaling_factor)
    expected = (theirs.mode() - mean.view(1, -1, 1, 1, 1)) / std.view(1, -1, 1, 1, 1)
    latents = vae.encode(clip)
    torch.testing.assert_close(latents, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(vae.moments(clip)[1], theirs.logvar)
    assert tuple(latents.shape[1:]) == vae.latents_shape(*clip.shape[2:])
    assert vae.encode(clip[:, :, :1]).shape[2] == 1
    assert vae.normalised


@torch.no_grad()
@pytest.mark.parametrize("name", TINY)
def test_latents_decode_to_the_frames_of_diffusers(name: str, checkpoint: Callable[[str], Checkpoint]) -> None:
    codec, folder, clip = checkpoint(name)
    vae, raw = take(str(folder)), codec.encode(clip).latent_dist.mode()
    told = {"temb": torch.zeros(2)} if name == "noisy ltx" else {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = codec.decode(raw, **told).sample
    frames = vae.decode(vae.encode(clip))
    assert frames.shape == clip.shape
    torch.testing.assert_close(frames.clamp(-1, 1), theirs.clamp(-1, 1), atol=1e-4, rtol=0)
    assert torch.equal(frames, vae.decode(vae.encode(clip)))
    assert vae.decode(vae.encode(clip[:, :, :1])).shape == clip[:, :, :1].shape


@torch.no_grad()
@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("plan", [(1,), (3, 5)])
def test_chunks_of_any_lengths_are_the_whole(name: str, plan: tuple[int, ...], checkpoint: Callable[[str], Checkpoint]) -> None:
    _, folder, clip = checkpoint(name)
    vae = take(str(folder))
    assert vae.streams == (name in STREAMING)
    latents, chunks = vae.encode(clip), []
    while sum(chunks) < clip.shape[2]:
        chunks.append(min(plan[len(chunks) % len(plan)], clip.shape[2] - sum(chunks)))
    assert torch.equal(torch.cat(list(encode_stream(vae, clip.split(chunks, dim=2))), dim=2), latents)
    assert torch.equal(torch.cat(list(decode_stream(vae, latents.split(plan[0], dim=2))), dim=2), vae.decode(latents))
    image = clip[:, :, :1]
    assert torch.equal(torch.cat(list(decode_stream(vae, encode_stream(vae, [image]))), dim=2), vae.decode(vae.encode(image)))


@torch.no_grad()
@pytest.mark.parametrize("name", STREAMING)
def test_what_is_passed_on_is_all_that_ties_chunks(name: str, checkpoint: Callable[[str], Checkpoint]) -> None:
    """Two clips in turns, each with its own state, and one state used twice."""
    _, folder, clip = checkpoint(name)
    vae = take(str(folder))
    first = 1 + (vae.pace[0] - 1) * vae.frames
    (one, other), latents = clip.split(1), vae.encode(clip)
    start, state = vae.encode_chunk(one[:, :, :first])
    vae.encode_chunk(other[:, :, :first])
    for _ in range(2):
        rest, _ = vae.encode_chunk(one[:, :, first:], state)
        torch.testing.assert_close(torch.cat([start, rest], dim=2), latents[:1], atol=1e-5, rtol=0)
    shown, state = vae.decode_chunk(latents[:, :, : vae.pace[0]])
    for _ in range(2):
        later, _ = vae.decode_chunk(latents[:, :, vae.pace[0] :], state)
        assert torch.equal(torch.cat([shown, later], dim=2), vae.decode(latents))
    with pytest.raises(ValueError, match=f"goes on with a multiple of {vae.pace[1] * vae.frames} frames, not with 3"):
        vae.encode_chunk(one[:, :, :3], vae.encode_chunk(one[:, :, :first])[1])


@torch.no_grad()
@pytest.mark.parametrize(("name", "ahead"), [("wan", False), ("wan 2.2", False), ("cogvideox", True), ("ltx", True)])
def test_wan_alone_does_not_look_ahead(name: str, ahead: bool, checkpoint: Callable[[str], Checkpoint]) -> None:
    """CogVideoX's norms see a whole part, LTX-Video's decoder the next latent, so the gate will not take them for causal."""
    _, folder, clip = checkpoint(name)
    vae, found = take(str(folder)), []
    latents = vae.encode(clip)
    frames = vae.decode(latents)
    for kept, shown in enumerate(range(1, clip.shape[2], vae.frames), start=1):
        others = vae.encode(torch.cat([clip[:, :, :shown], -clip[:, :, shown:]], dim=2))
        same = torch.allclose(latents[:, :, :kept], others[:, :, :kept], atol=1e-5)
        found.append(same and torch.allclose(frames[:, :, :shown], vae.decode(others)[:, :, :shown], atol=1e-5))
    assert all(found) != ahead


@torch.no_grad()
def test_tiles_of_ltx_video_whose_reach_is_short_leave_hardly_a_seam(checkpoint: Callable[[str], Checkpoint]) -> None:
    vae = take(str(checkpoint("ltx")[1]))
    wide = torch.rand(1, 3, 1, 512, 512) * 2 - 1
    assert decode_latents(vae, encode_clip(vae, wide)).shape == wide.shape
    tiled, whole = (torch.cat(list(encode_stream(vae, [wide], tile)), dim=2) for tile in (12, None))
    assert (tiled - whole).abs().mean() < 0.05 * whole.std()


@pytest.mark.parametrize("name", TINY)
def test_a_folder_of_ours_holds_all_that_it_needs(name: str, checkpoint: Callable[[str], Checkpoint], tmp_path: Path) -> None:
    _, folder, clip = checkpoint(name)
    vae = take(str(folder))
    vae.set_normalisation(torch.arange(4.0), torch.full((4,), 2.0))
    save_pretrained_vae(tmp_path / "ours", vae, {"origin": "a test"})
    again = load_vae(tmp_path / "ours")
    assert isinstance(again, PretrainedVae)
    torch.testing.assert_close(again.encode(clip), vae.encode(clip).detach(), atol=1e-6, rtol=0)  # weights lie elsewhere in memory
    assert again.size == vae.size
    assert not any(parameter.requires_grad for parameter in again.parameters())
    noted = load_json(tmp_path / "ours", "vae")
    assert (noted["codec"], noted["origin"], noted["latents_mean"]) == (TINY[name][0], "a test", [0.0, 1.0, 2.0, 3.0])
    assert (noted["temporal_compression_ratio"], noted["spatial_compression_ratio"]) == (vae.frames, vae.side)


@pytest.mark.parametrize("name", TINY)
def test_every_parameter_can_be_trained_further(name: str, checkpoint: Callable[[str], Checkpoint]) -> None:
    _, folder, clip = checkpoint(name)
    vae = take(str(folder)).train().requires_grad_(True)
    noise = torch.randn(2, *vae.latents_shape(*clip.shape[2:]))
    reconstruction, mean, log_variance = vae(clip, noise)
    assert reconstruction.shape == clip.shape
    ((reconstruction - clip).square().mean() + mean.square().mean() + log_variance.square().mean()).backward()
    without = [name for name, parameter in vae.codec.named_parameters() if parameter.grad is None]
    assert without == []


@pytest.mark.parametrize(
    ("name", "shape", "hint"),
    [
        ("wan", (8, 32, 32), "a clip of 8 frames does not fit; the nearest are 5 and 9"),
        ("cogvideox", (13, 32, 32), "a clip of 13 frames does not fit; the nearest are 9 and 17"),
        ("ltx", (9, 40, 64), "a height of 40 is not a multiple of 32; the nearest is 32"),
        ("wan 2.2", (9, 32, 40), "a width of 40 is not a multiple of 16; the nearest is 32"),
    ],
)
def test_a_clip_that_does_not_fit_is_told_what_does(
    name: str, shape: tuple[int, int, int], hint: str, checkpoint: Callable[[str], Checkpoint]
) -> None:
    with pytest.raises(ValueError, match=hint):
        take(str(checkpoint(name)[1])).encode(torch.zeros(1, 3, *shape))


def test_a_checkpoint_without_a_normalisation_says_so(tmp_path: Path) -> None:
    import diffusers

    diffusers.AutoencoderKLLTXVideo(**LTX).save_pretrained(tmp_path / "vae")
    assert not take(str(tmp_path)).normalised, "a pipeline's folder has its VAE below"


def test_weights_of_another_shape_are_refused(checkpoint: Callable[[str], Checkpoint], tmp_path: Path) -> None:
    _, folder, _ = checkpoint("wan")
    for change in ({"base_dim": 12}, {"num_res_blocks": 2}):
        config = json.loads((folder / "config.json").read_text()) | change
        (tmp_path / "config.json").write_text(json.dumps(config))
        (tmp_path / "diffusion_pytorch_model.safetensors").write_bytes((folder / "diffusion_pytorch_model.safetensors").read_bytes())
        with pytest.raises(PretrainedVaeError, match=r"not of the shape of its config.json.*; hint: keep both files of one checkpoint"):
            take(str(tmp_path))


def test_a_name_of_the_hub_without_a_network_is_one_sentence() -> None:
    with pytest.raises(PretrainedVaeError, match=r"`Wan-AI/nothing` cannot be fetched .*; hint: run once with a network"):
        take("Wan-AI/nothing")


def test_whole_clips_are_not_taken_part_by_part(checkpoint: Callable[[str], Checkpoint]) -> None:
    _, folder, clip = checkpoint("hunyuan")
    vae = take(str(folder))
    assert vae.pace == WHOLE
    _, state = vae.encode_chunk(clip)
    with pytest.raises(ValueError, match="`AutoencoderKLHunyuanVideo` takes a clip as a whole, not part by part"):
        vae.encode_chunk(clip[:, :, :4], state)
