"""The adversarial stage of the video VAE's training: a discriminator, its optimiser, and how much the VAE heeds it. Needs torch alone."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.func import functional_call

from components.models.discriminator import Discriminator, discriminator_losses, generator_losses
from components.models.precision import mixed_precision
from components.train.checkpoint import load_optimizer_tensors, optimizer_tensors
from components.train.context import TrainContext
from components.train.optim import adamw_for, clip_gradients, set_learning_rate
from components.train.shares import weighed

if TYPE_CHECKING:
    from components.sections import Vae

WEIGHTS, OPTIMIZER = "discriminator.", "discriminator_optimizer."  # prefixes in a checkpoint
BETAS = (0.5, 0.9)
MAX_WEIGHT = 1e4


class Adversary:
    """What judges reconstructions from a step on, learning beside the VAE.

    It takes its step after the VAE's, on the same clips. Every worker keeps a whole one, also where the VAE is sharded.
    """

    def __init__(self, settings: "Vae", context: TrainContext) -> None:
        self.settings, self.context = settings, context
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.net = Discriminator(settings.discriminator_channels)
        self.net.to(context.device).to(memory_format=torch.channels_last_3d)
        self.optimizer = adamw_for(self.net, settings.discriminator_learning_rate, betas=BETAS)
        self._wrapped = context.wrap(self.net)

    @classmethod
    def of(cls, settings: "Vae", context: TrainContext, tensors: Mapping[str, Tensor]) -> "Adversary | None":
        """Answers one that goes on from a checkpoint's tensors, if there are any; None where it weighs nothing."""
        if not settings.adversarial_weight:
            return None
        adversary = cls(settings, context)
        adversary.load(tensors)
        return adversary

    def judges(self, step: int) -> bool:
        """Tells whether the stage has begun at a step, counted from 0."""
        return step >= self.settings.adversarial_from_step

    def loss(self, reconstruction: Tensor, losses: Tensor, whole: int, last_layer: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Answers what the VAE's loss grows by, a mean over this worker's share, and figures of it.

        The discriminator's opinion weighs as much as all other losses together, times `adversarial_weight`, by the gradients of both
        at the decoder's last layer.

        Args:
            reconstruction: (B, 3, T, H, W), with its graph.
            losses: (B,), all others of each clip.
            whole: clips of the batch over all workers.
            last_layer: weights of the decoder that both gradients are measured at.

        Source: Esser et al., Taming Transformers (CVPR 2021), equation 7.
        """
        here, context = len(losses), self.context
        frozen = {name: parameter.detach() for name, parameter in self.net.named_parameters()}
        with mixed_precision(context.device):
            logits = functional_call(self.net, frozen, (reconstruction,))
        wanted = generator_losses(logits.float()).mean()
        pulls = [self._pull(weighed(mean, here, whole, context), last_layer) for mean in (losses.mean(), wanted)]
        weight = (pulls[0] / (pulls[1] + 1e-4)).clamp(max=MAX_WEIGHT)
        return self.settings.adversarial_weight * weight * wanted, {"adversarial": wanted.detach(), "adaptive_weight": weight}

    def learn(self, clips: Tensor, reconstruction: Tensor, whole: int, rate: float) -> dict[str, Tensor]:
        """Takes one step of the discriminator, unless its gradient is not finite, and answers figures of it.

        Args:
            clips, reconstruction: (B, 3, T, H, W), real and made.
            rate: scale of the learning rate.
        """
        set_learning_rate(self.optimizer, rate)
        with mixed_precision(self.context.device):
            logits = self._wrapped(torch.cat([clips, reconstruction.detach()])).float()
        real, fake = logits.chunk(2)
        loss = discriminator_losses(real, fake).mean()
        weighed(loss, len(clips), whole, self.context).backward()
        norm = clip_gradients(self.net.parameters(), self.settings.max_grad_norm)
        if math.isfinite(norm):
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return {"discriminator_loss": loss.detach(), "logits_real": real.detach().mean(), "logits_fake": fake.detach().mean()}

    def state(self) -> dict[str, Tensor]:
        """Answers what its next step depends on, for a checkpoint."""
        weights = {WEIGHTS + name: value for name, value in self.net.state_dict().items()}
        return weights | optimizer_tensors(self.optimizer, dict(self.net.named_parameters()), OPTIMIZER)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Puts back what `state` answered; a checkpoint of a training without this stage leaves it at its start."""
        found = {name.removeprefix(WEIGHTS): value for name, value in tensors.items() if name.startswith(WEIGHTS)}
        if found:
            self.net.load_state_dict(found)
            load_optimizer_tensors(self.optimizer, dict(self.net.named_parameters()), tensors, OPTIMIZER)

    def _pull(self, loss: Tensor, last_layer: Tensor) -> Tensor:
        """Answers the length of the whole batch's gradient at the last layer."""
        gradient = torch.autograd.grad(loss, last_layer, retain_graph=True)[0].float()
        if self.context.world_size > 1:
            torch.distributed.all_reduce(gradient)
            gradient /= self.context.world_size
        return torch.linalg.vector_norm(gradient)
