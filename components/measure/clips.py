"""The measures of a clip that curation reads, as columns of the clips table.

Reads `video`; writes `luma`, `contrast`, `sharpness`, `motion`, `repeat_share`, `perceptual_hash`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from components.measure.fingerprint import fingerprint
from components.measure.motion import motion
from components.measure.quality import quality
from components.media.read import decode_clip

if TYPE_CHECKING:
    import numpy as np

    from components.sections import Config

READS = ("video", "fps")
WRITES = ("luma", "contrast", "sharpness", "motion", "repeat_share", "perceptual_hash")


class MeasureClips:
    """Stage: rows of clips in, the same rows' measures out."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, batch: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Measures rows, each {"clip_id", "fps", "video": the clip's bytes}; answers {"clip_id", and the columns of `WRITES`}."""
        return [{"clip_id": row["clip_id"], **measure(decode_clip(row["video"]), Fraction(row["fps"]))} for row in batch]


def measure(frames: np.ndarray, fps: Fraction | float) -> dict[str, Any]:
    """Measures one clip, uint8 (T, H, W, 3), as columns of the clips table."""
    return {**vars(quality(frames)), "motion": motion(frames, fps), "perceptual_hash": fingerprint(frames)}
