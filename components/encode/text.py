"""Text encoders behind one interface, and their per-token embeddings of captions, cached for the diffusion transformer."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from components.openclip.load import Coca

PRETRAINED = "text_encoder.json"  # in the folder of one of transformers


class TextEncoder(Protocol):
    """Makes one vector a token of what the diffusion transformer is told."""

    @property
    def width(self) -> int: ...

    @property
    def max_tokens(self) -> int:
        """Of a text that it reads, its marks counted."""

    def __call__(self, texts: Sequence[str]) -> "tuple[Tensor, Tensor]":
        """Encodes texts, the empty one too; a text's vectors do not depend on what it is batched with, but for rounding.

        Returns:
            text_embeds float32 (B, S, C), zero behind a text's end, S tokens of the batch's longest text; text_mask bool (B, S).
        """

    def cut(self, text: str) -> tuple[str, str]:
        """Answers what of a text is encoded, and the end that is left out because the text is too long; else the text and nothing."""


@dataclass(frozen=True)
class ClipText:
    """The text tower of an OpenCLIP captioner."""

    coca: "Coca"

    @property
    def width(self) -> int:
        return self.coca.text_width

    @property
    def max_tokens(self) -> int:
        return int(self.coca.tokenizer.context_length)

    def __call__(self, texts: Sequence[str]) -> "tuple[Tensor, Tensor]":
        from components.openclip.embed import encode_text

        return encode_text(self.coca, texts)

    def cut(self, text: str) -> tuple[str, str]:
        from components.openclip.tokenizer import cut

        return cut(self.coca.tokenizer, text)


def load_text_encoder(folder: str | Path, device: str = "cpu") -> TextEncoder:
    """Reads a text encoder's folder: one of transformers that was taken, or a captioner.

    Raises:
        PretrainedTextError: it is one of transformers, which is not installed.
        DamagedFolderError: a file is missing or is not the one that was written.
    """
    if (Path(folder) / PRETRAINED).is_file():
        from components.encode.pretrained_text import load_pretrained_text

        return load_pretrained_text(Path(folder), device)
    from components.openclip.load import load_coca

    return ClipText(load_coca(folder, device))


class EncodeText:
    """The row stage of text embeddings: reads `caption`, writes `text_embeds` (S, C) without padding, float16.

    Equal captions are encoded once a batch, and S counts the tokens of each caption alone.
    """

    READS = ("clip_id", "caption")
    WRITES = ("clip_id", "text_embeds", "text_shape")

    def __init__(self, folder: str | Path, device: str = "cpu") -> None:
        self.encoder = load_text_encoder(folder, device)

    def __call__(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Answers the rows with the embeddings of their captions."""
        captions = list(dict.fromkeys(row["caption"] for row in rows))
        encoded = dict(zip(captions, self.encode(captions), strict=True))
        return [
            {"clip_id": row["clip_id"], "text_embeds": encoded[row["caption"]], "text_shape": list(encoded[row["caption"]].shape)}
            for row in rows
        ]

    def cut_at(self, text: str) -> int | None:
        """Answers at how many tokens a text is cut, or None: all of it is encoded."""
        return self.encoder.max_tokens if self.encoder.cut(text)[1] else None

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        """Answers (S, C) float16 of each text, S its own tokens; the empty text is its marks alone."""
        if not texts:
            return []
        embeds, mask = self.encoder(texts)  # (B, S, C), (B, S)
        return [tokens[kept].cpu().numpy().astype(np.float16) for tokens, kept in zip(embeds, mask, strict=True)]
