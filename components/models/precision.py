"""The numbers that networks compute in."""

import torch
from torch import nn


def precision_of(device: str | torch.device) -> torch.dtype:
    """Answers what a forward pass computes in: bfloat16 on a GPU, float32 on a CPU, where few have units for bfloat16."""
    return torch.bfloat16 if torch.device(device).type == "cuda" else torch.float32


def mixed_precision(device: str | torch.device) -> torch.autocast:
    """Answers the context of a forward pass in the precision of a device."""
    mixed = precision_of(device) == torch.bfloat16
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=mixed)


def round_weights(model: nn.Module) -> None:
    """Keeps the weights of linear layers as mixed precision would round them in every pass: in half the memory, for the same answers."""
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            layer.to(torch.bfloat16)
