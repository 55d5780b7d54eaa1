"""The numbers that networks compute in follow the device."""

import torch

from components.models.precision import mixed_precision


def test_a_cpu_computes_in_float32() -> None:
    with mixed_precision("cpu"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
