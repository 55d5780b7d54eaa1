"""The loss on held-out clips at fixed timesteps and noise, whose figures of two moments differ by the weights alone. Needs torch alone."""

import contextlib
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from components.diffusion.flow_matching import interpolate, shift_of, timestep_quantiles, velocity_loss
from components.models.dit import DiT
from components.models.precision import mixed_precision
from components.models.sequence_parallel import SequenceGroup
from components.train.context import TrainContext
from components.train.context_parallel import as_group
from components.train.shares import mean_over_workers, share_of

if TYPE_CHECKING:
    from components.sections import Dit

PERCENTS = tuple(range(10, 100, 10))  # quantiles of the timesteps that training draws
PLACES_AT_ONCE = 2**17  # of latents, frames x height x width, in one pass of the model, and no more than a step has


@dataclass(frozen=True)
class HeldOut:
    """A clip that no step learns from: latents (C, T, H, W), text_embeds (S, C), its id and its latent frames a second."""

    clip_id: str
    latents: Tensor
    text_embeds: Tensor
    latents_fps: float


@torch.no_grad()
def held_out_losses(
    settings: "Dit",
    model: nn.Module,
    clips: Sequence[HeldOut],
    context: TrainContext,
    shift_places: int | None = None,
    sequence: SequenceGroup | None = None,
    step_places: int | None = None,
) -> dict[str, float]:
    """Answers `val_loss_t10` to `val_loss_t90`, the mean loss of clips at quantiles of t, and `val_loss`, their mean.

    Workers share the clips and call this at the same moment; each passes the model as often, as one that is shared out asks for. Those
    that share out the tokens of a clip have the same clips.

    Args:
        shift_places, step_places: as `train_dit` takes them.
        sequence: workers that share out tokens with this one, where there are any; the model is then a `DiT`.
    """
    most = max(math.prod(clip.latents.shape[1:]) for clip in clips)
    at_once = max(1, min(PLACES_AT_ONCE, step_places or PLACES_AT_ONCE) // most)
    place = as_group(context, settings.context_parallel)
    mine = clips[share_of(place.rank, place.world_size)]
    total = torch.zeros(len(PERCENTS), dtype=torch.float64)
    with _shared_out(model, sequence):
        for turn in range(-(-len(clips) // place.world_size)):
            clip = mine[turn] if turn < len(mine) else clips[0]
            losses = _losses(settings, model, clip, torch.device(context.device), at_once, shift_places)
            total += losses.double().cpu() * (turn < len(mine))
    reshard: Callable[[], None] | None = getattr(model, "reshard", None)
    if reshard is not None:  # what FSDP2 leaves gathered after a pass has no part to average into
        reshard()
    means = (total * place.world_size / len(clips)).tolist()
    named = {f"val_loss_t{percent}": mean for percent, mean in zip(PERCENTS, means, strict=True)}
    return mean_over_workers({"val_loss": sum(means) / len(means), **named}, context)


@contextlib.contextmanager
def _shared_out(model: nn.Module, sequence: SequenceGroup | None) -> Iterator[None]:
    """Lets workers share out the tokens of a model that nobody else calls; afterwards it can be copied again."""
    if sequence is None or not isinstance(model, DiT):
        yield
        return
    model.sequence = sequence
    try:
        yield
    finally:
        model.sequence = None


def _losses(settings: "Dit", model: nn.Module, clip: HeldOut, device: torch.device, at_once: int, shift_places: int | None) -> Tensor:
    """Answers a clip's loss at each quantile, (quantiles,); its noise is of its id, so it is the same in every training."""
    seed = int.from_bytes(hashlib.sha256(clip.clip_id.encode()).digest()[:7], "big")
    noise = torch.randn(clip.latents.shape, generator=torch.Generator().manual_seed(seed)).to(device)
    shift = settings.timestep_shift
    if shift_places is not None:
        shift = shift_of(shift, math.prod(clip.latents.shape[1:]), shift_places)
    times = timestep_quantiles(torch.tensor(PERCENTS) / 100, settings.timestep_mean, settings.timestep_std, shift)
    latents, embeds = clip.latents.to(device), clip.text_embeds.to(device)
    found = []
    for t in times.to(device).split(at_once):
        clips, noises, texts = (part.expand(len(t), *part.shape) for part in (latents, noise, embeds))
        fps = torch.full((len(t),), clip.latents_fps, device=device)
        with mixed_precision(device):
            velocity = model(interpolate(clips, noises, t), t, texts, None, fps)
        found.append(velocity_loss(velocity, clips, noises, t, settings.clip_loss_weight))
    return torch.cat(found)
