"""Low-rank adapters: the linear layers of attention and feed-forward learn what two thin matrices can say, all else stays.

Source: Hu et al., LoRA (arXiv 2106.09685), with a scale of 1.
"""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from components.models.attention import Attention, FeedForward
from components.models.linear import Linear


class LoraLinear(Linear):
    """A linear layer that stays, plus `up` times `down`, which learn; it begins as the layer was, since `up` is zero.

    Args:
        layer: whose weight and bias it takes.
        rank: rows of `down` (rank, in) and columns of `up` (out, rank).
    """

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        self.requires_grad_(False)
        self.down = nn.Parameter(layer.weight.new_empty(rank, layer.in_features))
        self.up = nn.Parameter(layer.weight.new_zeros(layer.out_features, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + F.linear(F.linear(x, self.down), self.up)

    def merged(self) -> Tensor:
        """Answers the weight of the plain layer that does the same."""
        return self.weight.detach() + self.up.detach() @ self.down.detach()


def adapt(model: nn.Module, rank: int) -> None:
    """Gives the linear layers of a model's attentions and feed-forwards an adapter, and keeps all else from learning.

    Raises:
        ValueError: a rank as large as a layer, which would have more to learn than the layer itself.
    """
    parts = [part for part in model.modules() if isinstance(part, Attention | FeedForward)]
    layers = [(part, name, layer) for part in parts for name, layer in part.named_children() if isinstance(layer, nn.Linear)]
    smallest = min(min(layer.in_features, layer.out_features) for _, _, layer in layers)
    if not 0 < rank < smallest:
        raise ValueError(
            f"`dit.lora_rank` {rank} is not below {smallest}, the width of the narrowest layer; "
            f"hint: `--set dit.lora_rank={min(16, smallest // 2)}`, or null to train all weights"
        )
    model.requires_grad_(False)
    for part, name, layer in layers:
        setattr(part, name, LoraLinear(layer, rank))


def merged_state(model: nn.Module) -> dict[str, Tensor]:
    """Answers the weights of a model with its adapters added in, by the names that it has without them."""
    adapted = {name: module for name, module in model.named_modules() if isinstance(module, LoraLinear)}
    own = {f"{name}.{part}" for name in adapted for part in ("down", "up")}
    state = {name: value for name, value in model.state_dict().items() if name not in own}
    return state | {f"{name}.weight": module.merged() for name, module in adapted.items()}


def adapters_of(model: nn.Module) -> dict[str, Tensor]:
    """Answers the adapters alone, by name; nothing of a model without."""
    adapted = [(name, module) for name, module in model.named_modules() if isinstance(module, LoraLinear)]
    return {f"{name}.{part}": getattr(module, part).detach() for name, module in adapted for part in ("down", "up")}
