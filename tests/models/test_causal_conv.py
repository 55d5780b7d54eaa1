"""A causal convolution sees the past only, and one frame is a clip."""

import pytest
import torch
from torch import nn

from components.models.causal_conv import CausalConv3d


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(CausalConv3d(3, 8, (3, 3, 3)), nn.SiLU(), CausalConv3d(8, 4, (2, 1, 3)))


def test_a_frame_does_not_see_the_future(net: nn.Module) -> None:
    clip = torch.randn(1, 3, 9, 8, 8)
    torch.testing.assert_close(net(clip[:, :, :5]), net(clip)[:, :, :5])


def test_a_frame_sees_the_past(net: nn.Module) -> None:
    clip = torch.randn(1, 3, 5, 8, 8)
    earlier = clip.clone()
    earlier[:, :, 1] += 1.0
    assert not torch.allclose(net(clip)[:, :, 4], net(earlier)[:, :, 4])
    torch.testing.assert_close(net(clip)[:, :, 0], net(earlier)[:, :, 0])


def test_a_still_clip_is_still_behind_it(net: nn.Module) -> None:
    frame = torch.randn(1, 3, 1, 8, 8)
    out = net(frame.expand(-1, -1, 6, -1, -1))
    torch.testing.assert_close(out, net(frame).expand_as(out))


def test_it_equals_a_convolution_of_the_padded_clip() -> None:
    conv = CausalConv3d(2, 3, (3, 3, 3))
    clip = torch.randn(2, 2, 4, 6, 6)
    padded = torch.cat([clip[:, :, :1], clip[:, :, :1], clip], dim=2)
    torch.testing.assert_close(conv(clip), nn.functional.conv3d(padded, conv.weight, conv.bias, padding=(0, 1, 1)))


def test_even_kernels_in_space_are_refused() -> None:
    with pytest.raises(ValueError, match="odd in space"):
        CausalConv3d(3, 3, (2, 2, 3))
