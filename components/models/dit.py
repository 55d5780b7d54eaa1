"""The diffusion transformer: spacetime patches of latents in, velocity out, told a timestep a token and the prompt.

Source: Peebles and Xie, DiT (arXiv 2212.09748); Wan (arXiv 2503.20314), section 4.2, for the shared time layers with a bias a
block; Li and He, Just image Transformers (arXiv 2511.13720), for the network that names the clip where velocity is asked for.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from components.models.attention import Attention, FeedForward
from components.models.sizes import DitSize
from components.models.weights import load_json, load_tensors

TIME_FREQUENCIES = 128
TEXT_HEAD_SIZE = 32
MIN_T = 0.05  # below it the distance to the clip is divided by this instead of t
NUM_MODULATIONS = 6  # shift, scale and gate, of attention and of the feed-forward


class DiT(nn.Module):
    """A transformer over patches of latents of any number of frames, height and width; one frame is a clip of its own.

    The network says which clip it sees in the noise; the velocity that it answers leads there. A clip has far fewer degrees of
    freedom than noise has, so this needs a narrower network than to carry the noise through.

    Args:
        size: width, depth and patches.
        latent_channels: of the latents.
        text_width: of the text encoder's embeddings.
    """

    def __init__(self, size: DitSize, latent_channels: int, text_width: int) -> None:
        super().__init__()
        self.size, self.latent_channels, self.text_width = size, latent_channels, text_width
        self.recompute = False  # what is inside blocks on the way back in place of keeping it: a third more work, far less memory
        patch = math.prod(size.patch_size) * latent_channels
        self.patch_in = nn.Linear(patch, size.hidden_size)
        self.text_refiner = TextRefiner(text_width, size.text_size, size.refiner_depth)
        self.time_in = nn.Sequential(
            nn.Linear(2 * TIME_FREQUENCIES, size.hidden_size), nn.SiLU(), nn.Linear(size.hidden_size, size.hidden_size)
        )
        self.text_in = nn.Linear(size.text_size, size.hidden_size)
        self.modulation = nn.Linear(size.hidden_size, NUM_MODULATIONS * size.hidden_size)
        self.blocks = nn.ModuleList(Block(size) for _ in range(size.depth))
        self.modulation_out = nn.Linear(size.hidden_size, 2 * size.hidden_size)
        self.patch_out = nn.Linear(size.hidden_size, patch)
        for layer in (self.modulation, self.modulation_out, self.patch_out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, noisy: Tensor, t: Tensor, text_embeds: Tensor, text_mask: Tensor) -> Tensor:
        """Answers the velocity, noise - latents.

        Args:
            noisy: (B, C, T, H, W), latents on their way to noise.
            t: (B,), or (B, L) with a timestep for each token, in the order of `patchify`.
            text_embeds: (B, S, text_width).
            text_mask: (B, S), True on the text's own tokens.

        Returns:
            (B, C, T, H, W).
        """
        batch = len(noisy)
        padded = pad_to_patches(noisy, self.size.patch_size)
        grid = token_grid(padded.shape[2:], self.size.patch_size)
        x = self.patch_in(patchify(padded, self.size.patch_size)) + positions(grid, self.size.hidden_size, noisy.device)  # (B, L, D)
        text = self.text_refiner(text_embeds, text_mask)  # (B, S, text_size)
        told = self.text_in(masked_mean(text, text_mask))[:, None]  # (B, 1, D)
        t_tokens = t.view(batch, -1)  # (B, 1) or (B, L)
        condition = F.silu(self.time_in(frequencies(1000.0 * t_tokens, TIME_FREQUENCIES)) + told)
        modulation = self.modulation(condition).unflatten(-1, (NUM_MODULATIONS, -1))  # (B, 1 or L, 6, D)
        for block in self.blocks:
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(block, x, modulation, text, text_mask, use_reentrant=False)
            else:
                x = block(x, modulation, text, text_mask)
        shift, scale = self.modulation_out(condition).chunk(2, dim=-1)
        patches = self.patch_out(modulate(x, shift, scale))  # (B, L, C * pt * ph * pw)
        clip = unpatchify(patches, grid, self.size.patch_size)
        away = unpatchify(t_tokens.clamp(min=MIN_T)[..., None].expand_as(patches), grid, self.size.patch_size)
        frames, height, width = noisy.shape[2:]
        return ((padded - clip) / away)[:, :, :frames, :height, :width]


class Block(nn.Module):
    """Self-attention over all of space and time, a look at the text, and a feed-forward, each added to what was there."""

    def __init__(self, size: DitSize) -> None:
        super().__init__()
        self.attention = Attention(size.hidden_size, size.num_heads)
        self.text_norm = nn.LayerNorm(size.hidden_size)
        self.text_attention = Attention(size.hidden_size, size.num_heads, size.text_size)
        self.feed_forward = FeedForward(size.hidden_size, int(size.mlp_ratio * size.hidden_size))
        bias = torch.zeros(NUM_MODULATIONS, size.hidden_size)
        bias[2] = bias[5] = 1.0  # the gates start open: the projections behind them start small
        self.modulation_bias = nn.Parameter(bias)
        for layer in (self.attention.out, self.text_attention.out, self.feed_forward.out):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, modulation: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
        """x (B, L, D), modulation (B, 1 or L, 6, D), text (B, S, C), text_mask (B, S) -> (B, L, D)."""
        shift, scale, gate, ff_shift, ff_scale, ff_gate = (modulation + self.modulation_bias).unbind(dim=-2)
        x = torch.addcmul(x, gate, self.attention(modulate(x, shift, scale)))
        x = x + self.text_attention(self.text_norm(x), text, text_mask)
        return torch.addcmul(x, ff_gate, self.feed_forward(modulate(x, ff_shift, ff_scale)))


class TextRefiner(nn.Module):
    """Brings a text encoder's token embeddings to the model's own terms: every token sees the whole text."""

    def __init__(self, text_width: int, text_size: int, depth: int) -> None:
        super().__init__()
        self.norm_in = nn.LayerNorm(text_width)
        self.into = nn.Linear(text_width, text_size)
        self.blocks = nn.ModuleList(RefinerBlock(text_size) for _ in range(depth))
        self.norm_out = nn.LayerNorm(text_size)

    def forward(self, text_embeds: Tensor, text_mask: Tensor) -> Tensor:
        """(B, S, text_width) -> (B, S, text_size)."""
        x = self.into(self.norm_in(text_embeds))
        for block in self.blocks:
            x = block(x, text_mask)
        return self.norm_out(x)


class RefinerBlock(nn.Module):
    """A plain transformer block whose attention sees a text's own tokens only."""

    def __init__(self, text_size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(text_size)
        self.attention = Attention(text_size, max(1, text_size // TEXT_HEAD_SIZE))
        self.feed_forward_norm = nn.LayerNorm(text_size)
        self.feed_forward = FeedForward(text_size, 4 * text_size)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.attention(self.norm(x), mask=mask)
        return x + self.feed_forward(self.feed_forward_norm(x))


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Normalises tokens (B, L, D), then scales by 1 + scale and shifts, both (B, 1 or L, D)."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:]), 1.0 + scale)


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Answers the mean of the tokens (B, S, C) that a mask (B, S) keeps, (B, C)."""
    weights = mask.to(x.dtype)[..., None]
    return (x * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1.0)


def frequencies(places: Tensor, count: int, longest: float = 10000.0) -> Tensor:
    """Answers sines and cosines of places at `count` frequencies from 1 down to 1 / longest: (...) -> (..., 2 * count)."""
    rates = torch.exp(-math.log(longest) * torch.arange(count, device=places.device, dtype=torch.float32) / count)
    angles = places.float()[..., None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def positions(grid: tuple[int, int, int], hidden_size: int, device: torch.device | str = "cpu") -> Tensor:
    """Answers a sine-cosine code of each token's frame, row and column, computed for whatever grid there is: (1, L, D)."""
    count = hidden_size // 6  # frequencies an axis; what does not divide stays zero
    axes = [frequencies(torch.arange(length, device=device), count, longest=100.0) for length in grid]  # (length, 2 * count) each
    frames, rows, columns = grid
    code = torch.cat(
        [
            axes[0][:, None, None].expand(frames, rows, columns, -1),
            axes[1][None, :, None].expand(frames, rows, columns, -1),
            axes[2][None, None].expand(frames, rows, columns, -1),
        ],
        dim=-1,
    )
    return F.pad(code, (0, hidden_size - code.shape[-1])).flatten(0, 2)[None]


def token_grid(lengths: torch.Size | tuple[int, ...], patch_size: tuple[int, int, int]) -> tuple[int, int, int]:
    """Answers how many tokens latents of (frames, height, width) make along each axis, rounded up."""
    frames, rows, columns = (math.ceil(length / patch) for length, patch in zip(lengths, patch_size, strict=True))
    return frames, rows, columns


def pad_to_patches(latents: Tensor, patch_size: tuple[int, int, int]) -> Tensor:
    """Adds zeros behind each axis of (B, C, T, H, W) up to whole patches."""
    pads = [-length % patch for length, patch in zip(latents.shape[2:], patch_size, strict=True)]
    return F.pad(latents, (0, pads[2], 0, pads[1], 0, pads[0])) if any(pads) else latents


def patchify(latents: Tensor, patch_size: tuple[int, int, int]) -> Tensor:
    """Cuts latents into tokens: b c (t pt) (h ph) (w pw) -> b (t h w) (c pt ph pw)."""
    (pt, ph, pw), (batch, channels, frames, height, width) = patch_size, latents.shape
    split = latents.view(batch, channels, frames // pt, pt, height // ph, ph, width // pw, pw)
    return split.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4).flatten(1, 3)


def unpatchify(tokens: Tensor, grid: tuple[int, int, int], patch_size: tuple[int, int, int]) -> Tensor:
    """Puts tokens together again: b (t h w) (c pt ph pw) -> b c (t pt) (h ph) (w pw)."""
    (pt, ph, pw), (frames, rows, columns) = patch_size, grid
    split = tokens.view(len(tokens), frames, rows, columns, -1, pt, ph, pw).permute(0, 4, 1, 5, 2, 6, 3, 7)
    return split.reshape(len(tokens), -1, frames * pt, rows * ph, columns * pw)


def load_dit(folder: Path, device: str = "cpu") -> tuple[DiT, dict[str, Any]]:
    """Loads a diffusion transformer for inference and what was noted beside it.

    Raises:
        DamagedFolderError: a file is missing or is not the one that was written.
    """
    notes = load_json(Path(folder), "dit")
    model = DiT(dit_size(notes["size"]), notes["latent_channels"], notes["text_width"])
    model.load_state_dict(load_tensors(Path(folder), "dit", device=device))
    return model.to(device).eval().requires_grad_(False), notes


def dit_size(fields: Mapping[str, Any]) -> DitSize:
    """Answers a size from its JSON."""
    frames, rows, columns = fields["patch_size"]
    return DitSize(**{**fields, "patch_size": (frames, rows, columns)})
