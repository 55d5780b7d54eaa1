"""Trains a CoCa on pictures and their captions: one straight loop, exact to resume. Needs torch alone."""

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from components.models.precision import mixed_precision
from components.train.checkpoint import Checkpoints, load_optimizer_tensors, newest_of_all, optimizer_tensors
from components.train.context import TrainContext
from components.train.optim import clip_gradients, cosine_schedule, muon_for, set_learning_rate
from components.train.shares import gathered, mean_over_workers, weighed
from components.train.steps import SkippedSteps, tell_other_place, tell_warmup

if TYPE_CHECKING:
    from components.sections import Captioner

logger = logging.getLogger("kinora")

ADAMW = (  # matrices that are tables of vectors, or the last layer; conv1 is Muon's, which made it learn motion many times faster
    "visual.positional_embedding",
    "visual.attn_pool.query",
    "visual.proj",
    "text.token_embedding",
    "text.positional_embedding",
    "text.text_projection",
    "text_decoder.text_projection",
)
MAX_LOGIT_SCALE = math.log(100)
PADDING = 0  # the token that is no word


@dataclass(frozen=True)
class CaptionBatch:
    """Pictures float (B, 3, image_size, image_size), and the tokens of their captions (B, context_length).

    Attributes:
        whole: clips of the batch over all workers, of which these are a share; None when there are no more.
    """

    pictures: Tensor
    tokens: Tensor
    whole: int | None = None


def train_captioner(
    settings: "Captioner",
    model: nn.Module,
    loss: Callable[..., Mapping[str, Tensor]],
    batches: Callable[[int], Iterator[CaptionBatch]],
    checkpoints: Checkpoints,
    context: TrainContext,
) -> nn.Module:
    """Trains for `settings.steps` steps, from the newest checkpoint on, and answers the model.

    Args:
        model: a CoCa; what it answers to (pictures, tokens) is passed to the loss by name.
        loss: answers its weighted parts by name, as OpenCLIP's CoCaLoss does with `output_dict=True`; it is that of one process.
        batches: answers the batches from a step on; a step's batch depends on nothing but the step.
    """
    torch.manual_seed(settings.seed)
    model.to(context.device).train()
    optimizer = muon_for(model, settings.learning_rate, settings.weight_decay, adamw=ADAMW, betas=(0.9, 0.99))
    first = _resume(model, optimizer, checkpoints, context)
    tell_warmup("captioner", settings.warmup_steps, settings.steps, context)
    called = context.wrap(model)
    skipped = SkippedSteps("captioner")
    context.begin(first)
    for step, batch in zip(range(first, settings.steps), batches(first), strict=False):
        scale = cosine_schedule(step, settings.steps, settings.warmup_steps)
        rate = set_learning_rate(optimizer, scale)
        optimizer.zero_grad(set_to_none=True)
        with mixed_precision(context.device):
            outputs = called(batch.pictures.to(context.device), batch.tokens.to(context.device))
            parts = shared_loss(loss, outputs, batch.whole or len(batch.tokens), context)
        torch.stack(list(parts.values())).sum().backward()
        norm = clip_gradients(model.parameters(), settings.max_grad_norm)
        if skipped.is_whole(step, norm):
            optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=MAX_LOGIT_SCALE)  # type: ignore[operator]
        done = step + 1
        if done % settings.report_every == 0 or done == settings.steps:
            told = mean_over_workers({name: part.item() for name, part in parts.items()}, context)
            context.report(done, {**told, "gradient_norm": norm, "learning_rate": rate})
        if context.rank == 0 and (done % settings.checkpoint_every == 0 or done == settings.steps):
            _save(done, model, optimizer, checkpoints, context)
    return model.eval()


def shared_loss(
    loss: Callable[..., Mapping[str, Tensor]], outputs: Mapping[str, Tensor], whole: int, context: TrainContext
) -> Mapping[str, Tensor]:
    """Answers the parts of the loss so that their mean over the workers is the loss of the whole batch, and so are the gradients.

    Each clip is told apart from all clips of the batch, so every worker sees the features of all; the loss of captions is a mean
    over words, so a worker's weighs by its words.
    """
    if context.world_size == 1:
        return loss(**outputs, output_dict=True)
    features = {name: gathered(outputs[name], whole, context) for name in ("image_features", "text_features")}
    parts = dict(loss(**{**outputs, **features}, output_dict=True))
    words = (outputs["labels"] != PADDING).sum()
    everyones = words.clone()
    torch.distributed.all_reduce(everyones)
    parts["caption_loss"] = weighed(parts["caption_loss"], int(words), int(everyones), context)
    return parts


def _resume(model: nn.Module, optimizer: torch.optim.Optimizer, checkpoints: Checkpoints, context: TrainContext) -> int:
    newest = newest_of_all(checkpoints, context)
    if newest is None:
        return 0
    step, tensors, meta = newest
    model.load_state_dict({name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")})
    load_optimizer_tensors(optimizer, dict(model.named_parameters()), tensors)
    logger.info("the captioner goes on from step %d", step)
    tell_other_place(step, meta, context)
    return step


def _save(step: int, model: nn.Module, optimizer: torch.optim.Optimizer, checkpoints: Checkpoints, context: TrainContext) -> None:
    weights = {f"model.{name}": value for name, value in model.state_dict().items()}
    state = optimizer_tensors(optimizer, dict(model.named_parameters()))
    checkpoints.save(step, {**weights, **state}, {"threads": context.threads, "world_size": context.world_size})
