"""The judge of reconstructions: what it takes, that clips are judged apart, and its losses."""

import pytest
import torch

from components.models.discriminator import Discriminator, discriminator_losses, generator_losses


def judge() -> Discriminator:
    torch.manual_seed(0)
    return Discriminator(8)


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 40, 24), (5, 16, 16), (9, 24, 8), (4, 7, 3)])
def test_images_and_clips_of_any_size_are_judged(shape: tuple[int, int, int]) -> None:
    logits = judge()(torch.randn(2, 3, *shape))
    assert logits.shape == (2, 1, *(-(-side // 8) for side in shape))


def test_a_clip_is_judged_whatever_is_beside_it() -> None:
    clips = torch.randn(3, 3, 5, 16, 16)
    torch.testing.assert_close(judge()(clips)[1:2], judge()(clips[1:2]), atol=1e-5, rtol=1e-5)


def test_an_answer_is_about_a_neighbourhood_in_space_and_time() -> None:
    clip = torch.randn(1, 3, 33, 64, 64)
    other = clip.clone()
    other[:, :, -4:, -8:, -8:] = 0.0
    changed = (judge()(clip) - judge()(other)).abs() > 1e-6
    assert changed[0, 0, -1, -1, -1]
    assert not changed[0, 0, 0].any()
    assert not changed[0, 0, :, :4].any()


def test_gradients_reach_every_weight() -> None:
    net = judge()
    net(torch.randn(2, 3, 5, 16, 16)).square().mean().backward()
    assert [name for name, weight in net.named_parameters() if weight.grad is None or not weight.grad.abs().max()] == []


def test_the_losses_are_the_hinge_s() -> None:
    real = torch.tensor([2.0, 0.5, -1.0]).view(3, 1, 1, 1, 1).expand(-1, -1, 2, 2, 2)
    fake = torch.tensor([-2.0, -0.5, 1.0]).view(3, 1, 1, 1, 1).expand(-1, -1, 2, 2, 2)
    torch.testing.assert_close(discriminator_losses(real, fake), torch.tensor([0.0, 0.5, 2.0]))
    torch.testing.assert_close(generator_losses(fake), torch.tensor([2.0, 0.5, -1.0]))
