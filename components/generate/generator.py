"""Generates video from prompts with a finished text-to-video folder; needs torch, no Ray, Prefect, Lance or MLflow."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components.caption.upsample import rewrite_all
from components.encode.load_vae import load_vae
from components.encode.text import TextEncoder, load_text_encoder
from components.generate.contract import TEXT_ENCODER, VIDEO_VAE, check_contract, check_terms
from components.generate.prompts import check_prompt, check_text
from components.generate.sampling import Progress, Sampling
from components.generate.shapes import Shapes
from components.generate.verbs import clip
from components.models.dit import DiT, load_dit
from components.models.weights import load_json, read_manifest

if TYPE_CHECKING:
    from components.encode.pretrained_vae import PretrainedVae
    from components.models.vae import VideoVae

SAMPLES_AT_ONCE = 64
NEWER_SETTINGS: dict[str, Any] = {  # which older models do not note
    "guidance_interval": (0.0, 1.0),
    "guidance_rescale": 0.0,
    "step_cache": None,
}
OFF_BY_NONE = ("step_cache",)  # of all other settings None says that they are not given


class OtherKindError(ValueError):
    """A folder of weights that is no text-to-video model."""


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
    def load(cls, folder: str | Path, device: str = "cpu", reference: str | None = None) -> "Generator":
        """Loads a text-to-video folder and checks that its parts belong together.

        Args:
            reference: what a person calls the model; else it is called by its folder.

        Raises:
            FileNotFoundError: there is no such folder.
            OtherKindError: it holds a model of another kind.
            DamagedFolderError: a file is missing, cut or changed.
            MismatchedModelError: the VAE, the text encoder or the rate is another than in training, or the model is too old to say.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise FileNotFoundError(f"there is no model at `{folder}`; hint: `kinora show models` lists those that there are")
        if "dit.json" not in read_manifest(folder):
            raise OtherKindError(f"`{reference or folder}` is no text-to-video model; hint: `kinora show models` lists them")
        check_terms(load_json(folder, "dit"), folder)
        model, notes = load_dit(folder, device)
        vae, text_encoder = load_vae(folder / VIDEO_VAE, device), load_text_encoder(folder / TEXT_ENCODER, device)
        check_contract(notes, vae, text_encoder, folder)
        return cls(model, vae, text_encoder, load_json(folder, "style"), notes, device)

    @property
    def fps(self) -> int:
        return int(self.notes["clip"]["fps"])

    @property
    def latents_fps(self) -> float:
        return self.fps / self.vae.frames

    @property
    def token(self) -> int:
        """Frames of latents that a token of the model holds, which are kept together or not at all."""
        return self.model.size.patch_size[0]

    @property
    def shift_places(self) -> int:
        """Of latents, that the setting `timestep_shift` is meant for."""
        return int(self.notes["contract"]["shift_places"])

    @property
    def shapes(self) -> Shapes:
        """The sizes and lengths that the model saw."""
        return Shapes(self.notes, self.vae)

    def told(self, prompt: str, rewrite: bool = True) -> str:
        """Answers a prompt as the model is told it: said as the training captions are, or as it is.

        Raises:
            ValueError: it is empty, or no text.
        """
        return self.told_all([prompt], rewrite)[0]

    def told_all(self, prompts: Sequence[str], rewrite: bool = True) -> list[str]:
        """Answers prompts as `told` does each; what several of them have in common is remarked upon once."""
        for prompt in prompts:
            check_prompt(prompt)
        return rewrite_all(prompts, self.style) if rewrite else list(prompts)

    def settings(self, **sampling: Any) -> dict[str, Any]:
        """Answers all settings of sampling: those given, else as the model's notes say; None is given where it switches something off.

        Raises:
            TypeError: there is no such setting.
        """
        defaults = NEWER_SETTINGS | self.notes["generate"]
        if unknown := sampling.keys() - defaults.keys():
            raise TypeError(f"`{min(unknown)}` is no setting of sampling; there are {', '.join(sorted(defaults))}")
        return defaults | {name: value for name, value in sampling.items() if value is not None or name in OFF_BY_NONE}

    def sampling(self, told: Sequence[str], seeds: Sequence[int], progress: Progress | None = None, **sampling: Any) -> Sampling:
        """Answers what the verbs of `components.generate.verbs` sample with, for prompts as the model is told them."""
        settings = self.settings(**sampling)
        check_text("negative prompt", settings["negative_prompt"])
        return Sampling(self, told, seeds, settings, progress)

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
            num_frames: of a clip that the model saw in training; 1 makes an image.
            rewrite: whether prompts are first said as the training captions are.
            sampling: settings of the section `generate`, by name.

        Raises:
            ValueError: an empty prompt, or a length, size or setting that does not fit; the nearest that do are named.
            TypeError: there is no such setting.
        """
        if len(seeds) != len(prompts):
            raise ValueError(f"{len(prompts)} prompts need as many seeds, not {len(seeds)}")
        size = self.shapes.size(height, width, num_frames=num_frames)
        length = self.shapes.length(size, num_frames, self.notes["clip"]["num_frames"])
        told = self.told_all(prompts, rewrite)
        frames: list[np.ndarray] = []
        for start in range(0, len(told), SAMPLES_AT_ONCE):
            part = slice(start, start + SAMPLES_AT_ONCE)
            steps = _counted(progress, start // SAMPLES_AT_ONCE, -(-len(told) // SAMPLES_AT_ONCE))
            frames += list(clip(self.sampling(told[part], seeds[part], steps, **sampling), size, length).whole())
        return [Sample(*made) for made in zip(frames, prompts, told, seeds, strict=True)]


def _counted(progress: Progress | None, done: int, batches: int) -> Progress | None:
    """Answers the callback of a batch's steps, counted over all batches."""
    if progress is None:
        return None

    def told(step: int, steps: int, what: str) -> None:
        progress(done * steps + step, batches * steps, what)

    return told
