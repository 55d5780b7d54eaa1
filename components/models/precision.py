"""The numbers that networks compute in."""

import torch
from torch import nn


def mixed_precision(device: str | torch.device) -> torch.autocast:
    """Answers the context of a forward pass: bfloat16 on a GPU, float32 as it is on a CPU, where few have units for bfloat16."""
    kind = torch.device(device).type
    return torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda")


def round_weights(model: nn.Module) -> None:
    """Keeps the weights of linear layers as mixed precision would round them in every pass: in half the memory, for the same answers."""
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            layer.to(torch.bfloat16)
