"""A step's clips and what is drawn for them, made beside the step before it where a GPU would wait. Needs torch alone."""

import math
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from components.diffusion.flow_matching import sample_timesteps, shift_of, shift_timesteps
from components.diffusion.tasks import deal_tasks, kept_frames
from components.train.steps import seed_of

if TYPE_CHECKING:
    from components.sections import Dit

Made = TypeVar("Made")


@dataclass(frozen=True)
class DitBatch:
    """This worker's clips of a step, with text_embeds (B, S, C), text_mask (B, S), and their ids.

    Attributes:
        latents: (B, C, T, H, W) of clips of one shape, or (C, T, H, W) of each, packed into one sequence; float16, as the text, or float32.
        latents_fps: latent frames a second, (B,).
        places: of its clips among those of all workers; None: it has all of them.
        whole: clips over all workers; None when there are no more.
        idle: its clips are another worker's and weigh nothing here; there are too few for all, and each has to compute something.
    """

    latents: Tensor | tuple[Tensor, ...]
    text_embeds: Tensor
    text_mask: Tensor
    clip_ids: tuple[str, ...]
    latents_fps: Tensor
    places: tuple[int, ...] | None = None
    whole: int | None = None
    idle: bool = False


@dataclass(frozen=True)
class Joined:
    """Batches that go to a device as one tensor: to a GPU from memory that is never paged out, so the CPU need not wait for it."""

    flat: Tensor
    shapes: Sequence[tuple[int, ...]]

    @classmethod
    def of(cls, tensors: Sequence[Tensor] | Tensor, device: torch.device, packed: bool = False) -> "Joined":
        """Copies tensors of the CPU, of one dtype and one shape as a batch, or packed: of any shapes, each as a batch of its own."""
        shapes = [(1, *tensor.shape) for tensor in tensors] if packed else [(len(tensors), *tensors[0].shape)]
        flat = torch.empty(sum(map(math.prod, shapes)), dtype=tensors[0].dtype, pin_memory=device.type == "cuda")
        torch.cat([tensor.flatten() for tensor in tensors], out=flat)
        return cls(flat, shapes)

    def on(self, device: torch.device) -> list[Tensor]:
        """Answers the batches on a device, in float32, which float16 becomes there."""
        flat = self.flat.to(device, non_blocking=True).float()
        parts = flat.split([math.prod(shape) for shape in self.shapes])
        return [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]


@dataclass(frozen=True)
class DrawnBatch:
    """A batch and what a step draws for it, on the way to a device.

    Attributes:
        latents, noise: (B, C, T, H, W), or packed, (1, C, T, H, W) of each clip; noise has one frame in a step that sees images.
        t: (B, T), or packed, (1, T) of each clip, as `Drawn` has it.
        text_embeds, text_mask: with the empty prompt where captions are dropped, the mask on the CPU.
        pace, clip_ids, idle: as `Drawn` and `DitBatch` have them; whole: clips over all workers.
    """

    latents: Joined
    noise: Joined
    t: Joined
    pace: int
    text_embeds: Joined
    text_mask: Tensor
    latents_fps: Joined
    packed: bool
    clip_ids: tuple[str, ...]
    whole: int
    idle: bool


def drawn_batch(
    settings: "Dit", batch: DitBatch, seed: int, shift_places: int | None, empty_prompt: Tensor, device: torch.device
) -> DrawnBatch:
    """Draws a step for a batch and puts together what a device is sent; all of it depends on (seed, batch) alone.

    Args:
        seed: of the step.
        shift_places, empty_prompt: as `train_dit` takes them.
    """
    drawn = draw(settings, batch, seed, shift_places)
    embeds, mask = drop_captions(batch.text_embeds, batch.text_mask, drawn.dropped, empty_prompt)
    packed = not isinstance(batch.latents, Tensor)
    return DrawnBatch(
        Joined.of(batch.latents, device, packed),
        Joined.of(drawn.noise, device, packed),
        Joined.of(drawn.t, device, packed),
        drawn.pace,
        Joined.of(embeds, device),
        mask.pin_memory() if device.type == "cuda" else mask,
        Joined.of(batch.latents_fps, device),
        packed,
        batch.clip_ids,
        batch.whole or len(batch.clip_ids),
        batch.idle,
    )


@dataclass(frozen=True)
class Drawn:
    """What a step draws for the clips of a share.

    Attributes:
        t: of each latent frame of each clip, (T,); 0 where one is kept.
        noise: of each clip, (C, T, H, W). In a step that sees images T is 1, whatever the clips have.
        dropped: (B,), True where a caption goes.
        pace: latent frames to a frame of tokens.
    """

    t: list[Tensor]
    noise: list[Tensor]
    dropped: Tensor
    pace: int


def draw(settings: "Dit", batch: DitBatch, seed: int, shift_places: int | None) -> Drawn:
    """Draws a step: what is dealt out among all clips from the step's seed, what is a clip's own from that and its place among them."""
    count = len(batch.clip_ids)
    whole, places, pace = batch.whole or count, batch.places or tuple(range(count)), settings.size.patch_size[0]
    generator = torch.Generator().manual_seed(seed)
    times = sample_timesteps(whole, generator, settings.timestep_mean, settings.timestep_std)
    dropped = torch.rand(whole, generator=generator) < settings.caption_dropout
    tasks = deal_tasks(dict(settings.tasks), whole, generator)
    images = float(torch.rand((), generator=generator)) < settings.image_share
    t, noise = [], []
    for place, latents in zip(places, batch.latents, strict=True):
        own = torch.Generator().manual_seed(seed_of(seed, place))
        channels, frames, height, width = latents.shape
        frames = 1 if images else frames
        shift = (
            settings.timestep_shift if shift_places is None else shift_of(settings.timestep_shift, frames * height * width, shift_places)
        )
        kept = kept_frames(tasks[place], -(-frames // pace), own).repeat_interleave(pace)[:frames]
        t.append(torch.where(kept, 0.0, shift_timesteps(times[place], shift)))
        noise.append(torch.randn(channels, frames, height, width, generator=own))
    return Drawn(t, noise, dropped[list(places)], pace)


def drop_captions(embeds: Tensor, mask: Tensor, dropped: Tensor, empty_prompt: Tensor) -> tuple[Tensor, Tensor]:
    """Puts the empty prompt in place of the captions that are dropped.

    Args:
        embeds: (B, S, C); mask: (B, S); dropped: (B,), True where a caption goes; empty_prompt: (S', C), S' <= S, is rounded as embeds are.
    """
    empty_embeds, empty_mask = torch.zeros_like(embeds[0]), torch.zeros_like(mask[0])
    empty_embeds[: len(empty_prompt)] = empty_prompt
    empty_mask[: len(empty_prompt)] = True
    return torch.where(dropped[:, None, None], empty_embeds, embeds), torch.where(dropped[:, None], empty_mask, mask)


def ahead(made: Iterator[Made]) -> Generator[Made, None, None]:
    """Answers what is made, each in a thread while the one before it is learned from; the thread ends when this is closed."""
    with ThreadPoolExecutor(1, "batches") as thread:
        coming = thread.submit(next, made, None)
        while (one := coming.result()) is not None:
            coming = thread.submit(next, made, None)
            yield one
