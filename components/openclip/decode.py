"""Captions of pictures by a CoCa, greedily, each token computed once.

OpenCLIP's own `CoCa.generate` needs classes that transformers no longer has. The steps below walk the blocks of the stock
modules with the keys and values of earlier tokens kept, so a caption of n tokens costs n tokens, not n * n / 2.
"""

from typing import TYPE_CHECKING, Any

from components.openclip.load import Coca
from components.openclip.tokenizer import tidy

if TYPE_CHECKING:
    from torch import Tensor


def caption_pictures(coca: Coca, pictures: "Tensor", max_tokens: int | None = None) -> list[tuple[str, float]]:
    """Captions pictures.

    Args:
        pictures: float (B, 3, image_size, image_size), as `mosaic.picture` answers them.
        max_tokens: both marks counted; the model's own `max_tokens` when not given.

    Returns:
        the caption and the mean log-probability of its tokens, of each picture.
    """
    import torch

    with torch.inference_mode():
        _, image_tokens = coca.model._encode_image(pictures)  # (B, Q, C)
        tokens, log_probs = greedy(coca, image_tokens, min(max_tokens or coca.max_tokens, coca.model.context_length))
    return [_read(coca.tokenizer, *row) for row in zip(tokens.tolist(), log_probs.tolist(), strict=True)]


def greedy(coca: Coca, image_tokens: "Tensor", max_tokens: int) -> "tuple[Tensor, Tensor]":
    """Writes the likeliest token after the likeliest token, until every caption ended.

    Returns:
        tokens (B, n) after the start mark and their log-probabilities (B, n); what follows an end mark means nothing.
    """
    import torch

    model, tokenizer = coca.model, coca.tokenizer
    step = _Stepper(model, image_tokens)
    token = torch.full((len(image_tokens),), tokenizer.sot_token_id, device=image_tokens.device)
    ended = torch.zeros_like(token, dtype=torch.bool)
    tokens, log_probs = [], []
    for _ in range(max(1, max_tokens - 1)):
        logits = step(token)  # (B, V)
        logits[:, [model.pad_id, tokenizer.sot_token_id]] = float("-inf")
        log_prob, token = logits.log_softmax(-1).max(-1)
        tokens.append(token)
        log_probs.append(log_prob)
        ended |= token == tokenizer.eot_token_id
        if bool(ended.all()):
            break
    return torch.stack(tokens, 1), torch.stack(log_probs, 1)


class _Stepper:
    """Takes one token of every caption at a time through the text tower and the decoder."""

    def __init__(self, model: Any, image_tokens: "Tensor") -> None:
        self.text, self.decoder = model.text, model.text_decoder
        self.place = 0
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}
        for block in self.decoder.cross_attn:
            self.kept[id(block)] = _keys_and_values(block.attn, block.ln_1_kv(image_tokens))

    def __call__(self, token: "Tensor") -> "Tensor":
        x = self.text.token_embedding(token) + self.text.positional_embedding[self.place]  # (B, C)
        x = x[:, None]  # (B, 1, C)
        for block in self.text.transformer.resblocks:
            x = self._block(block, x)
        for block, across in zip(self.decoder.resblocks, self.decoder.cross_attn, strict=True):
            x = self._block(across, self._block(block, x))
        self.place += 1
        logits: Tensor = self.decoder.ln_final(x[:, 0]) @ self.decoder.text_projection
        return logits

    def _block(self, block: Any, x: "Tensor") -> "Tensor":
        """One residual block; a causal one first adds this token to the keys and values it keeps."""
        import torch

        normal = block.ln_1(x)
        if not hasattr(block, "ln_1_kv"):
            keys, values = _keys_and_values(block.attn, normal)
            if id(block) in self.kept:
                earlier_keys, earlier_values = self.kept[id(block)]
                keys, values = torch.cat([earlier_keys, keys], 2), torch.cat([earlier_values, values], 2)
            self.kept[id(block)] = keys, values
        x = x + block.ls_1(_attend(block.attn, normal, *self.kept[id(block)]))
        answer: Tensor = x + block.ls_2(block.mlp(block.ln_2(x)))
        return answer


def _keys_and_values(attention: Any, x: "Tensor") -> "tuple[Tensor, Tensor]":
    """Answers keys and values of x (B, L, C) for an nn.MultiheadAttention, each (B, heads, L, C / heads)."""
    from torch.nn import functional

    width = attention.embed_dim
    both = functional.linear(x, attention.in_proj_weight[width:], attention.in_proj_bias[width:])
    keys, values = both.unflatten(-1, (2, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    return keys, values


def _attend(attention: Any, x: "Tensor", keys: "Tensor", values: "Tensor") -> "Tensor":
    from torch.nn import functional

    width = attention.embed_dim
    queries = functional.linear(x, attention.in_proj_weight[:width], attention.in_proj_bias[:width])
    queries = queries.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)  # (B, heads, 1, C / heads)
    mixed = functional.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).flatten(2)  # (B, 1, C)
    answer: Tensor = attention.out_proj(mixed)
    return answer


def _read(tokenizer: Any, tokens: list[int], log_probs: list[float]) -> tuple[str, float]:
    length = tokens.index(tokenizer.eot_token_id) if tokenizer.eot_token_id in tokens else len(tokens)
    counted = log_probs[: length + 1]
    return tidy(tokenizer.decode(tokens[:length])), sum(counted) / len(counted)
