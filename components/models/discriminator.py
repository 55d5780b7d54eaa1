"""Tells clips from reconstructions: a 3D PatchGAN, whose every answer is about the neighbourhood of one place."""

import torch
from torch import Tensor, nn

from components.models.layers import PlaceNorm

WIDTHS = (1, 2, 4)  # of the layers, in units of the first; each halves all three axes
SLOPE = 0.2


class Discriminator(nn.Sequential):
    """Answers logits (B, 1, t, h, w) for clips (B, 3, T, H, W), above zero where they look real; one frame alone is a clip.

    Any length and size will do: halves are rounded up. It looks ahead as well as back, which a judge may, and norms the channels of
    each place by themselves, so no clip of a batch knows of another.

    Args:
        channels: of the first layer.

    Source: Isola et al., Image-to-Image Translation with Conditional Adversarial Networks (CVPR 2017), in three dimensions.
    """

    def __init__(self, channels: int) -> None:
        layers: list[nn.Module] = []
        width = 3
        for times in WIDTHS:
            layers.append(nn.Conv3d(width, channels * times, 3, stride=2, padding=1))
            if layers[1:]:  # pixels' own contrast is left to the first layer
                layers.append(PlaceNorm(channels * times))
            layers.append(nn.LeakyReLU(SLOPE))
            width = channels * times
        super().__init__(*layers, nn.Conv3d(width, 1, 3, padding=1))


def discriminator_losses(real: Tensor, fake: Tensor) -> Tensor:
    """Answers the hinge loss of telling clips apart, (B,), from logits (B, 1, t, h, w)."""
    return 0.5 * (torch.relu(1.0 - real).flatten(1).mean(1) + torch.relu(1.0 + fake).flatten(1).mean(1))


def generator_losses(fake: Tensor) -> Tensor:
    """Answers how far each reconstruction is from being taken for real, (B,), from logits (B, 1, t, h, w)."""
    return -fake.flatten(1).mean(1)
