"""Trains the diffusion transformer by flow matching on cached latents and text embeddings.

Everything random in step k is drawn for the whole batch by a generator seeded by (seed, k), so a run that was killed and resumed
ends with the same bits as one that was not, and one that goes on with another number of workers learns from the same steps.
"""

import copy
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from components.diffusion.flow_matching import interpolate, sample_timesteps, velocity_loss
from components.models.dit import Block
from components.train.checkpoint import Checkpoints, load_optimizer_tensors, load_weights, training_tensors
from components.train.context import TrainContext
from components.train.optim import adamw_for, clip_gradients, linear_schedule, set_learning_rate, update_ema
from components.train.sharding import Average, spread
from components.train.shares import mean_over_workers, share_of, weighed
from components.train.steps import SkippedSteps, mixed_precision, seed_of

if TYPE_CHECKING:
    from components.sections import Dit

logger = logging.getLogger("kinora")


@dataclass(frozen=True)
class DitBatch:
    """Clips of one shape: latents (B, C, T, H, W), text_embeds (B, S, C), text_mask (B, S), and their ids.

    Attributes:
        whole: clips of the batch over all workers, of which these are a share; None when there are no more.
    """

    latents: Tensor
    text_embeds: Tensor
    text_mask: Tensor
    clip_ids: tuple[str, ...]
    whole: int | None = None


def train_dit(
    settings: "Dit",
    model: nn.Module,
    batches: Callable[[int], Iterator[DitBatch]],
    empty_prompt: Tensor,
    checkpoints: Checkpoints,
    context: TrainContext,
    on_sample: Callable[[int, nn.Module], None] | None = None,
) -> nn.Module:
    """Trains to `settings.steps`, from the newest checkpoint when there is one, and answers the average of the weights.

    Args:
        batches: answers the batches from a step on, the same ones whenever it is asked.
        empty_prompt: (S, C), the embeddings of the empty prompt, which stand in for a dropped caption.
        on_sample: called on rank 0 with (steps done, averaged model) every `settings.sample_every` steps.

    Raises:
        UnstableTrainingError: step after step without a finite gradient.
    """
    device = torch.device(context.device)
    model = model.to(device)
    average = copy.deepcopy(model).requires_grad_(False)
    first, tensors = _resume(checkpoints, model, average)
    wrapped, kept = spread(model, Block, context), Average(average, Block, context)
    optimizer = adamw_for(model, settings.learning_rate, settings.weight_decay)
    load_optimizer_tensors(optimizer, dict(model.named_parameters()), tensors)
    del tensors
    model.train()
    empty_prompt = empty_prompt.to(device)
    tally, skipped = _Tally(), SkippedSteps("dit")
    context.begin(first)
    for step, batch in zip(range(first, settings.steps), batches(first), strict=False):
        generator = torch.Generator().manual_seed(seed_of(settings.seed, step))
        learning_rate = set_learning_rate(optimizer, linear_schedule(step, settings.steps, settings.warmup_steps))
        losses = _losses(settings, wrapped, batch, empty_prompt, generator, context)
        loss = weighed(losses.mean(), len(losses), batch.whole or len(losses), context)
        loss.backward()
        norm = clip_gradients(model.parameters(), settings.max_grad_norm)
        if skipped.is_whole(step, norm, losses, batch.clip_ids):
            optimizer.step()
            update_ema(kept.parts, model, settings.ema_decay, step)
        optimizer.zero_grad(set_to_none=True)
        tally.add(loss, norm, batch.whole or len(losses))
        done = step + 1
        last = done == settings.steps
        if last or done % settings.report_every == 0:
            context.report(done, {**tally.take(context), "skipped_steps": skipped.count, "learning_rate": learning_rate})
        if (last or done % settings.checkpoint_every == 0) and (context.rank == 0 or context.sharded):
            state = training_tensors(model, kept.parts, optimizer)
            if context.rank == 0:
                checkpoints.save(done, state, {"threads": context.threads})
        if done % settings.sample_every == 0 and not last:
            shown = kept.whole()
            if on_sample is not None and context.rank == 0:
                on_sample(done, shown)
    return kept.whole().eval()


def _losses(
    settings: "Dit", model: nn.Module, batch: DitBatch, empty_prompt: Tensor, generator: torch.Generator, context: TrainContext
) -> Tensor:
    """Answers the loss of each clip of a share, (B,), at its part of the timesteps, noise and dropped captions of the whole batch."""
    device = torch.device(context.device)
    latents = batch.latents.to(device)
    whole, share = batch.whole or len(latents), share_of(context.rank, context.world_size)
    times = sample_timesteps(whole, generator, settings.timestep_mean, settings.timestep_std, settings.timestep_shift)
    t = times[share].to(device)
    noise = torch.randn((whole, *latents.shape[1:]), generator=generator)[share].to(device)
    dropped = (torch.rand(whole, generator=generator) < settings.caption_dropout)[share].to(device)
    embeds, mask = drop_captions(batch.text_embeds.to(device), batch.text_mask.to(device), dropped, empty_prompt)
    with mixed_precision(device):
        velocity = model(interpolate(latents, noise, t), t, embeds, mask)
    return velocity_loss(velocity, latents, noise, t, settings.clip_loss_weight)


def drop_captions(embeds: Tensor, mask: Tensor, dropped: Tensor, empty_prompt: Tensor) -> tuple[Tensor, Tensor]:
    """Puts the empty prompt in place of the captions that are dropped.

    Args:
        embeds: (B, S, C); mask: (B, S); dropped: (B,), True where a caption goes; empty_prompt: (S', C), S' <= S.
    """
    empty_embeds, empty_mask = torch.zeros_like(embeds[0]), torch.zeros_like(mask[0])
    empty_embeds[: len(empty_prompt)] = empty_prompt
    empty_mask[: len(empty_prompt)] = True
    return torch.where(dropped[:, None, None], empty_embeds, embeds), torch.where(dropped[:, None], empty_mask, mask)


def _resume(checkpoints: Checkpoints, model: nn.Module, average: nn.Module) -> tuple[int, dict[str, Tensor]]:
    """Puts back the weights of the newest whole checkpoint, and answers how many steps it had done and all its tensors; 0 without one."""
    found = checkpoints.newest()
    if found is None:
        return 0, {}
    step, tensors, _ = found
    load_weights(tensors, model, average)
    return step, tensors


class _Tally:
    """Means of what happened since the last report."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._losses: list[float] = []
        self._norms: list[float] = []
        self._clips, self._since = 0, time.monotonic()

    def add(self, loss: Tensor, norm: float, clips: int) -> None:
        if math.isfinite(norm):
            self._losses.append(loss.item())
            self._norms.append(norm)
        self._clips += clips

    def take(self, context: TrainContext) -> dict[str, float]:
        """Answers the means over the steps and all workers, who take them at the same moment."""
        seconds = max(1e-6, time.monotonic() - self._since)
        metrics: dict[str, Any] = {"clips_per_second": self._clips / seconds}
        if self._losses:
            metrics |= {"loss": sum(self._losses) / len(self._losses), "grad_norm": sum(self._norms) / len(self._norms)}
        self._clear()
        return mean_over_workers(metrics, context)
