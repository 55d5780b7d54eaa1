"""Trains the causal video VAE: what `vae_losses` answers, Muon, and an average of the weights. Needs torch alone.

All that is random in step k is drawn for the whole batch by a generator seeded by (seed, k), so a run that was killed and resumed
ends with the same bits as one that was not, and one that goes on with another number of workers learns from the same steps.
"""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from components.models.layers import ResidualBlock
from components.models.pixels import to_pixels
from components.models.precision import mixed_precision
from components.models.vae import VideoVae
from components.train.checkpoint import Checkpoints, load_optimizer_tensors, newest_of_all, training_tensors, weights_in
from components.train.context import TrainContext
from components.train.norms import AdaptiveClip
from components.train.optim import clip_gradients, linear_schedule, muon_for, set_learning_rate, update_ema
from components.train.sharding import is_wanted, spread
from components.train.shares import mean_over_workers, share_of, weighed
from components.train.steps import SkippedSteps, seed_of, tell_other_place, tell_warmup
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
    model.to(memory_format=torch.channels_last_3d).train()
    first, tensors = _resume(checkpoints, model, context)
    tell_warmup("vae", settings.warmup_steps, settings.steps, context)
    training = _Training(settings, model, tensors, context, perceptual)
    del tensors
    context.begin(first)
    for step, batch in zip(range(first, settings.steps), batches(first), strict=False):
        told = training.step(step, batch)
        done = step + 1
        last = done == settings.steps
        if last or done % settings.report_every == 0:
            context.report(done, mean_over_workers(told.shares(context), context) | told.of_all)
        due = last or (settings.sample_every and done % settings.sample_every == 0)
        if due and is_wanted(on_sample is not None and context.rank == 0, context):
            shown = training.average.whole(context.device)
            if on_sample is not None and context.rank == 0:
                on_sample(done, shown)
        if (last or done % settings.checkpoint_every == 0) and (context.rank == 0 or context.sharded):
            state = training.state()
            if context.rank == 0:
                meta = {"size": vars(model.size), "threads": context.threads, "world_size": context.world_size}
                checkpoints.save(done, state, meta)
    return training.average.whole(context.device).eval()


@dataclass(frozen=True)
class _Told:
    """What a step found.

    Attributes:
        figures: means over the clips of this worker, `here` of `whole`.
        of_all: what all workers find alike.
    """

    figures: dict[str, Tensor]
    here: int
    whole: int
    of_all: dict[str, float]

    def shares(self, context: TrainContext) -> dict[str, float]:
        return {name: float(weighed(value, self.here, self.whole, context)) for name, value in self.figures.items()}


class _Training:
    """All that a training holds and a checkpoint keeps: the model, its average, the optimiser, the judge, and what is usual of late."""

    def __init__(
        self,
        settings: "Vae",
        model: VideoVae,
        tensors: Mapping[str, Tensor],
        context: TrainContext,
        perceptual: nn.Module | None,
    ) -> None:
        self.settings, self.model, self.context, self.perceptual = settings, model, context, perceptual
        self.device, self.share = torch.device(context.device), share_of(context.rank, context.world_size)
        averaged = weights_in(tensors, "average.")
        self.wrapped, self.average = spread(model, ResidualBlock, context, averaged, ResidualBlock.stream.__name__)
        self.optimizer = muon_for(model, settings.learning_rate, settings.weight_decay, adamw=ADAMW)
        load_optimizer_tensors(self.optimizer, dict(model.named_parameters()), tensors)
        self.adversary = Adversary.of(settings, context, tensors)
        self.skipped = SkippedSteps("vae", context, settings.skip_above)
        self.clip = AdaptiveClip(settings.max_grad_norm, settings.adaptive_clip)
        if tensors:
            self.skipped.restore(tensors["skipped"])
            self.clip.norms.restore(tensors["clip"])

    def state(self) -> dict[str, Tensor]:
        """Answers what a checkpoint keeps."""
        state = training_tensors(self.model, self.average.parts, self.optimizer, kept=self.context.rank == 0)
        state |= {"skipped": self.skipped.state(), "clip": self.clip.norms.state()}
        return state | (self.adversary.state() if self.adversary is not None else {})

    def step(self, step: int, batch: ClipBatch) -> _Told:
        """Learns from a batch, unless its gradient is out of all proportion."""
        settings, context = self.settings, self.context
        generator = torch.Generator().manual_seed(seed_of(settings.seed, step))
        schedule = linear_schedule(step, settings.steps, settings.warmup_steps)
        rate = set_learning_rate(self.optimizer, schedule)
        here, whole = len(batch.frames), batch.whole or len(batch.frames)
        clips, passed = self._passed(batch, whole, generator)
        losses, figures = vae_losses(settings, clips, passed, self._looked_at(whole, clips, generator))
        loss = losses.mean()
        judge = self.adversary if self.adversary is not None and self.adversary.judges(step) else None
        if judge is not None:
            if step == settings.adversarial_from_step:
                for norms in (self.skipped.norms, self.clip.norms):  # what is usual without a judge is not with one
                    norms.forget()
            added, more = judge.loss(passed[0], losses, whole, self.model.last_layer)
            loss, figures = loss + added, figures | more
        weighed(loss, here, whole, context).backward()
        norm = clip_gradients(self.model.parameters(), self.clip.ceiling(whole))
        if self.skipped.is_whole(step, norm, losses, batch.clip_ids, whole):
            self.clip.add(norm, whole)
            self.optimizer.step()
            update_ema(self.average.parts, self.model, settings.ema_decay, step)
            if judge is not None:
                figures |= judge.learn(clips, passed[0], whole, schedule)
        self.optimizer.zero_grad(set_to_none=True)
        return _Told(figures, here, whole, {"gradient_norm": norm, "learning_rate": rate, "skipped_steps": float(self.skipped.count)})

    def _passed(self, batch: ClipBatch, whole: int, generator: torch.Generator) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Draws what the step sees, and answers it and what the model makes of it."""
        model = self.model
        view = draw_view(self.settings, batch.frames.shape[1:4], whole, model.period, model.side, generator)
        clips = seen(batch.frames, view, self.share, self.device)
        noise = torch.randn((whole, *model.latents_shape(*clips.shape[2:])), generator=generator)[self.share].to(self.device)
        with mixed_precision(self.device):
            return clips, self.wrapped(clips, noise)

    def _looked_at(self, whole: int, clips: Tensor, generator: torch.Generator) -> Callable[[Tensor, Tensor], Tensor] | None:
        """Draws the frames of a step that are compared by their look, and answers what compares them; None where that weighs nothing."""
        if not self.settings.perceptual_loss_weight:
            return None
        assert self.perceptual is not None
        frames = some_frames(whole, clips.shape[2], generator)[self.share]
        return partial(perceptual_loss, self.perceptual, frames.to(clips.device))


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


def _resume(checkpoints: Checkpoints, model: VideoVae, context: TrainContext) -> tuple[int, dict[str, Tensor]]:
    """Puts back the weights of the newest whole checkpoint, and answers how many steps it had done and all its tensors; 0 without one.

    Raises:
        ValueError: it is of a VAE of another size.
    """
    found = newest_of_all(checkpoints, context)
    if found is None:
        return 0, {}
    step, tensors, meta = found
    if meta["size"] != vars(model.size):
        raise ValueError(
            f"the checkpoints in `{checkpoints.folder}` are of a VAE of another size; hint: remove that folder, or set `vae.size` back"
        )
    model.load_state_dict(weights_in(tensors, "model."))
    logger.info("the video VAE goes on from step %d", step)
    tell_other_place(step, meta, context)
    return step, tensors
