"""Multi-head attention with normalised queries and keys, over a sequence itself or towards another one."""

import torch.nn.functional as F
from torch import Tensor, nn


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
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key_value = nn.Linear(context_size or hidden_size, 2 * hidden_size)
        self.query_norm = HeadNorm(head_size, eps=1e-6)
        self.key_norm = HeadNorm(head_size, eps=1e-6)
        self.out = nn.Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Attends from x (B, L, D) to context (B, S, C), or to x itself.

        Args:
            mask: (B, S), True where there is something to attend to.
        """
        source = x if context is None else context
        query = self.query(x).unflatten(-1, (self.num_heads, -1))  # (B, L, heads, D / heads)
        key, value = self.key_value(source).unflatten(-1, (2, self.num_heads, -1)).unbind(-3)  # (B, S, heads, D / heads)
        attended = F.scaled_dot_product_attention(
            self.query_norm(query).transpose(1, 2),
            self.key_norm(key).transpose(1, 2),
            value.transpose(1, 2),
            attn_mask=None if mask is None else mask[:, None, None, :],
        )  # (B, heads, L, D / heads)
        return self.out(attended.transpose(1, 2).flatten(2))


class HeadNorm(nn.RMSNorm):
    """An RMS norm in the precision of its input: with weights of another one torch has no fused kernel for it."""

    def forward(self, x: Tensor) -> Tensor:
        weight = None if self.weight is None else self.weight.to(x.dtype)
        return F.rms_norm(x, self.normalized_shape, weight, self.eps)


class FeedForward(nn.Module):
    """Two linear layers with a GELU between them, in its exact form, which is the faster one on a CPU."""

    def __init__(self, hidden_size: int, inner_size: int) -> None:
        super().__init__()
        self.into = nn.Linear(hidden_size, inner_size)
        self.out = nn.Linear(inner_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.gelu(self.into(x)))
