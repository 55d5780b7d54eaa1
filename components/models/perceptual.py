"""LPIPS: how different two pictures look, by what a VGG16 that was trained on photographs sees in them. Torch and safetensors alone.

Weights are read from safetensors under their public names:

- `features.N.weight` and `features.N.bias`, N = 0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28, as torchvision's `vgg16` names them, or
  `net.sliceS.N.weight` and `net.sliceS.N.bias`, as the `lpips` package does;
- `linK.model.1.weight`, K = 0 to 4, (1, C, 1, 1), as the `lpips` package names its linear heads.

Other tensors beside them (the classifier, `lins.*`, `scaling_layer.*`) are passed over. Widths are those of the weights.
"""

import re
from itertools import chain
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STAGES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))  # convolutions by torchvision's numbers; between stages is pooled
CONVOLUTION = re.compile(r"(?:features|net\.slice[1-5])\.(\d+)\.(weight|bias)")
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of the photographs that VGG16 saw, for pixels in [-1, 1]
TINY = 1e-20  # so that a place where nothing is seen has a gradient


class Perceptual(nn.Module):
    """Compares pictures by LPIPS, version 0.1 with VGG16; its weights do not learn.

    Args:
        weights: by the names above.

    Source: Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric (CVPR 2018).
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        named = {_own_name(name): value.float() for name, value in weights.items()}
        wanted = [_buffer(number, kind) for number in chain(*STAGES) for kind in ("weight", "bias")]
        wanted += [f"lin{stage}_model_1_weight" for stage in range(len(STAGES))]
        missing = next((name for name in wanted if name not in named), None)
        if missing is not None:
            public = missing.replace("_", ".")
            raise ValueError(f"no `{public}` is among the {len(weights)} perceptual weights; hint: those of VGG16 and of its LPIPS heads")
        for name in wanted:
            self.register_buffer(name, named[name], persistent=False)
        self.register_buffer("shift", torch.tensor(SHIFT).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE).view(1, 3, 1, 1), persistent=False)

    def forward(self, pictures: Tensor, others: Tensor) -> Tensor:
        """Answers the distance of each picture from its other, (N,); gradients reach the first ones only.

        Args:
            pictures, others: (N, 3, H, W) in [-1, 1]; of sides below 16 the stages that would see nothing are left out.
        """
        with torch.no_grad():
            expected = self._seen(others)
        total = pictures.new_zeros(len(pictures))
        for stage, (found, meant) in enumerate(zip(self._seen(pictures), expected, strict=True)):
            apart = (_unit(found) - _unit(meant)).square()  # (N, C, h, w)
            total = total + F.conv2d(apart, self.get_buffer(f"lin{stage}_model_1_weight")).mean((1, 2, 3))
        return total

    def _seen(self, pictures: Tensor) -> list[Tensor]:
        """Answers what each stage sees, (N, C, h, w)."""
        x = (pictures - self.shift) / self.scale
        found: list[Tensor] = []
        for stage in STAGES:
            if found:
                if min(x.shape[-2:]) < 2:
                    break
                x = F.max_pool2d(x, 2)
            for number in stage:
                x = F.relu(F.conv2d(x, self.get_buffer(_buffer(number, "weight")), self.get_buffer(_buffer(number, "bias")), padding=1))
            found.append(x)
        return found


def load_perceptual(place: str | Path) -> Perceptual:
    """Reads the weights from one safetensors file, or from all of a folder.

    Raises:
        ValueError: there is no such file, one is not safetensors, or a tensor is missing.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    place = Path(place)
    files = sorted(place.glob("*.safetensors")) if place.is_dir() else [place]
    hint = "hint: safetensors of VGG16 and of its LPIPS heads, or `vae.perceptual_loss_weight=0`"
    if not files or not files[0].is_file():
        raise ValueError(f"`vae.perceptual_weights` = `{place}` has no safetensors; {hint}")
    weights: dict[str, Tensor] = {}
    for file in files:
        try:
            weights |= load_file(file)
        except SafetensorError as error:
            raise ValueError(f"`{file}` is not a safetensors file ({error}); {hint}") from error
    return Perceptual(weights).requires_grad_(False).eval()


def _own_name(public: str) -> str:
    match = CONVOLUTION.fullmatch(public)
    return _buffer(int(match[1]), match[2]) if match else public.replace(".", "_")


def _buffer(number: int, kind: str) -> str:
    return f"features_{number}_{kind}"


def _unit(seen: Tensor) -> Tensor:
    """Scales what is seen at each place to length one."""
    return seen / (seen.square().sum(1, keepdim=True) + TINY).sqrt()
