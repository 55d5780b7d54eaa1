"""Per-token embeddings of captions by OpenCLIP's text tower, cached in the clips table for the diffusion transformer."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path


class EncodeText:
    """The row stage of text embeddings: reads `caption`, writes `text_embeds` (S, C) without padding, float16.

    Equal captions are encoded once a batch, and S counts the tokens of each caption alone.
    """

    READS = ("clip_id", "caption")
    WRITES = ("clip_id", "text_embeds", "text_shape")

    def __init__(self, folder: "str | Path", device: str = "cpu") -> None:
        from components.openclip.load import load_coca

        self.coca = load_coca(folder, device)

    def __call__(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Answers the rows with the embeddings of their captions."""
        captions = list(dict.fromkeys(row["caption"] for row in rows))
        encoded = dict(zip(captions, self.encode(captions), strict=True))
        return [
            {"clip_id": row["clip_id"], "text_embeds": encoded[row["caption"]], "text_shape": list(encoded[row["caption"]].shape)}
            for row in rows
        ]

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        """Answers (S, C) float16 of each text, S its own tokens; the empty text is its two marks."""
        from components.openclip.embed import encode_text

        if not texts:
            return []
        embeds, mask = encode_text(self.coca, texts)  # (B, S, C), (B, S)
        return [tokens[kept].cpu().numpy().astype(np.float16) for tokens, kept in zip(embeds.float(), mask.bool(), strict=True)]
