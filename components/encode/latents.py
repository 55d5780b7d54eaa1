"""Latents of clips by the video VAE, cached in the clips table for the diffusion transformer."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path


class EncodeLatents:
    """The row stage of latents: reads `video`, writes `latents` (C, T, H, W), the means normalised by channel, float16.

    Clips of one shape are encoded together.
    """

    READS = ("clip_id", "video")
    WRITES = ("clip_id", "latents", "latents_shape")

    def __init__(self, folder: "str | Path", device: str = "cpu") -> None:
        from components.encode.load_vae import load_vae

        self.device = device
        self.vae = load_vae(folder, device)

    def __call__(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Answers the rows with the latents of their videos.

        Raises:
            ValueError: a clip does not fit the VAE; it is named.
        """
        from components.media.read import decode_clip

        frames = [decode_clip(row["video"]) for row in rows]
        places: dict[tuple[int, ...], list[int]] = {}
        for place, clip in enumerate(frames):
            places.setdefault(clip.shape, []).append(place)
        found: dict[int, np.ndarray] = {}
        for alike in places.values():
            try:
                latents = self.encode(np.stack([frames[place] for place in alike]))
            except ValueError as error:
                raise ValueError(f"clip `{rows[alike[0]]['clip_id']}`: {error}") from error
            found.update(zip(alike, latents, strict=True))
        return [
            {"clip_id": row["clip_id"], "latents": found[place], "latents_shape": list(found[place].shape)}
            for place, row in enumerate(rows)
        ]

    def encode(self, frames: np.ndarray) -> np.ndarray:
        """Encodes uint8 (N, T, H, W, 3) as float16 latents (N, C, T, H, W)."""
        import torch

        from components.models.pixels import to_pixels
        from components.models.tiles import encode_clip

        with torch.inference_mode():
            clips = to_pixels(torch.from_numpy(frames).to(self.device))
            latents: np.ndarray = encode_clip(self.vae, clips).half().cpu().numpy()
        return latents
