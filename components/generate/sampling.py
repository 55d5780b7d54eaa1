"""One request under way: prompts as the model is told them, each sample's noise, and pass after pass of the sampler."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from components.diffusion.flow_matching import shift_of
from components.diffusion.samplers import SAMPLERS, sampling_timesteps
from components.generate.conditioning import Guidance, encode_prompts, in_whole_tokens, told_velocity
from components.generate.step_cache import step_cache_of
from components.models.pixels import to_frames, to_pixels
from components.models.precision import mixed_precision
from components.models.tiles import LONG_FRAMES, decode_stream, encode_clip, tile_of

if TYPE_CHECKING:
    from components.generate.generator import Generator

SEEDS = 2**32  # so many has torch's generator on a CPU: of a larger one it would leave out the rest

Progress = Callable[[int, int, str], None]


class Sampling:
    """Samples latents for a batch of prompts, as often as a verb needs; every pass draws each sample's noise on from its own seed.

    Args:
        prompts: as the model is to be told them.
        seeds: one a prompt, from 0 to 2**32 - 1; a sample's noise depends on its seed alone, whatever it is batched with and wherever it
            runs.
        settings: of the section `generate`, all of them.
        progress: told steps done, steps in all, and "steps".

    Raises:
        ValueError: there is no such sampler or no such seed, or the steps cannot be taken.

    Attributes:
        passes: how many there will be, for `progress`; a verb adds its own.
    """

    @torch.inference_mode()
    def __init__(
        self,
        generator: "Generator",
        prompts: Sequence[str],
        seeds: Sequence[int],
        settings: dict[str, Any],
        progress: Progress | None = None,
    ) -> None:
        if settings["sampler"] not in SAMPLERS:
            raise ValueError(f"`sampler` is one of {', '.join(SAMPLERS)}, not {settings['sampler']!r}")
        if wrong := [seed for seed in seeds if not 0 <= seed < SEEDS]:
            raise ValueError(f"`seed` is a whole number from 0 to {SEEDS - 1}, not {wrong[0]}")
        self.generator, self.settings, self.progress = generator, settings, progress
        self.vae, self.device, self.count = generator.vae, generator.device, len(prompts)
        self.embeds, self.mask = encode_prompts(generator.text_encoder, [*prompts, settings["negative_prompt"]], self.device)
        self.guidance = Guidance(settings["guidance_scale"], tuple(settings["guidance_interval"]), settings["guidance_rescale"])
        self._timesteps(generator.shift_places)  # what is wrong with them is said before any sampling
        self.passes, self._steps_done = 0, 0
        self._chance = [torch.Generator().manual_seed(seed) for seed in seeds]

    @torch.inference_mode()
    def latents(self, shape: tuple[int, ...], clean: Tensor | None = None, kept: Tensor | None = None, strength: float = 1.0) -> Tensor:
        """Walks from noise to latents (B, *shape), all of them finite.

        Kept latents enter as they are, at t = 0. Their velocity is nought, so that every step of every sampler leaves them be.

        Args:
            clean: (B, *shape), latents to keep or to start from.
            kept: bool (T,), which frames of `clean` stay.
            strength: the t at which the walk starts, from `clean` with so much noise; at 1 from noise alone.

        Raises:
            ValueError: they are not.
        """
        start = noise = self._noise(shape)
        if clean is not None:
            start = torch.lerp(clean, noise, strength)
        if clean is not None and kept is not None:
            kept = in_whole_tokens(kept, self.generator.model.size.patch_size[0]).to(self.device)
            start = torch.where(kept[:, None, None], clean, start)
        cache = step_cache_of(self.settings["step_cache"], self.generator.notes, self.count)
        velocity = told_velocity(self.generator.model, self.embeds, self.mask, self.guidance, self.generator.latents_fps, kept, cache)
        timesteps = strength * self._timesteps(math.prod(shape[1:]))
        with mixed_precision(self.device):
            latents = SAMPLERS[self.settings["sampler"]](velocity, start, timesteps, self._on_step)
        if not bool(latents.isfinite().all()):
            raise ValueError("sampling ended in what is no number; hint: a lower `guidance_scale`, or a `timestep_shift` nearer to 1")
        return latents

    @torch.inference_mode()
    def encoded(self, frames: np.ndarray) -> Tensor:
        """Encodes frames uint8 (B, T, H, W, 3) as latents (B, C, t, h, w)."""
        return encode_clip(self.vae, to_pixels(torch.from_numpy(np.ascontiguousarray(frames)).to(self.device)))

    def decoded(self, latents: Tensor) -> Iterator[np.ndarray]:
        """Decodes latents (B, C, t, h, w) part by part as frames uint8 (B, n, H, W, 3); few of a long clip are held."""
        chunks = latents.split(max(1, LONG_FRAMES // self.vae.frames), dim=2)
        for frames in decode_stream(self.vae, chunks, tile_of(self.vae)):
            yield to_frames(frames).cpu().numpy()

    def _timesteps(self, places: int) -> Tensor:
        """Answers where to stop on the way from noise to latents of so many places; more of them want more time near noise."""
        shift = shift_of(self.settings["timestep_shift"], places, self.generator.shift_places)
        return sampling_timesteps(self.settings["num_inference_steps"], shift)

    def _noise(self, shape: tuple[int, ...]) -> Tensor:
        return torch.stack([torch.randn(shape, generator=chance) for chance in self._chance]).to(self.device)

    def _on_step(self, step: int, steps: int) -> None:
        self._steps_done += 1
        if self.progress is not None:
            self.progress(self._steps_done, max(1, self.passes) * steps, "steps")
