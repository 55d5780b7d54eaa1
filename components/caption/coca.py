"""The row stage that captions clips by a CoCa.

reads: video, label_caption, lent. writes: caption, caption_score (the job adds caption_by).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.sections import Caption

READS = ("video", "label_caption", "lent")
WRITES = ("caption", "caption_score")


class CaptionClips:
    """Captions clips; a lent label is taken word for word, with no score.

    A captioner that cannot caption (it is a text encoder alone) leaves all other clips without a caption.
    """

    def __init__(self, settings: Caption, model_folder: str | Path, device: str = "cpu") -> None:
        from components.openclip.load import load_coca

        self.settings = settings
        self.device = device
        self.coca = load_coca(model_folder, device)

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        """Captions one batch.

        Args:
            batch: lists by column: `clip_id` and READS; `video` holds a clip's bytes.

        Returns:
            lists by column: clip_id, caption, caption_score; null where there is no caption.
        """
        lent = [bool(is_lent and label) for is_lent, label in zip(batch["lent"], batch["label_caption"], strict=True)]
        captions = [label if is_lent else None for is_lent, label in zip(lent, batch["label_caption"], strict=True)]
        scores: list[float | None] = [None] * len(captions)
        todo = [row for row, is_lent in enumerate(lent) if not is_lent] if self.coca.can_caption else []
        for start in range(0, len(todo), self.settings.batch_size):
            rows = todo[start : start + self.settings.batch_size]
            for row, (caption, score) in zip(rows, self._caption([batch["video"][row] for row in rows]), strict=True):
                captions[row], scores[row] = caption or None, score if caption else None
        return {"clip_id": list(batch["clip_id"]), "caption": captions, "caption_score": scores}

    def _caption(self, videos: Sequence[bytes]) -> list[tuple[str, float]]:
        import torch

        from components.media.read import decode_clip
        from components.openclip.decode import caption_pictures
        from components.openclip.mosaic import cells, picture

        cut = torch.stack([cells(decode_clip(video), self.coca.mosaic) for video in videos])
        pictures = picture(cut, self.coca.mosaic, self.coca.mean, self.coca.std)  # (B, 3, image_size, image_size)
        return caption_pictures(self.coca, pictures.to(self.device))
