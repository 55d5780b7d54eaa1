"""Trains the diffusion transformer by flow matching on cached latents and text embeddings.

Everything random in step k is drawn for the whole batch by a generator seeded by (seed, k), so a run that was killed and resumed
ends with the same bits as one that was not, and one that goes on with another number of workers learns from the same steps.
"""

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from components.diffusion.flow_matching import interpolate, velocity_loss
from components.models.dit import Block, DiT
from components.models.precision import mixed_precision
from components.models.text_refiner import mask_of_padding
from components.train.checkpoint import Checkpoints, load_optimizer_tensors, newest_of_all, training_tensors, weights_in
from components.train.context import TrainContext
from components.train.context_parallel import as_group, sequence_group
from components.train.dit_draws import DitBatch, DrawnBatch, ahead, drawn_batch
from components.train.dit_validation import HeldOut, held_out_losses
from components.train.norms import AdaptiveClip
from components.train.optim import Muon, adamw_for, clip_gradients, linear_schedule, muon_for, set_learning_rate, update_ema
from components.train.sharding import is_wanted, spread
from components.train.shares import mean_over_workers, weighed
from components.train.steps import SkippedSteps, seed_of, tell_other_place, tell_warmup

if TYPE_CHECKING:
    from components.sections import Dit

logger = logging.getLogger("kinora")

ADAMW = ("patch_in.", "patch_out.", "time_in.", "modulation_out.", "text_refiner.into.")  # the first and the last layers


class Samples(Protocol):
    """Draws samples of a training under way.

    Attributes:
        skipped: how often they were not wanted when they were due.
    """

    skipped: int

    def is_wanted(self, step: int) -> bool: ...

    def __call__(self, step: int, model: nn.Module) -> None: ...


def train_dit(
    settings: "Dit",
    model: nn.Module,
    batches: Callable[[int], Iterator[DitBatch]],
    empty_prompt: Tensor,
    checkpoints: Checkpoints,
    context: TrainContext,
    on_sample: Samples | None = None,
    shift_places: int | None = None,
    held_out: Sequence[HeldOut] = (),
    step_places: int | None = None,
    from_storage: bool = False,
) -> nn.Module:
    """Trains to `settings.steps`, from the newest checkpoint when there is one, and answers the average of the weights.

    Args:
        batches: answers the batches from a step on, the same ones whenever it is asked; workers of one `settings.context_parallel` group
            have the same share.
        empty_prompt: (S, C), the embeddings of the empty prompt, which stand in for a dropped caption.
        on_sample: of rank 0 alone, called with (steps done, averaged model) every `settings.sample_every` steps, unless that is 0, where
            it wants that.
        shift_places: of latents (frames x height x width) that `settings.timestep_shift` is meant for, others have theirs by `shift_of`;
            None: all have it.
        held_out: clips whose loss under the average is reported every `settings.validate_every` steps, unless that is 0, and at the end;
            the same ones for all workers.
        step_places: of latents that a worker, or its group, has in a step, which bound how much is held out to the model at once; the
            same for all workers; None: nothing is known of them.
        from_storage: batches wait for storage, so they are made in a thread beside the steps, as those of a GPU always are.

    Raises:
        UnstableTrainingError: step after step without a gradient to follow.
        ValueError: blocks are to be compiled, and there is nothing to do that with.
    """
    device = torch.device(context.device)
    first, tensors = _resume(checkpoints, model, context)
    tell_warmup("dit", settings.warmup_steps, settings.steps, context)
    if settings.compile and isinstance(model, DiT):  # and no peer's, for a comparison
        model.compile_blocks()
    wrapped, kept = spread(model, Block, context, weights_in(tensors, "average."))
    place = as_group(context, settings.context_parallel)
    sequence = sequence_group(context, settings.context_parallel) if isinstance(model, DiT) else None
    if isinstance(model, DiT):
        model.sequence = sequence
    optimizer = optimizer_for(settings, model)
    load_optimizer_tensors(optimizer, dict(model.named_parameters()), tensors)
    skipped = SkippedSteps("dit", context, settings.skip_above)
    clip = AdaptiveClip(settings.max_grad_norm, settings.adaptive_clip)
    if tensors:
        skipped.restore(tensors["skipped"])
        clip.norms.restore(tensors["clip"])
    if on_sample is not None and "skipped_samples" in tensors:
        on_sample.skipped = int(tensors["skipped_samples"])
    del tensors
    model.train()
    tally = _Tally()
    context.begin(first)
    made = (
        drawn_batch(settings, batch, seed_of(settings.seed, step), shift_places, empty_prompt, device)
        for step, batch in zip(range(first, settings.steps), batches(first), strict=False)
    )
    with contextlib.closing(ahead(made) if from_storage or device.type == "cuda" else made) as drawn:
        for step, batch in enumerate(drawn, first):
            learning_rate = set_learning_rate(optimizer, linear_schedule(step, settings.steps, settings.warmup_steps))
            with _compiler_or_sentence():
                losses = _losses(settings, wrapped, batch, device)
            count = batch.whole
            loss = weighed(losses.mean(), 0 if batch.idle else len(losses), count, place)
            loss.backward()
            norm = clip_gradients(model.parameters(), clip.ceiling(count))
            if skipped.is_whole(step, norm, losses, batch.clip_ids, count):
                clip.add(norm, count)
                optimizer.step()
                update_ema(kept.parts, model, settings.ema_decay, step)
            optimizer.zero_grad(set_to_none=True)
            tally.add(loss, norm, count)
            done = step + 1
            last = done == settings.steps
            told: dict[str, float] = {}
            if last or done % settings.report_every == 0:
                told = {**tally.take(context), "skipped_steps": skipped.count, "learning_rate": learning_rate}
                if on_sample is not None:
                    told["skipped_samples"] = on_sample.skipped
            if held_out and (last or (settings.validate_every and done % settings.validate_every == 0)):
                with tally.at_rest():
                    told |= held_out_losses(settings, kept.parts, held_out, context, shift_places, sequence, step_places)
            if told:
                context.report(done, told)
            due = settings.sample_every and done % settings.sample_every == 0 and not last
            draws = due and is_wanted(on_sample is not None and on_sample.is_wanted(done), context)
            if (last or done % settings.checkpoint_every == 0) and (context.rank == 0 or context.sharded):
                state = training_tensors(model, kept.parts, optimizer, kept=context.rank == 0)
                state |= {"skipped": skipped.state(), "clip": clip.norms.state()}
                if on_sample is not None:
                    state["skipped_samples"] = torch.tensor(on_sample.skipped)
                if context.rank == 0:
                    checkpoints.save(done, state, {"threads": context.threads, "world_size": context.world_size})
                del state
            if draws:
                shown = kept.snapshot()
                if on_sample is not None:
                    on_sample(done, shown)
                del shown  # a copy of all weights, or it would be there until there is another one
    return kept.whole().eval()


def optimizer_for(settings: "Dit", model: nn.Module) -> torch.optim.AdamW | Muon:
    """Answers the optimiser of the settings; Muon is for what lies between the first and the last layers."""
    if settings.optimizer == "adamw":
        return adamw_for(model, settings.learning_rate, settings.weight_decay)
    biases = [name for name, _ in model.named_parameters() if name.endswith("modulation_bias")]  # no matrices, whatever their shape
    return muon_for(model, settings.learning_rate, settings.weight_decay, adamw=(*ADAMW, *biases))


def _losses(settings: "Dit", model: nn.Module, batch: DrawnBatch, device: torch.device) -> Tensor:
    """Answers the loss of each clip of a share, (B,), at its part of what is drawn for the whole batch."""
    latents, noise, t = (kind.on(device) for kind in (batch.latents, batch.noise, batch.t))
    clips = [x[:, :, : e.shape[2]] for x, e in zip(latents, noise, strict=True)]
    (embeds,), (fps,), mask = batch.text_embeds.on(device), batch.latents_fps.on(device), mask_of_padding(batch.text_mask, device)
    with mixed_precision(device):
        noisy = [interpolate(*each) for each in zip(clips, noise, t, strict=True)]
        times = [each[:, :: batch.pace] for each in t]
        if batch.packed:
            velocities = [v[None] for v in model([x[0] for x in noisy], [each[0] for each in times], embeds, mask, fps)]
        else:
            velocities = [model(noisy[0], times[0], embeds, mask, fps)]
    weight = settings.clip_loss_weight
    return torch.cat([velocity_loss(v, x, e, each, weight) for v, x, e, each in zip(velocities, clips, noise, t, strict=True)])


@contextlib.contextmanager
def _compiler_or_sentence() -> Iterator[None]:
    """Says of a pass through compiled blocks that there is nothing to compile them with."""
    try:
        yield
    except RuntimeError as error:
        from torch._dynamo.exc import BackendCompilerFailed  # loaded by whoever compiles, for seconds

        if not isinstance(error, BackendCompilerFailed):
            raise
        why = str(error).strip().splitlines()[0]
        raise ValueError(
            f"`dit.compile` cannot compile here ({why}); hint: install a C++ compiler, g++ for instance, or `--set dit.compile=false`"
        ) from error


def _resume(checkpoints: Checkpoints, model: nn.Module, context: TrainContext) -> tuple[int, dict[str, Tensor]]:
    """Puts back the weights of the newest whole checkpoint, and answers how many steps it had done and all its tensors; 0 without one."""
    found = newest_of_all(checkpoints, context)
    if found is None:
        return 0, {}
    step, tensors, meta = found
    model.load_state_dict(weights_in(tensors, "model."))
    tell_other_place(step, meta, context)
    return step, tensors


class _Tally:
    """Means of what happened since the last report."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._losses: list[Tensor] = []
        self._norms: list[float] = []
        self._clips, self._since = 0, time.monotonic()

    def add(self, loss: Tensor, norm: float, clips: int) -> None:
        if math.isfinite(norm):
            self._losses.append(loss.detach())  # a number only when it is told: to ask a GPU for it now would be to wait for the step
            self._norms.append(norm)
        self._clips += clips

    @contextlib.contextmanager
    def at_rest(self) -> Iterator[None]:
        """Leaves out of the rate what is done meanwhile."""
        begin = time.monotonic()
        yield
        self._since += time.monotonic() - begin

    def take(self, context: TrainContext) -> dict[str, float]:
        """Answers the means over the steps and all workers, who take them at the same moment."""
        losses = [loss.item() for loss in self._losses]
        seconds = max(1e-6, time.monotonic() - self._since)
        metrics: dict[str, Any] = {"clips_per_second": self._clips / seconds}
        if losses:
            metrics |= {"loss": sum(losses) / len(losses), "grad_norm": sum(self._norms) / len(self._norms)}
        self._clear()
        return mean_over_workers(metrics, context)
