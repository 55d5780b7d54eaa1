"""Linear layers that on a CPU of AMD, in float32, ask oneDNN for their products where torch asks MKL, which is made for Intel's.

Measured on two cores of a Zen 4, with 160 to 2560 rows and 128 to 2048 columns: oneDNN is a tenth to a fifth faster forward, back to the
input and to weights with much longer rows than columns; for other weights MKL is no slower. A number of rows not seen before costs half a
millisecond. With `torch.backends.mkldnn.enabled = False`, and where a build of torch lacks the call, the layer is torch's.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

WIDE = 2  # times as many columns as rows
CALL = getattr(getattr(torch.ops.mkldnn, "_linear_pointwise", None), "default", None) if torch.backends.mkldnn.is_available() else None


def _of_amd() -> bool:
    try:
        return "AuthenticAMD" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


_ONE_DNN = CALL if _of_amd() else None


class Linear(nn.Linear):
    """A linear layer, (..., in) -> (..., out)."""

    def forward(self, x: Tensor) -> Tensor:
        if not asks_one_dnn(x, self.weight):
            return super().forward(x)
        if torch.is_grad_enabled() and any(part is not None and part.requires_grad for part in (x, self.weight, self.bias)):
            answer: Tensor = _Product.apply(x, self.weight, self.bias)
            return answer
        return _product(x, self.weight, self.bias)

    def then_gelu(self, x: Tensor) -> Tensor:
        """Answers the GELU, in its exact form, of what the layer answers: in one pass, or in its place, where no gradient is asked for."""
        if torch.is_grad_enabled():
            return F.gelu(self(x))
        if type(self) is not Linear or not asks_one_dnn(x, self.weight):
            answer: Tensor = torch.ops.aten.gelu_(self(x))
            return answer
        return _product(x, self.weight, self.bias, "gelu")


def in_one_product(x: Tensor, first: nn.Linear, second: nn.Linear) -> bool:
    """Answers whether `linear_of_both` is for two layers: plain ones, on a GPU, in compiled code; eager, joining weights costs more."""
    return x.is_cuda and torch.compiler.is_compiling() and type(first) is type(second) is Linear


def linear_of_both(x: Tensor, first: nn.Linear, second: nn.Linear) -> Tensor:
    """Answers what two layers make of x (..., in), side by side, (..., out of both), in one product.

    On a GPU it keeps more of its units busy than two do; compiled code joins the weights as it rounds them.
    """
    kind = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
    weight = torch.cat([first.weight.to(kind), second.weight.to(kind)])
    return F.linear(x, weight, torch.cat([first.bias.to(kind), second.bias.to(kind)]))


def asks_one_dnn(x: Tensor, weight: Tensor) -> bool:
    """Answers whether oneDNN multiplies x with a weight: both float32 on a CPU, outside of mixed precision and of compilation."""
    return (
        _ONE_DNN is not None
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.dim() > 1
        and x.numel() > 0
        and bool(torch.backends.mkldnn.enabled)
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None, then: str = "none") -> Tensor:
    """Answers x (..., in) times weight (out, in), plus bias (out,), and an elementwise function of it."""
    assert _ONE_DNN is not None
    answer: Tensor = _ONE_DNN(x, weight, bias, then, [], "none" if then == "gelu" else "")
    return answer


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        ctx.shape = x.shape
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        gradient = gradients[0].flatten(0, -2)  # (N, out)
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_x = _product(gradient, weight.mT).view(ctx.shape)
        if ctx.needs_input_grad[1]:
            flat = x.flatten(0, -2)  # (N, in)
            wide = weight.shape[1] >= WIDE * weight.shape[0]
            of_weight = _product(gradient.mT, flat.mT) if wide else gradient.mT @ flat
        if ctx.needs_input_grad[2]:
            of_bias = gradient.sum(dim=0)
        return of_x, of_weight, of_bias
