"""Trains the causal video VAE: what `vae_losses` answers, Muon, and an average of the weights. Needs torch alone.

All that is random in step k is drawn for the whole batch by a generator seeded by (seed, k), so a run that was killed and resumed
ends with the same bits as one that was not, and one that goes on with another number of workers learns from the same steps.
"""

import copy
import logging
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from components.models.layers import ResidualBlock
from components.models.pixels import to_pixels
from components.models.vae import VideoVae
from components.train.checkpoint import Checkpoints, load_optimizer_tensors, load_weights, training_tensors
from components.train.context import TrainContext
from components.train.norms import AdaptiveClip
from components.train.optim import clip_gradients, linear_schedule, muon_for, set_learning_rate, update_ema
from components.train.sharding import Average, spread
from components.train.shares import mean_over_workers, share_of, weighed
from components.train.steps import SkippedSteps, mixed_precision, seed_of
from components.train.vae_adversary import Adversary
from components.train.vae_losses import perceptual_loss, psnr, some_frames, vae_losses
from components.train.views import draw_view, seen

if TYPE_CHECKING:
    from components.sections import Vae

logger = logging.getLogger("kinora")

ADAMW = ("first_", "later_")  # the linear maps, which start where they nearly stay


@dataclass(frozen=True)
class ClipBatch:
    """Clips of one shape: frames uint8 (B, T, H, W, 3), and their ids.

    Attributes:
        whole: clips of the batch over all workers, of which these are a share; None when there are no more.
    """

    frames: Tensor
    clip_ids: tuple[str, ...]
    whole: int | None = None


def train_vae(
    settings: "Vae",
    model: VideoVae,
    batches: Callable[[int], Iterator[ClipBatch]],
    checkpoints: Checkpoints,
    context: TrainContext,
    perceptual: nn.Module | None = None,
    on_sample: Callable[[int, VideoVae], None] | None = None,
) -> VideoVae:
    """Trains to `settings.steps`, from the newest checkpoint when there is one, and answers the average of the weights.

    Args:
        batches: answers the batches from a step on, the same ones whenever it is asked.
        perceptual: answers the distance of each picture from its other, where `perceptual_loss_weight` is not 0.
        on_sample: called on rank 0 with (steps done, averaged model) every `settings.sample_every` steps, unless that is 0, and at the end.

    Raises:
        UnstableTrainingError: step after step without a gradient to follow.
    """
    device = torch.device(context.device)
    model.to(device).to(memory_format=torch.channels_last_3d).train()
    average = copy.deepcopy(model).requires_grad_(False)
    first, tensors = _resume(checkpoints, model, average)
    wrapped = spread(model, ResidualBlock, context, ResidualBlock.stream.__name__)
    kept = Average(average, ResidualBlock, context)
    optimizer = muon_for(model, settings.learning_rate, settings.weight_decay, adamw=ADAMW)
    load_optimizer_tensors(optimizer, dict(model.named_parameters()), tensors)
    adversary = Adversary.of(settings, context, tensors)
    skipped, clip = SkippedSteps("vae", context, settings.skip_above), AdaptiveClip(settings.max_grad_norm, settings.adaptive_clip)
    if tensors:
        skipped.restore(tensors["skipped"])
        clip.norms.restore(tensors["clip"])
    del tensors
    share = share_of(context.rank, context.world_size)
    context.begin(first)
    for step, batch in zip(range(first, settings.steps), batches(first), strict=False):
        generator = torch.Generator().manual_seed(seed_of(settings.seed, step))
        schedule = linear_schedule(step, settings.steps, settings.warmup_steps)
        rate = set_learning_rate(optimizer, schedule)
        here, whole = len(batch.frames), batch.whole or len(batch.frames)
        view = draw_view(settings, batch.frames.shape[1:4], whole, model.period, model.side, generator)
        clips = seen(batch.frames, view, share, device)
        noise = torch.randn((whole, *model.latents_shape(*clips.shape[2:])), generator=generator)[share].to(device)
        with mixed_precision(device):
            passed = wrapped(clips, noise)
        looked_at = _looked_at(settings, perceptual, whole, clips, generator, context)
        losses, figures = vae_losses(settings, clips, passed, looked_at)
        loss = losses.mean()
        judge = adversary if adversary is not None and adversary.judges(step) else None
        if judge is not None and step == settings.adversarial_from_step:
            for norms in (skipped.norms, clip.norms):  # what is usual without a judge is not with one
                norms.forget()
        if judge is not None:
            added, more = judge.loss(passed[0], losses, whole, model.last_layer)
            loss, figures = loss + added, figures | more
        weighed(loss, here, whole, context).backward()
        norm = clip_gradients(model.parameters(), clip.ceiling)
        if skipped.is_whole(step, norm, losses, batch.clip_ids):
            clip.add(norm)
            optimizer.step()
            update_ema(kept.parts, model, settings.ema_decay, step)
            if judge is not None:
                figures |= judge.learn(clips, passed[0], whole, schedule)
        optimizer.zero_grad(set_to_none=True)
        done = step + 1
        last = done == settings.steps
        if last or done % settings.report_every == 0:
            told = mean_over_workers({name: float(weighed(value, here, whole, context)) for name, value in figures.items()}, context)
            context.report(done, told | {"gradient_norm": norm, "learning_rate": rate, "skipped_steps": float(skipped.count)})
        if last or (settings.sample_every and done % settings.sample_every == 0):
            shown = kept.whole()
            if on_sample is not None and context.rank == 0:
                on_sample(done, shown)
        if (last or done % settings.checkpoint_every == 0) and (context.rank == 0 or context.sharded):
            state = training_tensors(model, kept.parts, optimizer) | {"skipped": skipped.state(), "clip": clip.norms.state()}
            state |= adversary.state() if adversary is not None else {}
            if context.rank == 0:
                meta = {"size": vars(model.size), "threads": context.threads, "world_size": context.world_size}
                checkpoints.save(done, state, meta)
    return kept.whole().eval()


def _looked_at(
    settings: "Vae", net: nn.Module | None, whole: int, clips: Tensor, generator: torch.Generator, context: TrainContext
) -> Callable[[Tensor, Tensor], Tensor] | None:
    """Draws the frames of a step that are compared by their look, and answers what compares them; None where that weighs nothing."""
    if not settings.perceptual_loss_weight:
        return None
    assert net is not None
    frames = some_frames(whole, clips.shape[2], generator)[share_of(context.rank, context.world_size)]
    return partial(perceptual_loss, net, frames.to(clips.device))


@torch.no_grad()
def measure_psnr(model: VideoVae, batches: Iterable[ClipBatch]) -> float:
    """Answers the mean over clips of the PSNR of what the latents' means decode to; not a number without clips."""
    device, found = model.latents_mean.device, []
    for batch in batches:
        clips = to_pixels(batch.frames.to(device))
        found += psnr(model.decode(model.encode(clips)), clips).tolist()
    return sum(found) / len(found) if found else math.nan


@torch.no_grad()
def fit_normalisation(model: VideoVae, batches: Iterable[ClipBatch]) -> None:
    """Sets the model's normalisation to mean and standard deviation of each channel over clips."""
    total, squares, count = torch.zeros(()), torch.zeros(()), 0
    for batch in batches:
        mean, _ = model.moments(to_pixels(batch.frames.to(model.latents_mean.device)))
        values = mean.transpose(0, 1).flatten(1).double().cpu()  # (C, N)
        total, squares, count = total + values.sum(1), squares + values.square().sum(1), count + values.shape[1]
    mean = total / count
    model.set_normalisation(mean.float(), (squares / count - mean.square()).clamp(min=0).sqrt().float())


def _resume(checkpoints: Checkpoints, model: VideoVae, average: VideoVae) -> tuple[int, dict[str, Tensor]]:
    """Puts back the weights of the newest whole checkpoint, and answers how many steps it had done and all its tensors; 0 without one.

    Raises:
        ValueError: it is of a VAE of another size.
    """
    found = checkpoints.newest()
    if found is None:
        return 0, {}
    step, tensors, meta = found
    if meta["size"] != vars(model.size):
        raise ValueError(
            f"the checkpoints in `{checkpoints.folder}` are of a VAE of another size; hint: remove that folder, or set `vae.size` back"
        )
    load_weights(tensors, model, average)
    logger.info("the video VAE goes on from step %d", step)
    return step, tensors
