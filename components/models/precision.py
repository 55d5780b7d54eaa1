"""The numbers that networks compute in."""

import torch


def mixed_precision(device: str | torch.device) -> torch.autocast:
    """Answers the context of a forward pass: bfloat16 on a GPU, float32 as it is on a CPU, where few have units for bfloat16."""
    kind = torch.device(device).type
    return torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda")
