"""The adversarial stage: how much it weighs, what it leaves alone, and that its judge learns."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from components.models.pixels import to_pixels
from components.train.checkpoint import Checkpoints
from components.train.context import TrainContext, read_metrics
from components.train.vae_adversary import Adversary
from components.train.vae_loop import train_vae
from tests.train.test_vae_loop import SIZE, batches_of, fresh_model, settings, some_frames


def adversary(tmp_path: Path, **changes: float) -> Adversary:
    return Adversary(settings(adversarial_weight=0.5, **changes), TrainContext.local(tmp_path))  # type: ignore[arg-type]


def decoded(layer: nn.Linear) -> Tensor:
    """A net of one layer, (2, 3, 5, 16, 16)."""
    return layer(torch.randn(2, 3, 5, 16, 8, generator=torch.Generator().manual_seed(0)))


def test_the_judge_pulls_as_hard_as_the_other_losses_times_its_weight(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(8, 16)
    reconstruction = decoded(layer)
    losses = 3.0 * reconstruction.square().mean((1, 2, 3, 4))
    stage = adversary(tmp_path)
    added, figures = stage.loss(reconstruction, losses, 2, layer.weight)
    others, judged = (torch.autograd.grad(loss, layer.weight, retain_graph=True)[0].norm() for loss in (losses.mean(), added))
    torch.testing.assert_close(judged, 0.5 * others, rtol=1e-2, atol=0)  # but for the little that keeps the quotient finite
    torch.testing.assert_close(added, 0.5 * figures["adaptive_weight"] * -stage.net(reconstruction).mean())


def test_the_vae_s_loss_leaves_no_gradient_in_the_judge(tmp_path: Path) -> None:
    layer = nn.Linear(8, 16)
    reconstruction = decoded(layer)
    stage = adversary(tmp_path)
    stage.loss(reconstruction, reconstruction.square().mean((1, 2, 3, 4)), 2, layer.weight)[0].backward()
    assert layer.weight.grad is not None
    assert all(weight.grad is None for weight in stage.net.parameters())


def test_the_judge_learns_to_tell_clips_from_grey_ones(tmp_path: Path) -> None:
    stage = adversary(tmp_path, discriminator_learning_rate=2e-3)
    clips = to_pixels(some_frames(4))
    figures = [stage.learn(clips, clips.mean((2, 3, 4), keepdim=True).expand_as(clips), 4, 1.0) for _ in range(30)]
    assert figures[-1]["discriminator_loss"] < 0.5 * figures[0]["discriminator_loss"]
    assert figures[-1]["logits_real"] > 0 > figures[-1]["logits_fake"]


def test_a_judge_whose_gradient_is_not_finite_stays_as_it_is(tmp_path: Path) -> None:
    stage = adversary(tmp_path)
    before = [weight.clone() for weight in stage.net.parameters()]
    clips = to_pixels(some_frames(2))
    stage.learn(clips, clips * float("nan"), 2, 1.0)
    assert all(torch.equal(a, b) for a, b in zip(before, stage.net.parameters(), strict=True))


def test_making_a_judge_draws_nothing_of_what_others_draw(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    adversary(tmp_path)
    assert torch.equal(torch.rand(3), expected)


def test_until_the_stage_begins_the_training_is_one_without_it(tmp_path: Path) -> None:
    frames, trained = some_frames(4), {}
    for weight in (0.0, 0.5):
        chosen = settings(steps=4, checkpoint_every=4, adversarial_weight=weight, adversarial_from_step=3)
        place = tmp_path / str(weight)
        train_vae(chosen, fresh_model(frames), batches_of(frames), Checkpoints(place), TrainContext.local(place))
        trained[weight] = read_metrics(place / "metrics.jsonl")
    assert trained[0.0][:3] == trained[0.5][:3]
    assert {"discriminator_loss", "logits_real", "logits_fake", "adaptive_weight"} <= set(trained[0.5][3][1]) - set(trained[0.0][3][1])


def test_a_checkpoint_of_a_training_without_a_judge_is_gone_on_with_by_either(tmp_path: Path) -> None:
    frames = some_frames(4)
    train_vae(settings(steps=3), fresh_model(frames), batches_of(frames), Checkpoints(tmp_path), TrainContext.local(tmp_path))
    for steps, weight in ((4, 0.0), (5, 0.5), (6, 0.0)):
        chosen = settings(steps=steps, adversarial_weight=weight)
        train_vae(chosen, fresh_model(frames, SIZE), batches_of(frames), Checkpoints(tmp_path), TrainContext.local(tmp_path))
    told = dict(read_metrics(tmp_path / "metrics.jsonl"))
    assert [step for step in sorted(told) if "discriminator_loss" in told[step]] == [5]
    assert told[6]["loss"] == pytest.approx(told[3]["loss"], rel=2.0)
