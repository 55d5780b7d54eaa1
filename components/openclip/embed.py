"""What the text encoder makes of words: one vector a token for the diffusion transformer."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from components.openclip.load import Coca

if TYPE_CHECKING:
    from torch import Tensor


def encode_text(coca: Coca, texts: Sequence[str]) -> "tuple[Tensor, Tensor]":
    """Encodes texts by the CoCa's text tower; an empty text is its two marks, start and end.

    CoCa's tokens come out of the last block as they are, without a last norm, so each is brought to mean 0 and variance 1 here.
    The tower is causal: a text's vectors do not depend on what it is batched with.

    Returns:
        text_embeds float32 (B, S, C), zero behind a text's end, S tokens of the batch's longest text; text_mask bool (B, S).
    """
    import torch
    from torch.nn import functional

    text = coca.model.text
    tokens = coca.tokenizer(list(texts))  # (B, context_length), zeros behind the end mark
    lengths = (tokens == coca.tokenizer.eot_token_id).float().argmax(1) + 1
    mask = torch.arange(tokens.shape[1]) < lengths[:, None]
    seen = int(lengths.max()) if text.attn_mask is not None else tokens.shape[1]  # only a causal tower may be shown less
    device = next(text.parameters()).device
    with torch.inference_mode():
        _, embeds = text(tokens[:, :seen].to(device))  # (B, S, C)
        embeds = functional.layer_norm(embeds.float(), embeds.shape[-1:])
    mask = mask[:, : int(lengths.max())].to(device)
    return embeds[:, : mask.shape[1]] * mask[..., None], mask
