"""What the diffusion transformer is told at each step: the prompt, and what guidance leads away from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from components.diffusion.samplers import Velocity
from components.models.dit import DiT
from components.models.step_cache import StepCache
from components.models.text_refiner import KeptText, mask_of_padding

if TYPE_CHECKING:
    from components.encode.text import TextEncoder


def encode_prompts(encoder: "TextEncoder", prompts: Sequence[str], device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Encodes prompts as the training captions were, each different one once.

    Returns:
        text_embeds (B, S, C), text_mask (B, S), this in the CPU's memory.
    """
    different = list(dict.fromkeys(prompts))
    embeds, mask = encoder(different)
    places = torch.tensor([different.index(prompt) for prompt in prompts])
    embeds = embeds.half().float()  # as the table kept them that the model learned from
    return embeds[places].to(device), mask.cpu()[places]


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance.

    Attributes:
        scale: how many times the way from the velocity of the negative prompt to that of the prompt is gone; at 1 only the latter is
            asked for, which takes half as long.
        interval: of t, from the clip's end at 0 to noise at 1, within which there is guidance.
        rescale: how far the spread of the velocity goes back to that of the prompt alone, from 0 to 1; it keeps large scales from
            oversaturating.

    Source: Ho and Salimans, Classifier-Free Guidance (arXiv 2207.12598); Kynkaanniemi et al., Applying Guidance in a Limited Interval
    (arXiv 2404.07724); Lin et al., Common Diffusion Noise Schedules are Flawed (arXiv 2305.08891), section 3.4.
    """

    scale: float
    interval: tuple[float, float] = (0.0, 1.0)
    rescale: float = 0.0

    def holds_at(self, t: float) -> bool:
        return self.scale != 1.0 and self.interval[0] <= t <= self.interval[1]


def told_velocity(
    model: DiT,
    embeds: Tensor,
    mask: Tensor,
    guidance: Guidance,
    latents_fps: float,
    kept: Tensor | None = None,
    step_cache: StepCache | None = None,
) -> Velocity:
    """Answers the velocity of a batch under guidance, with and without the prompt in one pass of the model.

    What it answers reads the prompts at its first step. Without a step cache it waits for nothing of a GPU and sends it nothing, for
    which the GPU would have to end the step before.

    Args:
        embeds, mask: (B + 1, S, C) and (B + 1, S), this of the CPU: the prompts, and last the negative one.
        latents_fps: frames of latents a second.
        kept: bool (T,), frames of latents that are as they shall be: they are told as t = 0, and their velocity is nought.
        step_cache: of this walk; None: the model says everything anew at each step.
    """
    count = len(embeds) - 1
    both_embeds = torch.cat([embeds[:count], embeds[count:].expand(count, -1, -1)])
    own_mask, both_mask = (
        mask_of_padding(part, embeds.device) for part in (mask[:count], torch.cat([mask[:count], mask[count:].expand(count, -1)]))
    )
    own, both = KeptText(), KeptText()
    made = None if kept is None else (~kept).nonzero()[:, 0]  # the other frames

    def velocity(noisy: Tensor, t: Tensor) -> Tensor:
        if not guidance.holds_at(float(t)):
            return still(model(noisy, times(noisy, t, count), embeds[:count], own_mask, latents_fps, step_cache, own))
        twice = torch.cat([noisy, noisy])
        told, without = model(twice, times(noisy, t, 2 * count), both_embeds, both_mask, latents_fps, step_cache, both).chunk(2)
        guided = without + guidance.scale * (told - without)
        if guidance.rescale:
            guided = guided * torch.lerp(guided.new_ones(()), spread(told) / spread(guided), guidance.rescale)
        return still(guided)

    def times(noisy: Tensor, t: Tensor, samples: int) -> Tensor:
        everywhere = noisy.new_full((), float(t))
        if kept is None:
            return everywhere.expand(samples)
        return (~kept[:: model.size.patch_size[0]] * everywhere).expand(samples, -1)  # (B, frames of tokens)

    def still(of: Tensor) -> Tensor:
        return of if kept is None else of.masked_fill(kept[:, None, None], 0.0)

    def spread(of: Tensor) -> Tensor:
        moving = of if made is None else of.index_select(2, made)
        return moving.std(dim=tuple(range(1, of.ndim)), keepdim=True)

    return velocity


def in_whole_tokens(kept: Tensor, frames: int) -> Tensor:
    """Lets go of kept frames of latents, bool (T,), that share a token of so many frames with one that is not kept."""
    tokens = F.pad(kept, (0, -len(kept) % frames), value=True).view(-1, frames).all(dim=1)
    return tokens.repeat_interleave(frames)[: len(kept)]
