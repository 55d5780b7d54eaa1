"""Video VAEs of diffusers behind the interface of our own: Wan, CogVideoX, LTX-Video and HunyuanVideo.

Latents are the checkpoint's own, normalised by channel as its pipelines do. Wan and CogVideoX take a clip part by part, what their
convolutions look back at passed in and out; LTX-Video and HunyuanVideo look at a clip as a whole, so its memory grows with its length.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from components.models.layers import check_length, check_sides
from components.models.tiles import frames_of, paced

WHOLE = (sys.maxsize, 1)  # a pace: all of a clip at once
MARGIN_PIXELS, FEWEST, MOST = 64, 2, 4  # of a tile, of no use, in pixels and in places; all see further, so a blend hides what is left
NOISE_SEED = 0  # of a decoder that adds noise of its own


class PretrainedVaeError(ValueError):
    """A VAE of diffusers that cannot be had; the message is one sentence with the way out."""


@dataclass(frozen=True)
class CodecSize:
    """What a VAE of diffusers is built from.

    Attributes:
        codec: the name of its class.
        config: what its class is called with, JSON values.
    """

    codec: str
    config: dict[str, Any]


@dataclass(frozen=True)
class CodecState:
    """What is kept between chunks of a clip: its sides, and what the convolutions look back at as diffusers keeps it."""

    sides: tuple[int, int]
    cache: Any


class PretrainedVae(nn.Module):
    """A VAE of diffusers that codes clips (B, 3, T, H, W) in [-1, 1] as latents (B, C, T, H, W) normalised by channel.

    Args:
        codec: of diffusers.

    Attributes:
        normalised: whether the checkpoint says how its latents are normalised; if not, they are as they come.
    """

    latents_mean: Tensor
    latents_std: Tensor
    pace: tuple[int, int] = WHOLE

    def __init__(self, codec: Any) -> None:
        super().__init__()
        self.codec = codec
        self.size = CodecSize(type(codec).__name__, _plain(codec.config))
        self.latent_channels, self.frames, self.side = self._facts()
        self.period = self.frames
        self.reach = min(MOST, max(FEWEST, MARGIN_PIXELS // self.side))
        mean, std = _normalisation(codec, self.latent_channels)
        self.normalised = bool((mean != 0).any() or (std != 1).any())
        self.register_buffer("latents_mean", mean)
        self.register_buffer("latents_std", std)

    @property
    def streams(self) -> bool:
        """Whether a clip may be taken part by part."""
        return self.pace != WHOLE

    @property
    def last_layer(self) -> Tensor:
        """The decoder's last weights, at which a training weighs its losses."""
        last = self.codec.decoder.conv_out
        weight: Tensor = getattr(last, "conv", last).weight
        return weight

    def to(self, *args: Any, **kwargs: Any) -> "PretrainedVae":
        """Moves it; its convolutions of pictures and of clips have no memory format in common, so that stays as it is."""
        kwargs.pop("memory_format", None)
        return super().to(*args, **kwargs) if args or kwargs else self

    def forward(self, clip: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Passes clips through and back, for training; as our own VAE does."""
        mean, log_variance = self.moments(clip)
        sampled = mean if noise is None else mean + noise * (0.5 * log_variance).exp()
        return self._frames_of(sampled, None)[0], mean, log_variance

    def encode(self, clip: Tensor) -> Tensor:
        """Encodes (B, 3, T, H, W) as the mean of its latents (B, C, T, H, W), normalised by channel."""
        return self._normalised(self.moments(clip)[0])

    def decode(self, latents: Tensor) -> Tensor:
        """Decodes latents (B, C, T, H, W) to (B, 3, 1 + (T - 1) * rt, H * rs, W * rs), near [-1, 1]."""
        return self._frames_of(self._raw(latents), None)[0]

    def moments(self, clip: Tensor) -> tuple[Tensor, Tensor]:
        """Answers mean and log variance of a clip's latents, each (B, C, T, H, W), before their normalisation.

        Raises:
            ValueError: the clip's frames or sides do not fit; the nearest that do are named.
        """
        self.check(clip)
        moments, _ = self._moments(clip, None)
        mean, log_variance = moments.chunk(2, dim=1)
        return mean, log_variance.clamp(-30.0, 20.0)

    def encode_chunk(self, frames: Tensor, state: CodecState | None = None) -> tuple[Tensor, CodecState]:
        """Encodes the next frames of a clip, as many as `pace` says or a multiple of those; together they are those of `encode`.

        Raises:
            ValueError: the sides do not fit or changed, or so many frames cannot be taken now.
        """
        check_sides(frames, self.side)
        self._check_chunk(frames, "frames", *frames_of(self, self.pace), state)
        moments, cache = self._moments(frames, state)
        return self._normalised(moments.chunk(2, dim=1)[0]), CodecState(_sides(frames), cache)

    def decode_chunk(self, latents: Tensor, state: CodecState | None = None) -> tuple[Tensor, CodecState]:
        """Decodes the next latents of a clip, as many as `pace` says or a multiple of those; together they are those of `decode`.

        Raises:
            ValueError: the sides changed, or so many latents cannot be taken now.
        """
        self._check_chunk(latents, "latents", *self.pace, state)
        frames, cache = self._frames_of(self._raw(latents), state)
        return frames, CodecState(_sides(latents), cache)

    def check(self, clip: Tensor) -> None:
        """Looks whether a clip (B, 3, T, H, W) can be encoded as a whole.

        Raises:
            ValueError: its frames or sides do not fit; the nearest that do are named.
        """
        check_sides(clip, self.side)
        check_length(clip.shape[2], self.period)

    def latents_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Answers the shape (C, T, H, W) of a clip's latents."""
        return self.latent_channels, 1 + (num_frames - 1) // self.frames, height // self.side, width // self.side

    @torch.no_grad()
    def set_normalisation(self, mean: Tensor, std: Tensor) -> None:
        """Sets what `encode` takes from each channel and divides it by, both (C,)."""
        self.latents_mean.copy_(mean)
        self.latents_std.copy_(std.clamp(min=1e-6))
        self.normalised = True

    def _facts(self) -> tuple[int, int, int]:
        """Answers the channels of latents, and the frames and pixels of a side that one holds."""
        config = self.codec.config
        return config.latent_channels, int(self.codec.temporal_compression_ratio), int(self.codec.spatial_compression_ratio)

    def _encode(self, frames: Tensor, cache: Any) -> tuple[Tensor, Any]:
        """Answers both moments (B, 2 * C, T, H, W) of a part of a clip, and what the next part looks back at."""
        return self.codec.encode(frames).latent_dist.parameters, None

    def _decode(self, latents: Tensor, cache: Any) -> tuple[Tensor, Any]:
        """Answers the frames of a part of the latents, and what the next part looks back at."""
        return self.codec.decode(latents).sample, None

    def _moments(self, clip: Tensor, state: CodecState | None) -> tuple[Tensor, Any]:
        parts, cache = [], state.cache if state else None
        first, later = frames_of(self, self.pace)
        for frames in paced([clip.to(self._dtype)], later if state else first, later):
            moments, cache = self._encode(frames, cache)
            parts.append(moments.float())
        return torch.cat(parts, dim=2), cache

    def _frames_of(self, latents: Tensor, state: CodecState | None) -> tuple[Tensor, Any]:
        parts, cache = [], state.cache if state else None
        first, later = self.pace
        for part in paced([latents.to(self._dtype)], later if state else first, later):
            frames, cache = self._decode(part, cache)
            parts.append(frames.float())
        return torch.cat(parts, dim=2), cache

    def _check_chunk(self, chunk: Tensor, what: str, first: int, later: int, state: CodecState | None) -> None:
        count, name = chunk.shape[2], type(self.codec).__name__
        if state is None:
            if count != 1 and self.streams and (count < first or (count - first) % later):
                raise ValueError(f"`{name}` begins a clip with 1 or {first} {what} and multiples of {later} more, not with {count}")
            return
        if not self.streams:
            raise ValueError(f"`{name}` takes a clip as a whole, not part by part")
        if _sides(chunk) != state.sides:
            raise ValueError(f"a chunk of {_said(_sides(chunk))} does not follow one of {_said(state.sides)}; a clip keeps its size")
        if not count or count % later:
            raise ValueError(f"`{name}` goes on with a multiple of {later} {what}, not with {count}")

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.codec.parameters()).dtype

    def _normalised(self, mean: Tensor) -> Tensor:
        return (mean - self.latents_mean.view(1, -1, 1, 1, 1)) / self.latents_std.view(1, -1, 1, 1, 1)

    def _raw(self, latents: Tensor) -> Tensor:
        return latents * self.latents_std.view(1, -1, 1, 1, 1) + self.latents_mean.view(1, -1, 1, 1, 1)


class WanVae(PretrainedVae):
    """Wan's: causal, a latent at a time; its convolutions' pasts are a list, in the order they are come to."""

    pace = (1, 1)

    def __init__(self, codec: Any) -> None:
        super().__init__(codec)
        kind = _wan_module().WanCausalConv3d
        self._pasts = [sum(isinstance(part, kind) for part in net.modules()) for net in (codec.encoder, codec.decoder)]

    def _facts(self) -> tuple[int, int, int]:
        config = self.codec.config
        halvings = len(config.dim_mult) - 1
        return config.z_dim, 2 ** sum(config.temperal_downsample[:halvings]), 2**halvings * (config.patch_size or 1)

    def _encode(self, frames: Tensor, cache: Any) -> tuple[Tensor, Any]:
        pasts = list(cache) if cache else [None] * self._pasts[0]
        if self.codec.config.patch_size:
            frames = _wan_module().patchify(frames, self.codec.config.patch_size)
        seen = self.codec.encoder(frames, feat_cache=pasts, feat_idx=[0])
        return self.codec.quant_conv(seen), tuple(pasts)

    def _decode(self, latents: Tensor, cache: Any) -> tuple[Tensor, Any]:
        pasts = list(cache) if cache else [None] * self._pasts[1]
        entered = self.codec.post_quant_conv(latents)
        frames = self.codec.decoder(entered, feat_cache=pasts, feat_idx=[0], first_chunk=not cache)
        if self.codec.config.patch_size:
            frames = _wan_module().unpatchify(frames, self.codec.config.patch_size)
        return frames, tuple(pasts)


class CogVideoXVae(PretrainedVae):
    """CogVideoX's: its convolutions look back, but its norms look at a whole part: three latents at first, then two each, as it learned."""

    pace = (3, 2)

    def __init__(self, codec: Any) -> None:
        super().__init__(codec)
        self.period = 2 * self.frames

    def _facts(self) -> tuple[int, int, int]:
        config = self.codec.config
        return config.latent_channels, int(config.temporal_compression_ratio), 2 ** (len(config.block_out_channels) - 1)

    def _encode(self, frames: Tensor, cache: Any) -> tuple[Tensor, Any]:
        seen, cache = self.codec.encoder(frames, conv_cache=cache)
        return (seen if self.codec.quant_conv is None else self.codec.quant_conv(seen)), cache

    def _decode(self, latents: Tensor, cache: Any) -> tuple[Tensor, Any]:
        entered = latents if self.codec.post_quant_conv is None else self.codec.post_quant_conv(latents)
        frames, cache = self.codec.decoder(entered, conv_cache=cache)
        return frames, cache


class LtxVae(PretrainedVae):
    """LTX-Video's: its decoder looks ahead, and may be told how noisy latents are, which these are not, and may add noise of its own."""

    def _decode(self, latents: Tensor, cache: Any) -> tuple[Tensor, Any]:
        config = self.codec.config
        noisy = latents.new_zeros(len(latents)) if config.timestep_conditioning else None
        with _same_noise(latents, any(config.decoder_inject_noise)):
            return self.codec.decode(latents, noisy).sample, None


class HunyuanVae(PretrainedVae):
    """HunyuanVideo's: attention and norms over a whole clip; a long one is cut into windows of time and blended, by diffusers."""


FAMILIES: dict[str, type[PretrainedVae]] = {
    "AutoencoderKLWan": WanVae,
    "AutoencoderKLCogVideoX": CogVideoXVae,
    "AutoencoderKLLTXVideo": LtxVae,
    "AutoencoderKLHunyuanVideo": HunyuanVae,
}


def _wan_module() -> Any:
    from diffusers.models.autoencoders import autoencoder_kl_wan

    return autoencoder_kl_wan


def _normalisation(codec: Any, channels: int) -> tuple[Tensor, Tensor]:
    """Answers what a checkpoint takes from its latents and divides them by, both (C,): z -> (z - mean) * scaling_factor / std."""
    config = codec.config
    given = {name: config.get(name) for name in ("latents_mean", "latents_std")}
    given |= dict(codec.named_buffers(recurse=False))  # LTX-Video has them beside the weights
    shift, scale = config.get("shift_factor") or 0.0, config.get("scaling_factor") or 1.0
    mean = torch.full((channels,), float(shift)) if given["latents_mean"] is None else torch.as_tensor(given["latents_mean"]).float()
    std = torch.ones(channels) if given["latents_std"] is None else torch.as_tensor(given["latents_std"]).float()
    for name, values in (("latents_mean", mean), ("latents_std", std)):
        if values.shape != (channels,):
            raise PretrainedVaeError(f"`{name}` of a {type(codec).__name__} has {values.numel()} values for {channels} latent channels")
    return mean.clone(), std / float(scale)


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Answers a config without what diffusers notes in it, as JSON has it."""
    return dict(json.loads(json.dumps({name: value for name, value in config.items() if not name.startswith("_")})))


@contextmanager
def _same_noise(like: Tensor, drawn: bool) -> Iterator[None]:
    """Lets what is drawn inside be the same each time, and leaves the generator as it was."""
    if not drawn:
        yield
        return
    with torch.random.fork_rng([like.device] if like.is_cuda else []):
        torch.manual_seed(NOISE_SEED)
        yield


def _sides(x: Tensor) -> tuple[int, int]:
    return x.shape[-2], x.shape[-1]


def _said(sides: tuple[int, int]) -> str:
    return "x".join(map(str, sides))
