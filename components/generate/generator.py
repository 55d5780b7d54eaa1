"""Generates video from prompts with a finished text-to-video folder; needs torch, no Ray, Prefect, Lance or MLflow."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from components.caption.upsample import rewrite as rewrite_prompt
from components.diffusion.flow_matching import shift_of
from components.diffusion.samplers import SAMPLERS, sampling_timesteps
from components.encode.load_vae import load_vae
from components.encode.text import TextEncoder, load_text_encoder
from components.generate.conditioning import Guidance, encode_prompts, noise_of, told_velocity
from components.models.dit import DiT, load_dit
from components.models.pixels import to_frames
from components.models.tiles import decode_latents
from components.models.weights import digest_folder, load_json

if TYPE_CHECKING:
    from components.encode.pretrained_vae import PretrainedVae
    from components.models.vae import VideoVae

Progress = Callable[[int, int, str], None]
SAMPLES_AT_ONCE = 64
VIDEO_VAE, TEXT_ENCODER = "video-vae", "text-encoder"
NEWER_SETTINGS: dict[str, Any] = {"guidance_interval": (0.0, 1.0), "guidance_rescale": 0.0}  # which older models do not note


class MismatchedModelError(ValueError):
    """Parts of a text-to-video folder that were not trained together; the message names the one that differs."""


@dataclass(frozen=True)
class Sample:
    """One generated video: frames uint8 (T, H, W, 3), the prompt as given and as the model was told it, and the seed."""

    frames: np.ndarray
    prompt: str
    rewritten: str
    seed: int


@dataclass(frozen=True)
class Generator:
    """A diffusion transformer with the VAE and the text encoder that it was trained against.

    Attributes:
        style: how the training captions are worded.
        notes: what training noted beside the weights: the shape and rate of its clips, defaults of sampling.
    """

    model: DiT
    vae: "VideoVae | PretrainedVae"
    text_encoder: TextEncoder
    style: dict[str, Any]
    notes: dict[str, Any]
    device: str

    @classmethod
    def load(cls, folder: str | Path, device: str = "cpu") -> "Generator":
        """Loads a text-to-video folder and checks that its parts belong together.

        Raises:
            FileNotFoundError: there is no such folder.
            DamagedFolderError: a file is missing, cut or changed.
            MismatchedModelError: the VAE or the text encoder is another than the one of the training.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise FileNotFoundError(f"there is no model at `{folder}`; hint: `kinora show models` lists those that there are")
        model, notes = load_dit(folder, device)
        vae, text_encoder = load_vae(folder / VIDEO_VAE, device), load_text_encoder(folder / TEXT_ENCODER, device)
        _check_contract(notes, vae, text_encoder, folder)
        return cls(model, vae, text_encoder, load_json(folder, "style"), notes, device)

    @property
    def fps(self) -> int:
        return int(self.notes["clip"]["fps"])

    def generate(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        rewrite: bool = True,
        progress: Progress | None = None,
        **sampling: Any,
    ) -> list[Sample]:
        """Generates one video a prompt; what is not given is as the model's notes say.

        Args:
            seeds: one a prompt; the same seed, prompt and settings make the same video, alone or in a batch.
            num_frames: 1 + a multiple of the VAE's temporal compression; 1 makes an image.
            rewrite: whether prompts are first said as the training captions are.
            sampling: settings of the section `generate`, by name.

        Raises:
            ValueError: an empty prompt, or a length, size or setting that does not fit; the nearest that do are named.
            TypeError: there is no such setting.
        """
        defaults = NEWER_SETTINGS | self.notes["generate"]
        if unknown := sampling.keys() - defaults.keys():
            raise TypeError(f"`{min(unknown)}` is no setting of sampling; there are {', '.join(sorted(defaults))}")
        settings = defaults | {name: value for name, value in sampling.items() if value is not None}
        clip = self.notes["clip"]
        shape = self._latents_shape(num_frames or clip["num_frames"], height or clip["height"], width or clip["width"])
        if len(seeds) != len(prompts):
            raise ValueError(f"{len(prompts)} prompts need as many seeds, not {len(seeds)}")
        told = [rewrite_prompt(prompt, self.style) if rewrite else _not_empty(prompt) for prompt in prompts]
        frames: list[np.ndarray] = []
        for start in range(0, len(told), SAMPLES_AT_ONCE):
            part = slice(start, start + SAMPLES_AT_ONCE)
            frames += self._sample(told[part], seeds[part], shape, settings, _within(progress, start, len(told), settings))
        return [Sample(*made) for made in zip(frames, prompts, told, seeds, strict=True)]

    @torch.inference_mode()
    def _sample(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        shape: tuple[int, int, int, int],
        settings: dict[str, Any],
        on_step: Callable[[int, int], None],
    ) -> list[np.ndarray]:
        embeds, mask = encode_prompts(self.text_encoder, [*prompts, settings["negative_prompt"]], self.device)
        guidance = Guidance(settings["guidance_scale"], tuple(settings["guidance_interval"]), settings["guidance_rescale"])
        velocity = told_velocity(self.model, embeds, mask, guidance, self.fps / self.vae.period)
        shift = shift_of(settings["timestep_shift"], math.prod(shape[1:]), self.notes["contract"]["shift_places"])
        timesteps = sampling_timesteps(settings["num_inference_steps"], shift)
        walk = SAMPLERS[settings["sampler"]]
        latents = walk(velocity, noise_of(seeds, shape, self.device), timesteps, on_step)  # (B, C, T, H, W)
        return list(to_frames(decode_latents(self.vae, latents)).cpu().numpy())

    def _latents_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Answers the shape of the latents of a video, after saying what of it does not fit."""
        frames, side = self.vae.period, self.vae.side
        if num_frames < 1 or (num_frames - 1) % frames:
            below = max(0, num_frames - 1) // frames * frames + 1
            raise ValueError(f"`num_frames` is 1 + a multiple of {frames}, not {num_frames}; the nearest are {below} and {below + frames}")
        for name, value in (("height", height), ("width", width)):
            if value < side or value % side:
                raise ValueError(f"`{name}` is a multiple of {side}, not {value}; the nearest is {max(side, round(value / side) * side)}")
        return self.vae.latents_shape(num_frames, height, width)


def _check_contract(notes: dict[str, Any], vae: "VideoVae | PretrainedVae", text_encoder: TextEncoder, folder: Path) -> None:
    """Compares what the transformer was trained on with what lies beside it."""
    contract = notes["contract"]
    found = {
        "latents_mean": vae.latents_mean.tolist(),
        "latents_std": vae.latents_std.tolist(),
        "text_width": text_encoder.width,
        "video_vae": digest_folder(folder / VIDEO_VAE),
        "text_encoder": digest_folder(folder / TEXT_ENCODER),
    }
    for name, value in found.items():
        if contract[name] != value:
            raise MismatchedModelError(
                f"`{folder}`: `{name}` is not what the diffusion transformer was trained with; "
                "hint: keep a text-to-video folder as training exported it"
            )


def _not_empty(prompt: str) -> str:
    if not prompt.strip():
        raise ValueError('the prompt is empty; hint: say what should be seen, for example "a red square moves left"')
    return prompt


def _within(progress: Progress | None, done: int, total: int, settings: dict[str, Any]) -> Callable[[int, int], None]:
    """Answers the callback of a batch's steps, counted over all batches."""
    steps, batches = settings["num_inference_steps"], -(-total // SAMPLES_AT_ONCE)

    def on_step(step: int, _: int) -> None:
        if progress is not None:
            progress(done // SAMPLES_AT_ONCE * steps + step, batches * steps, "steps")

    return on_step
