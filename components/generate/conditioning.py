"""What the diffusion transformer is told at each step: the prompt, and what guidance leads away from."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from components.diffusion.samplers import Velocity

if TYPE_CHECKING:
    from components.openclip.load import Coca


def encode_prompts(coca: "Coca", prompts: Sequence[str], device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Encodes prompts as the training captions were, each different one once.

    Returns:
        text_embeds (B, S, C), text_mask (B, S).
    """
    from components.openclip.embed import encode_text

    different = list(dict.fromkeys(prompts))
    embeds, mask = encode_text(coca, different)
    places = torch.tensor([different.index(prompt) for prompt in prompts])
    embeds = embeds.half().float()  # as the table kept them that the model learned from
    return embeds[places].to(device), mask[places].to(device)


def told_velocity(model: nn.Module, embeds: Tensor, mask: Tensor, guidance_scale: float) -> Velocity:
    """Answers the velocity of a batch under classifier-free guidance, both halves of it in one pass of the model.

    From the velocity of the negative prompt it goes `guidance_scale` times the way to that of each prompt; at scale 1 the
    negative prompt is never asked for.

    Args:
        embeds, mask: (B + 1, S, C) and (B + 1, S): the prompts, and last the negative one.

    Source: Ho and Salimans, Classifier-Free Guidance (arXiv 2207.12598).
    """
    count = len(embeds) - 1
    if guidance_scale == 1.0:
        return lambda noisy, t: model(noisy, t.to(noisy).expand(count), embeds[:count], mask[:count])
    both_embeds = torch.cat([embeds[:count], embeds[count:].expand(count, -1, -1)])
    both_mask = torch.cat([mask[:count], mask[count:].expand(count, -1)])

    def velocity(noisy: Tensor, t: Tensor) -> Tensor:
        told, without = model(torch.cat([noisy, noisy]), t.to(noisy).expand(2 * count), both_embeds, both_mask).chunk(2)
        return without + guidance_scale * (told - without)

    return velocity


def noise_of(seeds: Sequence[int], shape: tuple[int, ...], device: str = "cpu") -> Tensor:
    """Draws the noise (B, *shape) of each sample from its own seed, whatever it is batched with and wherever it runs."""
    drawn = [torch.randn(shape, generator=torch.Generator().manual_seed(seed % 2**63)) for seed in seeds]
    return torch.stack(drawn).to(device)
