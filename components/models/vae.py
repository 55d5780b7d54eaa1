"""The causal video VAE: (1 + T, H, W) pixels to (1 + T / rt, H / rs, W / rs) latents, and back.

Both ways are a linear map of patches plus what a causal convolutional net adds to it on the grid of latents. The linear maps can
start as the principal components of patches, which is where training begins; the nets start as nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from components.models.causal_conv import CausalConv3d
from components.models.layers import CausalNet, channels_first, channels_last, check_length, check_sides, from_patches, to_patches, zero_
from components.models.pixels import to_pixels
from components.models.sizes import VaeSize
from components.models.weights import load_json, load_tensors, save_folder

KERNEL = (2, 3, 3)
FIRST_LOG_VARIANCE = -6.0  # of a latent's noise, whose mean square starts near one
MAX_FITTED_PATCHES = 2**15


@dataclass(frozen=True)
class EncoderState:
    """What the encoder keeps between chunks of a clip.

    Attributes:
        rest: frames that fill no patch yet, (B, 3, fewer than rt, H, W).
        pasts: what each causal convolution looks back at.
    """

    rest: Tensor
    pasts: tuple[Tensor, ...]


@dataclass(frozen=True)
class DecoderState:
    """What the decoder keeps between chunks of a clip: what each causal convolution looks back at."""

    pasts: tuple[Tensor, ...]


class VideoVae(nn.Module):
    """A variational autoencoder of clips (B, 3, T, H, W) in [-1, 1], RGB; one frame alone is a clip.

    The first frame has patches of its own, one frame deep; later frames share theirs in groups of `temporal_compression_ratio`.
    `encode` and `decode` speak latents (B, C, T, H, W) that are normalised by channel.
    """

    latents_mean: Tensor
    latents_std: Tensor
    pace = None  # chunks of any number of frames

    def __init__(self, size: VaeSize) -> None:
        super().__init__()
        self.size = size
        self.frames, self.side = size.temporal_compression_ratio, size.spatial_compression_ratio  # of a patch
        self.period = self.frames
        first, later, channels = 3 * self.side**2, 3 * self.frames * self.side**2, size.latent_channels
        self.first_in, self.first_out = nn.Linear(first, channels), nn.Linear(channels, first)
        self.later_in, self.later_out = nn.Linear(later, channels), nn.Linear(channels, later)
        self.reach = max(size.encoder_blocks, 1 + size.num_blocks) * (KERNEL[-1] // 2)  # places to each side that one place depends on
        self.encoder_in = nn.Linear(later, size.encoder_channels)
        self.encoder = CausalNet(size.encoder_channels, size.encoder_blocks, KERNEL)
        self.encoder_out = nn.Linear(size.encoder_channels, 2 * channels)
        self.decoder_in = CausalConv3d(channels, size.hidden_channels, KERNEL)
        self.decoder = CausalNet(size.hidden_channels, size.num_blocks, KERNEL)
        self.decoder_out = nn.Linear(size.hidden_channels, later)
        zero_(self.encoder_out)
        zero_(self.decoder_out)
        self.register_buffer("latents_mean", torch.zeros(channels))
        self.register_buffer("latents_std", torch.ones(channels))

    def forward(self, clip: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Passes clips through and back, for training.

        Args:
            clip: (B, 3, T, H, W).
            noise: standard normal, (B, C, T, H, W) of the latents; none decodes the mean.

        Returns:
            the reconstruction (B, 3, T, H, W), and mean and log variance of the latents before their normalisation.
        """
        mean, log_variance = self.moments(clip)
        sampled = mean if noise is None else mean + noise * (0.5 * log_variance).exp()
        return self._frames_of(sampled, None)[0], mean, log_variance

    @property
    def last_layer(self) -> Tensor:
        """The weights that end the decoder's net, by whose gradients losses are compared."""
        return self.decoder_out.weight

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
        mean, log_variance, _ = self._moments(self._with_copies(clip), None)
        return mean, log_variance

    def encode_chunk(self, frames: Tensor, state: EncoderState | None = None) -> tuple[Tensor, EncoderState]:
        """Encodes the next frames of a clip; whatever the chunks, together their latents are those of `encode`.

        Args:
            frames: (B, 3, T, H, W) in [-1, 1], any number of them.
            state: what the call before answered; None begins the clip.

        Returns:
            the latents that are complete by now (B, C, t, H, W), t perhaps 0, and the state for the next call.

        Raises:
            ValueError: the sides do not fit, or are not those of the chunk before.
        """
        check_sides(frames, self.side)
        if state is not None and state.rest.shape[-2:] != frames.shape[-2:]:
            raise ValueError(f"a chunk of {_sides(frames)} does not follow one of {_sides(state.rest)}; a clip keeps its size")
        if state is None and not frames.shape[2]:
            raise ValueError("the first chunk of a clip has at least one frame, not 0")
        joined = self._with_copies(frames) if state is None else torch.cat([state.rest, frames], dim=2)
        whole = joined.shape[2] // self.frames * self.frames
        rest = joined[:, :, whole:].clone()
        if state is not None and not whole:
            nothing = frames.new_zeros(len(frames), *self.latents_shape(1, *frames.shape[-2:]))[:, :, :0]
            return nothing, EncoderState(rest, state.pasts)
        mean, _, pasts = self._moments(joined[:, :, :whole], None if state is None else state.pasts)
        return self._normalised(mean), EncoderState(rest, _copies(pasts))

    def decode_chunk(self, latents: Tensor, state: DecoderState | None = None) -> tuple[Tensor, DecoderState]:
        """Decodes the next latents of a clip; whatever the chunks, together their frames are those of `decode`.

        Args:
            latents: (B, C, T, H, W), at least one frame of them.
            state: what the call before answered; None begins the clip.

        Returns:
            (B, 3, T * rt, H * rs, W * rs), of the first chunk rt - 1 frames fewer, and the state for the next call.
        """
        frames, pasts = self._frames_of(self._raw(latents), None if state is None else state.pasts)
        return frames, DecoderState(_copies(pasts))

    def _moments(self, clip: Tensor, pasts: Sequence[Tensor] | None) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Answers moments of whole patches (B, 3, k * rt, H, W); without `pasts` the first one is the first frame behind its copies."""
        patches = to_patches(clip, self.frames, self.side)
        if pasts is None:
            first = self.first_in(to_patches(clip[:, :, self.frames - 1 : self.frames], 1, self.side))
            linear = torch.cat([first, self.later_in(patches[:, 1:])], dim=1)  # (B, T, H, W, C)
        else:
            linear = self.later_in(patches)
        seen, pasts = self.encoder.stream(channels_first(self.encoder_in(patches)), pasts)
        mean, log_variance = self.encoder_out(channels_last(seen)).chunk(2, dim=-1)
        return channels_first(linear + mean), channels_first(log_variance + FIRST_LOG_VARIANCE).clamp(-30.0, 20.0), pasts

    def _frames_of(self, latents: Tensor, pasts: Sequence[Tensor] | None) -> tuple[Tensor, list[Tensor]]:
        """Decodes latents that are not normalised; without `pasts` the first of them is of the first frame alone."""
        entered, past = self.decoder_in.stream(latents, None if pasts is None else pasts[0])
        seen, later_pasts = self.decoder.stream(entered, None if pasts is None else pasts[1:])
        added = from_patches(self.decoder_out(channels_last(seen)), self.frames, self.side)
        places = channels_last(latents)
        if pasts is None:
            first = from_patches(self.first_out(places[:, :1]), 1, self.side)
            later = from_patches(self.later_out(places[:, 1:]), self.frames, self.side)
            linear, added = torch.cat([first, later], dim=2), added[:, :, self.frames - 1 :]
        else:
            linear = from_patches(self.later_out(places), self.frames, self.side)
        return linear + added, [past, *later_pasts]

    def _with_copies(self, clip: Tensor) -> Tensor:
        """Puts copies of the first frame before a clip, until it ends its first patch."""
        return torch.cat([clip[:, :, :1].expand(-1, -1, self.frames - 1, -1, -1), clip], dim=2)

    def _normalised(self, mean: Tensor) -> Tensor:
        return (mean - _by_channel(self.latents_mean)) / _by_channel(self.latents_std)

    def _raw(self, latents: Tensor) -> Tensor:
        return latents * _by_channel(self.latents_std) + _by_channel(self.latents_mean)

    def check(self, clip: Tensor) -> None:
        """Looks whether a clip (B, 3, T, H, W) can be encoded as a whole.

        Raises:
            ValueError: its frames or sides do not fit; the nearest that do are named.
        """
        check_sides(clip, self.side)
        check_length(clip.shape[2], self.period)

    def latents_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Answers the shape (C, T, H, W) of a clip's latents."""
        return (self.size.latent_channels, 1 + (num_frames - 1) // self.frames, height // self.side, width // self.side)

    @torch.no_grad()
    def start_linear(self, clips: Tensor) -> None:
        """Sets the linear maps to the principal components of patches, the best that a linear codec of this shape can be.

        Latents are scaled by one number, and the first frame's are turned so that a still clip's latents change little over time.

        Args:
            clips: (B, 3, T, H, W) in [-1, 1], or uint8, brought there clip by clip; of many patches a sample is taken, always the same one.
        """
        channels, frames = self.size.latent_channels, self.frames
        first = _some_patches(clips[:, :, :1], 1, self.side)  # (N, 3 * rs * rs)
        still = _some_patches(clips[:, :, :1].expand(-1, -1, frames, -1, -1), frames, self.side)
        later = _some_patches(clips[:, :, 1:], frames, self.side) if clips.shape[2] > 1 else still
        first_mean, first_axes, _ = principal_axes(first, channels)
        later_mean, later_axes, variances = principal_axes(later, channels)
        scale = variances.mean().sqrt().clamp(min=1e-6)
        alone = frames**0.5 * (first - first_mean) @ first_axes  # (N, C), as long as the same frame held still
        left, _, right = torch.linalg.svd(alone.T @ ((still - later_mean) @ later_axes))
        first_axes = first_axes @ (left @ right)  # Procrustes
        for into, out, mean, axes, unit in (
            (self.first_in, self.first_out, first_mean, first_axes, scale / frames**0.5),
            (self.later_in, self.later_out, later_mean, later_axes, scale),
        ):
            into.weight.copy_((axes / unit).T)
            into.bias.copy_(-(mean @ axes) / unit)
            out.weight.copy_(axes * unit)
            out.bias.copy_(mean)

    @torch.no_grad()
    def set_normalisation(self, mean: Tensor, std: Tensor) -> None:
        """Sets what `encode` takes from each channel and divides it by, both (C,)."""
        self.latents_mean.copy_(mean)
        self.latents_std.copy_(std.clamp(min=1e-6))


def principal_axes(rows: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Answers mean (D,), the first `count` principal axes (D, count) of rows (N, D), and the variances along them."""
    mean = rows.mean(dim=0)
    centred = rows - mean
    variances, axes = torch.linalg.eigh((centred.T @ centred).double() / len(rows))  # rising
    axes, variances = axes.flip(1)[:, :count], variances.flip(0)[:count]
    signs = axes.gather(0, axes.abs().argmax(dim=0, keepdim=True)).sign()
    return mean, (axes * signs).to(rows.dtype), variances.to(rows.dtype)


def save_vae(folder: Path, vae: VideoVae, meta: Mapping[str, Any]) -> str:
    """Writes `vae.safetensors` and `vae.json` and answers the folder's digest.

    Args:
        meta: JSON values to keep beside the size: clip settings, figures.
    """
    size = vars(vae.size)
    statistics = {"latents_mean": vae.latents_mean.tolist(), "latents_std": vae.latents_std.tolist()}
    return save_folder(folder, {"vae": vae.state_dict()}, {"vae": {"size": size, **statistics, **meta}})


def load_vae(folder: str | Path, device: str = "cpu") -> VideoVae:
    """Reads a VAE to encode and decode with."""
    vae = VideoVae(VaeSize(**load_json(Path(folder), "vae")["size"]))
    vae.load_state_dict(load_tensors(Path(folder), "vae"))
    return vae.to(device).to(memory_format=torch.channels_last_3d).eval().requires_grad_(False)


def _copies(pasts: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Copies what a chunk leaves, so that the rest of the chunk is freed."""
    return tuple(past.clone() for past in pasts)


def _sides(frames: Tensor) -> str:
    return "x".join(str(side) for side in frames.shape[-2:])


def _some_patches(clips: Tensor, frames: int, side: int) -> Tensor:
    """Answers a sample of the patches of clips (B, 3, T, H, W) as rows (N, D), from all over them; one clip is cut at a time."""
    places = clips[0, 0].numel() // (frames * side * side)  # of a clip
    order = torch.randperm(len(clips) * places, generator=torch.Generator().manual_seed(0))
    chosen = torch.zeros(len(order), dtype=torch.bool)
    chosen[order[:MAX_FITTED_PATCHES]] = True
    cut = zip(clips.split(1), chosen.view(len(clips), places), strict=True)
    return torch.cat([to_patches(_in_floats(clip), frames, side).flatten(0, 3)[mine.to(clips.device)] for clip, mine in cut])


def _in_floats(clip: Tensor) -> Tensor:
    return to_pixels(channels_last(clip)) if clip.dtype == torch.uint8 else clip


def _by_channel(values: Tensor) -> Tensor:
    return values.view(1, -1, 1, 1, 1)
