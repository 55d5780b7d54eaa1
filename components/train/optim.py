"""Muon for the matrices and AdamW for the rest in one optimiser, learning rates by step, gradient norms and averages of weights."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from components.train.sharding import part_like, whole

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5
WARMUP_SHARE = 0.1  # of the steps, where those of the warm-up are not fewer than all


class Muon(torch.optim.Optimizer):
    """Muon for hidden matrices and convolutions, AdamW for everything else.

    A matrix moves along its momentum made orthogonal, so every direction moves equally far; a convolution counts as the matrix
    (out, in * kernel). Its updates are scaled to the size that AdamW's have, so one learning rate does for both kinds.
    States are plain tensors: `momentum` of a matrix; `mean`, `square` and `count` of the rest.

    Args:
        matrices: parameters of two or more dimensions, stepped by Muon.
        others: parameters stepped by AdamW; they get no weight decay.
        learning_rate: of both, before `set_learning_rate` scales it.
        weight_decay: decoupled, of the matrices.
        momentum: of Muon, with Nesterov's look ahead.
        betas: of AdamW.

    Source: Jordan et al., Muon (2024); Liu et al., Muon is Scalable for LLM Training (arXiv 2502.16982), section 2.2.
    """

    def __init__(
        self,
        matrices: Iterable[Tensor],
        others: Iterable[Tensor],
        learning_rate: float,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.95),
    ) -> None:
        matrices, others = list(matrices), list(others)
        flat = next((p for p in matrices if p.ndim < 2), None)
        if flat is not None:
            raise ValueError(f"Muon steps matrices, not a parameter of shape {tuple(flat.shape)}; hint: pass it in `others`")
        groups = [
            {"params": matrices, "kind": "muon", "weight_decay": weight_decay, "momentum": momentum},
            {"params": others, "kind": "adamw", "weight_decay": 0.0, "beta1": betas[0], "beta2": betas[1], "eps": 1e-8},
        ]
        super().__init__([group for group in groups if group["params"]], {"lr": learning_rate, "base_lr": learning_rate})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Moves every parameter that has a gradient."""
        answer = closure() if closure is not None else None
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters:
                (self._step_muon if group["kind"] == "muon" else self._step_adamw)(parameters, group)
        return answer

    def _step_muon(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        for parameter in parameters:
            gradient = parameter.grad
            assert gradient is not None
            state = self.state[parameter]
            if not state:
                state["momentum"] = torch.zeros_like(parameter)
            state["momentum"].lerp_(gradient, 1 - group["momentum"])
            ahead = gradient.lerp(state["momentum"], group["momentum"])
            matrix = whole(ahead).flatten(1)  # (out, in * kernel)
            scale = 0.2 * math.sqrt(max(matrix.shape))  # AdamW's usual root mean square
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(part_like(orthogonal(matrix).view(parameter.shape), parameter), alpha=-group["lr"] * scale)

    def _step_adamw(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter] = {
                    "mean": torch.zeros_like(parameter),
                    "square": torch.zeros_like(parameter),
                    "count": torch.zeros((), dtype=torch.float32),
                }
        states = [self.state[parameter] for parameter in parameters]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        means, squares = [state["mean"] for state in states], [state["square"] for state in states]
        torch._foreach_lerp_(means, gradients, 1 - group["beta1"])
        torch._foreach_mul_(squares, group["beta2"])
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - group["beta2"])
        roots = torch._foreach_sqrt(squares)
        for state, parameter, mean, root in zip(states, parameters, means, roots, strict=True):
            state["count"] += 1
            count = state["count"].item()
            root.div_(math.sqrt(1 - group["beta2"] ** count)).add_(group["eps"])
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.addcdiv_(mean, root, value=-group["lr"] / (1 - group["beta1"] ** count))


def orthogonal(matrix: Tensor, steps: int = NEWTON_SCHULZ_STEPS) -> Tensor:
    """Brings all singular values of a matrix near one by a quintic Newton-Schulz iteration.

    Every iterate is (a polynomial of the first Gram matrix) times the matrix, so on a CPU the iteration runs on that small
    square alone: a quarter of the work for a long matrix. On a GPU it runs in bfloat16 on the matrix, which bears rounding better.

    Args:
        matrix: (rows, columns).

    Returns:
        (rows, columns), in the dtype of the input, singular values in about [0.7, 1.2].
    """
    a, b, c = NEWTON_SCHULZ
    x = matrix.to(torch.bfloat16) if matrix.is_cuda else matrix.float()
    tall = x.shape[0] > x.shape[1]
    x = x.mT if tall else x
    x = x / x.norm().clamp(min=1e-7)
    if matrix.is_cuda:
        for _ in range(steps):
            gram = x @ x.mT  # (short, short)
            x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    else:
        gram, product = x @ x.mT, torch.eye(len(x))  # (short, short)
        for step in range(steps):
            factor = torch.addmm(gram, gram, gram, beta=b, alpha=c)
            factor.diagonal().add_(a)
            product = factor @ product if step else factor
            gram = factor @ gram @ factor if step < steps - 1 else gram
        x = product @ x
    return (x.mT if tall else x).to(matrix.dtype).contiguous()


def muon_for(
    model: nn.Module,
    learning_rate: float,
    weight_decay: float = 0.0,
    *,
    adamw: tuple[str, ...] = (),
    betas: tuple[float, float] = (0.9, 0.95),
) -> Muon:
    """Answers a Muon over a model's trainable parameters.

    Args:
        adamw: name prefixes of parameters that AdamW steps although they are matrices: embeddings, tokens, first and last layers.
    """
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    is_matrix = {name: parameter.ndim >= 2 and min(len(parameter), parameter.numel() // len(parameter)) > 1 for name, parameter in named}
    matrices = [parameter for name, parameter in named if is_matrix[name] and not name.startswith(adamw)]
    chosen = {id(parameter) for parameter in matrices}
    others = [parameter for _, parameter in named if id(parameter) not in chosen]
    return Muon(matrices, others, learning_rate, weight_decay, betas=betas)


def adamw_for(
    model: nn.Module, learning_rate: float, weight_decay: float = 0.0, betas: tuple[float, float] = (0.9, 0.95)
) -> torch.optim.AdamW:
    """Answers an AdamW over a model's trainable parameters; only those of two or more dimensions decay."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay, "base_lr": learning_rate},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0, "base_lr": learning_rate},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=learning_rate, betas=betas, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, scale: float) -> float:
    """Sets every group to `scale` times its `base_lr`, and answers the first group's rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * scale
    return optimizer.param_groups[0]["lr"]


def fitted_warmup(warmup_steps: int, steps: int) -> int:
    """Answers the steps of a warm-up: those that are set, or a tenth of all where they would leave none at the full rate."""
    return warmup_steps if warmup_steps < steps else int(WARMUP_SHARE * steps)


def linear_schedule(step: int, steps: int, warmup_steps: int = 0, constant_share: float = 0.0) -> float:
    """Answers the scale of the learning rate at a step: up in a line, level, then down in a line that ends at zero.

    Args:
        step: from 0 to steps - 1.
        warmup_steps: as `fitted_warmup` takes them.
        constant_share: of the steps after the warm-up, before the way down.
    """
    warmup_steps = fitted_warmup(warmup_steps, steps)
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    level_until = warmup_steps + constant_share * (steps - warmup_steps)
    return min(1.0, max(0.0, (steps - step) / max(1.0, steps - level_until)))


def cosine_schedule(step: int, steps: int, warmup_steps: int = 0, floor: float = 0.0) -> float:
    """Answers the scale of the learning rate at a step: up in a line, then half a cosine down to `floor`.

    Args:
        warmup_steps: as `fitted_warmup` takes them.
    """
    warmup_steps = fitted_warmup(warmup_steps, steps)
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    part = (step - warmup_steps) / max(1, steps - warmup_steps)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, part)))


def clip_gradients(parameters: Iterable[Tensor], max_norm: float) -> float:
    """Scales gradients down to a global norm of at most `max_norm` and answers the norm before.

    A norm that is not finite leaves the gradients as they are: whoever called skips the step.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return 0.0
    norm = whole(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))).item()
    if math.isfinite(norm) and norm > max_norm:
        torch._foreach_mul_(gradients, max_norm / norm)
    return norm


@torch.no_grad()
def update_ema(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Moves the running average of weights towards the model's.

    Args:
        model: what of it does not learn is left as it is.
        decay: share that stays, once the average is old enough; until then, while that is less, step / (step + 10) of it stays: the first
            step is taken whole, and the newest weights count for more than in a plain mean of all.
        step: optimiser steps done before this one.
    """
    weight = 1 - min(decay, step / (step + 10))
    pairs = zip(average.parameters(), model.parameters(), strict=True)
    learned = [(kept, newest) for kept, newest in pairs if newest.requires_grad]
    torch._foreach_lerp_([kept for kept, _ in learned], [newest for _, newest in learned], weight)
    for kept, newest in zip(average.buffers(), model.buffers(), strict=True):
        kept.copy_(newest)
