"""A text encoder's token embeddings as the diffusion transformer is told them, and which of them are text."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from components.models.attention import Attention, FeedForward, Heads
from components.models.linear import Linear
from components.models.sizes import TEXT_HEAD_SIZE


class TextRefiner(nn.Module):
    """Brings a text encoder's token embeddings to the model's own terms: every token sees the whole text."""

    def __init__(self, text_width: int, text_size: int, depth: int) -> None:
        super().__init__()
        self.norm_in = nn.LayerNorm(text_width)
        self.into = Linear(text_width, text_size)
        self.blocks = nn.ModuleList(RefinerBlock(text_size) for _ in range(depth))
        self.norm_out = nn.LayerNorm(text_size)

    def forward(self, text_embeds: Tensor, text_mask: Tensor | None) -> Tensor:
        """(B, S, text_width) -> (B, S, text_size)."""
        x = self.into(self.norm_in(text_embeds))
        for block in self.blocks:
            x = block(x, text_mask)
        return self.norm_out(x)


@dataclass
class KeptText:
    """What the transformer made of texts at the first step of sampling, for the steps that are told the same texts.

    Attributes:
        meant: (clips, 1, D), what their means say to all blocks.
        of_blocks: what each block attends to: keys and values, or, where those are not worth their memory, the text (clips, S, C).
    """

    meant: Tensor | None = None
    of_blocks: list[Tensor | Heads] = field(default_factory=list)


class RefinerBlock(nn.Module):
    """A plain transformer block whose attention sees a text's own tokens only."""

    def __init__(self, text_size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(text_size)
        self.attention = Attention(text_size, max(1, text_size // TEXT_HEAD_SIZE))
        self.feed_forward_norm = nn.LayerNorm(text_size)
        self.feed_forward = FeedForward(text_size, 4 * text_size)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = x + self.attention(self.norm(x), mask=mask)
        return x + self.feed_forward(self.feed_forward_norm(x))


def mask_of_padding(mask: Tensor, device: str | torch.device) -> Tensor | None:
    """Answers a mask (B, S) of the CPU on a device, or None where all of it is text: a GPU attends to that in three quarters the time."""
    return None if bool(mask.all()) else mask.to(device, non_blocking=True)


def masked_mean(x: Tensor, mask: Tensor | None) -> Tensor:
    """Answers the mean of the tokens (B, S, C) that a mask (B, S) keeps, (B, C)."""
    if mask is None:
        return x.mean(dim=1)
    weights = mask.to(x.dtype)[..., None]
    return (x * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1.0)
