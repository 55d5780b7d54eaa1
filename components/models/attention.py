"""Multi-head attention with normalised queries and keys, over a sequence itself or towards another one."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.models.head_norm import norm_heads
from components.models.linear import Linear, in_one_product, linear_of_both
from components.models.packing import Run, join, parts_of
from components.models.rotary import rotate
from components.models.sequence_parallel import Share

Heads = tuple[Tensor, Tensor]  # keys and values, each (..., heads, D / heads)

FEW_KEYS = 32  # so many or fewer are attended to without blocks on a CPU


class Attention(nn.Module):
    """Attention whose queries and keys are RMS-normalised by head, so that their product stays bounded.

    Args:
        hidden_size: of the queries and of the output.
        context_size: of what is attended to; None for self-attention.

    Source: Henry et al., Query-Key Normalization (arXiv 2010.04245); Dehghani et al., ViT-22B (arXiv 2302.05442).
    """

    def __init__(self, hidden_size: int, num_heads: int, context_size: int | None = None) -> None:
        super().__init__()
        if hidden_size % num_heads:
            raise ValueError(f"`hidden_size` {hidden_size} is not a multiple of `num_heads` {num_heads}")
        self.num_heads = num_heads
        head_size = hidden_size // num_heads
        self.query = Linear(hidden_size, hidden_size)
        self.key_value = Linear(context_size or hidden_size, 2 * hidden_size)
        self.query_norm = HeadNorm(head_size, eps=1e-6)
        self.key_norm = HeadNorm(head_size, eps=1e-6)
        self.out = Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Attends from x (B, L, D) to context (B, S, C), or to x itself.

        Args:
            mask: (B, S), True where there is something to attend to.
        """
        query, key, value = self._heads(x, x if context is None else context)
        return self.out(attend(query, key, value, mask).flatten(2))

    def within_clips(self, x: Tensor, runs: Sequence[Run], cosines: Tensor, sines: Tensor, share: Share | None = None) -> Tensor:
        """Attends from each token of packed clips, x (N, D), to all of its own clip, at rotary positions (N, 1, D / heads / 2).

        Args:
            share: of all tokens, which these are; None: there are no others.
        """
        query, key, value = self._heads(x, x, (cosines, sines))
        if share is not None:
            query, key, value = share.to_heads(torch.cat([query, key, value], dim=-1)).chunk(3, dim=-1)
        parts = (parts_of(part, share.whole if share else runs) for part in (query, key, value))
        attended = join([attend(*of_run) for of_run in zip(*parts, strict=True)])
        return self.out((share.to_tokens(attended) if share else attended).flatten(1))

    def to_text(self, x: Tensor, runs: Sequence[Run], text: Tensor | Heads, mask: Tensor | None) -> Tensor:
        """Attends from each token of packed clips, x (N, D), to the text of its clip, of (clips, S, C) and mask (clips, S).

        Args:
            text: in place of it there may be what `keys_values` answered of it.
        """
        query, key, value = self._heads(x, text)
        queries = zip(runs, parts_of(query, runs), strict=True)
        masks = [None if mask is None else run.of_clips(mask) for run in runs]
        looks = [attend(part, run.of_clips(key), run.of_clips(value), seen) for (run, part), seen in zip(queries, masks, strict=True)]
        return self.out(join(looks).flatten(1))

    def keys_values(self, source: Tensor, turned: tuple[Tensor, Tensor] | None = None) -> Heads:
        """Answers normalised keys, and values, of a source (..., C), each (..., heads, D / heads)."""
        key, value = self.key_value(source).unflatten(-1, (2, self.num_heads, -1)).unbind(-3)
        return self.key_norm(key, turned), value

    def _heads(self, x: Tensor, source: Tensor | Heads, turned: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Answers normalised queries of x (..., D) and keys, and values, of a source (..., C), each (..., heads, D / heads).

        Args:
            turned: by angles of these cosines and sines.
        """
        if source is x and in_one_product(x, self.query, self.key_value):
            query, key, value = linear_of_both(x, self.query, self.key_value).unflatten(-1, (3, self.num_heads, -1)).unbind(-3)
            return self.query_norm(query, turned), self.key_norm(key, turned), value
        query = self.query(x).unflatten(-1, (self.num_heads, -1))
        key, value = source if isinstance(source, tuple) else self.keys_values(source, turned)
        return self.query_norm(query, turned), key, value


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attends from (B, L, heads, d) to (B, S, heads, d), where a mask (B, S) is True: (B, L, heads, d)."""
    if key.shape[1] <= FEW_KEYS and query.device.type == "cpu" and query.dtype == torch.float32 and not torch.compiler.is_compiling():
        return _attend_to_few(query, key, value, mask)
    attended = F.scaled_dot_product_attention(
        query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), attn_mask=None if mask is None else mask[:, None, None, :]
    )
    return attended.transpose(1, 2)


def _attend_to_few(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Does what `attend` does by two products and a softmax; torch's kernel cuts keys into blocks, which few do not fill.

    A mask keeps at least one key of each clip.
    """
    scores = (query * query.shape[-1] ** -0.5).transpose(1, 2) @ key.permute(0, 2, 3, 1)  # (B, heads, L, S)
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None, None, :], torch.finfo(scores.dtype).min)
    return (scores.softmax(dim=-1) @ value.transpose(1, 2)).transpose(1, 2)


class HeadNorm(nn.RMSNorm):
    """An RMS norm of each head, in the precision of its input, and a turn after it.

    With weights of another precision torch has no fused kernel for it; on a CPU it has none at all.
    """

    def forward(self, x: Tensor, turned: tuple[Tensor, Tensor] | None = None) -> Tensor:
        assert self.weight is not None
        if x.device.type == "cpu" and x.dtype == torch.float32 and not torch.compiler.is_compiling():
            return norm_heads(x, self.weight, self.eps or 0.0, turned)
        with torch.autocast(x.device.type, enabled=False):
            normal = F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)
        return normal if turned is None else rotate(normal, *turned)


class FeedForward(nn.Module):
    """Two linear layers with a GELU between them, in its exact form, which is the faster one on a CPU."""

    def __init__(self, hidden_size: int, inner_size: int) -> None:
        super().__init__()
        self.into = Linear(hidden_size, inner_size)
        self.out = Linear(inner_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.into.then_gelu(x))
