"""What Ray's actors run for the evaluation: generate and judge samples, reconstruct clips. Weights are loaded once an actor."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np

from components.sections import Config


def one_thread() -> None:
    """Gives an actor one torch thread: two of them then use two cores better than one with two threads."""
    import torch

    torch.set_num_threads(1)


class SampleActor:
    """Generates the samples of prompts and measures them."""

    def __init__(self, config: Config, folder: str, preset: str | None, sharp_at: float) -> None:
        from components.generate.generator import Generator

        one_thread()
        self.config = config
        self.preset = preset
        self.sharp_at = sharp_at
        self.generator = Generator.load(folder, config.encode.device)

    def __call__(self, prompts: Sequence[Any]) -> list[dict[str, Any]]:
        """Answers for each `Prompt` its measured row, the prompt as it was rewritten, and the video."""
        from components.evaluate.suite import score_samples
        from components.media.write import write_video
        from components.world.reader import read

        settings, clip = self.config.generate, self.config.clip
        samples = self.generator.generate(
            [prompt.text for prompt in prompts],
            [prompt.seed for prompt in prompts],
            num_frames=clip.num_frames,
            height=clip.height,
            width=clip.width,
            **settings.model_dump(),
        )
        reader = partial(read, preset=self.preset) if self.preset else None
        frames = [sample.frames for sample in samples]
        rows = score_samples(
            frames, prompts, reader, fps=Fraction(clip.fps), min_motion=self.config.evaluate.min_motion, sharp_at=self.sharp_at
        )
        return [
            {
                "row": row,
                "rewritten": sample.rewritten,
                "frames": sample.frames,
                "video": write_video(None, sample.frames, Fraction(clip.fps), crf=12),
            }
            for row, sample in zip(rows, samples, strict=True)
        ]


@dataclass(frozen=True)
class Reconstructed:
    """What a VAE makes of clips.

    Attributes:
        frames: uint8 (N, T, H, W, 3).
        moments: sum and sum of squares (2, C) of the latents' channels over `places` places.
        checked: what `vae_checks.Checked` holds, of the clips that were given to be checked.
    """

    frames: np.ndarray
    moments: np.ndarray
    places: int
    checked: dict[str, list[float]]


class ReconstructActor:
    """Passes clips through the VAE and back."""

    def __init__(self, folder: str, device: str) -> None:
        from components.encode.load_vae import load_vae

        one_thread()
        self.device = device
        self.vae = load_vae(folder, device)

    def __call__(self, batch: tuple[np.ndarray, Sequence[np.ndarray]]) -> Reconstructed:
        """Reconstructs clips, uint8 (N, T, H, W, 3), and checks others, each uint8 (T, H, W, 3)."""
        import torch

        from components.evaluate.vae_checks import check_vae
        from components.models.pixels import to_frames, to_pixels
        from components.models.tiles import decode_latents, encode_clip

        clips, to_check = batch
        with torch.inference_mode():
            latents = encode_clip(self.vae, to_pixels(torch.from_numpy(clips).to(self.device)))
            decoded = decode_latents(self.vae, latents)
        flat = latents.double().transpose(0, 1).flatten(1)  # (C, places)
        return Reconstructed(
            to_frames(decoded).cpu().numpy(),
            torch.stack([flat.sum(1), flat.square().sum(1)]).cpu().numpy(),
            flat.shape[1],
            asdict(check_vae(self.vae, to_check, self.device)),
        )
