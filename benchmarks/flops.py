"""Model FLOPs as torch counts them, those of the products that oneDNN is asked for among them."""

import math
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode


def counting() -> FlopCounterMode:
    """Answers the context that counts; `get_total_flops` of it says what there was."""
    product = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    return FlopCounterMode(display=False, custom_mapping={} if product is None else {product: _of_product})


def _of_product(x: torch.Size, weight: torch.Size, *more: Any, out_shape: Any = None, **options: Any) -> int:
    """x (..., in) times weight (out, in)."""
    return 2 * math.prod(x) * weight[0]
