"""The VAE's training: exact resume, steps that are not finite, learning, and the batches it is given."""

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from components.models.pixels import to_pixels
from components.models.sizes import VaeSize
from components.models.vae import VideoVae
from components.train import norms
from components.train.checkpoint import Checkpoints
from components.train.context import TrainContext, read_metrics, read_starts
from components.train.quarantine import NAME, read_quarantine
from components.train.steps import UnstableTrainingError
from components.train.vae_loop import (
    ClipBatch,
    fit_normalisation,
    measure_psnr,
    train_vae,
)

SIZE = VaeSize(latent_channels=4, hidden_channels=16, num_blocks=1, encoder_channels=16, encoder_blocks=1)


def settings(**changes: float | None) -> SimpleNamespace:
    chosen = {
        "steps": 6, "batch_size": 2, "learning_rate": 0.004, "weight_decay": 0.01, "warmup_steps": 1, "ema_decay": 0.9,
        "l1_loss_weight": 0.1, "gradient_loss_weight": 0.1, "wavelet_loss_weight": 0.1,
        "kl_weight": 1e-4, "max_grad_norm": 1.0, "adaptive_clip": True, "skip_above": 10.0,
        "crop_size": 16, "min_crop_size": None,
        "image_share": 0.0, "random_lengths": False, "max_frame_stride": 1, "max_downscale": 1.0, "mirror_share": 0.0,
        "perceptual_loss_weight": 0.0, "adversarial_weight": 0.0, "adversarial_from_step": 2, "discriminator_channels": 8,
        "discriminator_learning_rate": 1e-3, "report_every": 1, "sample_every": 0, "checkpoint_every": 3, "seed": 3,
    }  # fmt: skip
    return SimpleNamespace(**(chosen | changes))


DRAWN: dict[str, float | None] = {  # views of clips of 5 x 24 x 24
    "image_share": 0.3, "random_lengths": True, "max_frame_stride": 2, "crop_size": 24, "min_crop_size": 8, "max_downscale": 2.0,
    "mirror_share": 0.5,
}  # fmt: skip


def some_frames(count: int, frames: int = 5, side: int = 24) -> Tensor:
    """Coloured discs that move, uint8 (N, T, H, W, 3)."""
    generator = torch.Generator().manual_seed(0)
    x0, y0, vx, vy = (8 + 8 * torch.rand(4, count, generator=generator) - torch.tensor([[0], [0], [12], [12]])).view(4, count, 1, 1, 1)
    t, y, x = (torch.arange(n).view(shape) for n, shape in ((frames, (-1, 1, 1)), (side, (-1, 1)), (side, (-1,))))
    inside = torch.sigmoid(5.0 - torch.hypot(x - x0 - vx * t / 4, y - y0 - vy * t / 4))[..., None]  # (N, T, H, W, 1)
    colours = 255 * torch.rand(count, 1, 1, 1, 3, generator=generator)
    return (inside * colours + (1 - inside) * 40).to(torch.uint8)


class Distance(nn.Module):
    """The square of the error in place of how pictures look, (N,)."""

    def forward(self, pictures: Tensor, others: Tensor) -> Tensor:
        return (pictures - others).square().mean((1, 2, 3))


def batches_of(frames: Tensor, size: int = 2) -> Callable[[int], Iterator[ClipBatch]]:
    def batches(first: int) -> Iterator[ClipBatch]:
        step = first
        while True:
            rows = [(step * size + place) % len(frames) for place in range(size)]
            yield ClipBatch(frames[rows], tuple(f"clip{row}" for row in rows))
            step += 1

    return batches


def fresh_model(frames: Tensor, size: VaeSize = SIZE) -> VideoVae:
    torch.manual_seed(0)
    model = VideoVae(size)
    model.start_linear(to_pixels(frames))
    return model


@pytest.mark.parametrize("weight", [0.0, 0.5], ids=["plain", "judged"])
def test_a_resumed_training_ends_with_the_bits_of_an_unbroken_one(weight: float, tmp_path: Path) -> None:
    frames = some_frames(7)
    chosen = settings(**DRAWN, adversarial_weight=weight, perceptual_loss_weight=weight)  # the judge comes in step 3

    def train(model: VideoVae, batches: Callable[[int], Iterator[ClipBatch]], name: str) -> VideoVae:
        place = tmp_path / name
        return train_vae(chosen, model, batches, Checkpoints(place), TrainContext.local(place), Distance())

    whole = train(fresh_model(frames), batches_of(frames), "a")

    class Killed(Exception):
        pass

    def killed_in_step_five(first: int) -> Iterator[ClipBatch]:
        for step, batch in enumerate(batches_of(frames)(first), start=first):
            if step == 4:
                raise Killed
            yield batch

    with pytest.raises(Killed):
        train(fresh_model(frames), killed_in_step_five, "b")
    resumed = train(VideoVae(SIZE), batches_of(frames), "b")  # everything it goes on with is in the checkpoint
    assert read_starts(tmp_path / "b" / "metrics.jsonl")[-1].step == 3

    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True))
    told_whole, told_resumed = (read_metrics(tmp_path / name / "metrics.jsonl") for name in "ab")
    assert told_whole == told_resumed
    assert [step for step, _ in told_whole] == [1, 2, 3, 4, 5, 6]

    ends = [Checkpoints(tmp_path / name).newest() for name in "ab"]
    assert ends[0] is not None
    assert ends[1] is not None
    assert ends[0][1].keys() == ends[1][1].keys()
    assert all(torch.equal(value, ends[1][1][name]) for name, value in ends[0][1].items())


def test_samples_are_of_the_average_and_change_nothing(tmp_path: Path) -> None:
    frames = some_frames(4)
    shown: dict[int, dict[str, Tensor]] = {}

    def on_sample(done: int, average: VideoVae) -> None:
        shown[done] = {name: value.clone() for name, value in average.state_dict().items()}

    def train(name: str, on_sample: Callable[[int, VideoVae], None] | None = None, **changes: float) -> dict[str, Tensor]:
        place, chosen = tmp_path / name, settings(**changes)
        return train_vae(
            chosen, fresh_model(frames), batches_of(frames), Checkpoints(place), TrainContext.local(place), on_sample=on_sample
        ).state_dict()

    plain, sampled = train("plain"), train("sampled", on_sample, sample_every=2)
    assert all(torch.equal(value, sampled[name]) for name, value in plain.items())
    assert sorted(shown) == [2, 4, 6]
    assert all(torch.equal(value, plain[name]) for name, value in shown[6].items())
    shown.clear()
    train("at the end", on_sample)
    assert sorted(shown) == [6]


def test_a_finished_training_trains_no_more(tmp_path: Path) -> None:
    frames = some_frames(4)
    first = train_vae(settings(), fresh_model(frames), batches_of(frames), Checkpoints(tmp_path), TrainContext.local(tmp_path))

    def none_is_asked_for(step: int) -> Iterator[ClipBatch]:
        yield from ()

    again = train_vae(settings(), VideoVae(SIZE), none_is_asked_for, Checkpoints(tmp_path), TrainContext.local(tmp_path))
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True))


def test_checkpoints_of_another_size_are_refused(tmp_path: Path) -> None:
    frames = some_frames(4)
    train_vae(settings(steps=3), fresh_model(frames), batches_of(frames), Checkpoints(tmp_path), TrainContext.local(tmp_path))
    other = VideoVae(replace(SIZE, hidden_channels=8))
    with pytest.raises(ValueError, match="of another size; hint: remove that folder"):
        train_vae(settings(steps=3), other, batches_of(frames), Checkpoints(tmp_path), TrainContext.local(tmp_path))


def test_a_step_that_is_not_finite_changes_nothing_and_names_its_clips(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = some_frames(8)
    poisoned = {"clip2"}
    plain = VideoVae.forward

    def forward(self: VideoVae, clip: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        reconstruction, mean, log_variance = plain(self, clip, noise)
        return reconstruction * scale.view(-1, 1, 1, 1, 1), mean, log_variance

    def batches(first: int) -> Iterator[ClipBatch]:
        nonlocal scale
        for batch in batches_of(frames)(first):
            scale = torch.tensor([float("inf") if name in poisoned else 1.0 for name in batch.clip_ids])
            yield batch

    scale = torch.ones(2)
    monkeypatch.setattr(VideoVae, "forward", forward)
    model = fresh_model(frames)
    with caplog.at_level(logging.WARNING, logger="kinora"):
        train_vae(settings(steps=2), model, batches, Checkpoints(tmp_path), TrainContext.local(tmp_path))
    assert [record.getMessage() for record in caplog.records] == ["step 2 is skipped, its gradient is not finite; clips: clip2"]
    metrics = dict(read_metrics(tmp_path / "metrics.jsonl"))
    assert [metrics[step]["skipped_steps"] for step in (1, 2)] == [0, 1]
    monkeypatch.undo()
    one_step = fresh_model(frames)
    train_vae(
        settings(steps=2),
        one_step,
        lambda first: iter([next(batches_of(frames)(0))]),
        Checkpoints(tmp_path / "b"),
        TrainContext.local(tmp_path),
    )
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), one_step.parameters(), strict=True))


def test_a_resumed_training_accuses_each_clip_once_and_judges_as_an_unbroken_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One clip's pixels blow its gradient up in steps 2, 5 and 7; the training is killed after step 5, its checkpoint is of step 3."""
    frames, plain = some_frames(5), VideoVae.forward
    monkeypatch.setattr(norms, "WARM_UP", 1)
    loud: set[str] = set()

    def forward(self: VideoVae, clip: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        reconstruction, mean, log_variance = plain(self, clip, noise)
        scale = torch.tensor([1e4 if name in loud else 1.0 for name in names])
        return reconstruction * scale.view(-1, 1, 1, 1, 1), mean, log_variance

    def batches(until: int) -> Callable[[int], Iterator[ClipBatch]]:
        def given(first: int) -> Iterator[ClipBatch]:
            nonlocal names
            for step, batch in zip(range(first, until), batches_of(frames)(first), strict=False):
                names = batch.clip_ids
                loud.clear()
                loud.update({"clip2"} if step >= 1 else ())
                yield batch
            if until < 9:
                raise KeyboardInterrupt

        return given

    names: tuple[str, ...] = ()
    monkeypatch.setattr(VideoVae, "forward", forward)
    chosen = settings(steps=9, skip_above=1000.0)
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    unbroken = train_vae(chosen, fresh_model(frames), batches(9), Checkpoints(whole), TrainContext.local(whole))
    with pytest.raises(KeyboardInterrupt):
        train_vae(chosen, fresh_model(frames), batches(5), Checkpoints(torn), TrainContext.local(torn))
    resumed = train_vae(chosen, VideoVae(SIZE), batches(9), Checkpoints(torn), TrainContext.local(torn))
    assert all(torch.equal(a, b) for a, b in zip(unbroken.state_dict().values(), resumed.state_dict().values(), strict=True))
    lines = (torn / NAME).read_text().splitlines()
    assert lines == (whole / NAME).read_text().splitlines()
    told = [json.loads(line) for line in lines]
    assert [line["step"] for line in told if line["reason"]] == [2, 4, 7, 9]
    assert [line["step"] for line in told if not line["reason"]] == [3, 5, 8]
    assert read_quarantine(torn / NAME).keys() == {"clip2"}
    assert read_metrics(torn / "metrics.jsonl") == read_metrics(whole / "metrics.jsonl")


def test_what_is_usual_is_learned_anew_when_the_judge_comes(tmp_path: Path) -> None:
    frames = some_frames(4)
    judged = {"adversarial_weight": 0.5, "adversarial_from_step": 4, "discriminator_channels": 8}
    train_vae(settings(**judged), fresh_model(frames), batches_of(frames), Checkpoints(tmp_path), TrainContext.local(tmp_path))
    found = Checkpoints(tmp_path).newest()
    assert found is not None
    of_two_steps, same = found[1]["clip"], found[1]["skipped"][2:]
    told = [metrics["gradient_norm"] for step, metrics in read_metrics(tmp_path / "metrics.jsonl") if step > 4]
    expected = torch.tensor([sum(told) / 2, ((told[0] - told[1]) / 2) ** 2, 2, 2], dtype=torch.float64)  # of two clips a step
    torch.testing.assert_close(of_two_steps, expected)
    torch.testing.assert_close(same, expected)


def test_a_training_that_only_skips_gives_up(tmp_path: Path) -> None:
    frames = some_frames(4)
    model = fresh_model(frames)
    with torch.no_grad():
        model.decoder_out.bias.fill_(float("nan"))
    with pytest.raises(UnstableTrainingError, match=r"20 steps on end up to 20 .* lower `vae.learning_rate`"):
        train_vae(settings(steps=30), model, batches_of(frames), Checkpoints(tmp_path), TrainContext.local(tmp_path))


def test_four_clips_are_learned_by_heart(tmp_path: Path) -> None:
    frames = some_frames(4, side=16)
    size = replace(SIZE, hidden_channels=48, encoder_channels=32)
    model = fresh_model(frames, size)
    start = measure_psnr(model, [ClipBatch(frames, ("a", "b", "c", "d"))])
    chosen = settings(steps=150, batch_size=4, report_every=50, checkpoint_every=150, l1_loss_weight=0.0, gradient_loss_weight=0.0)
    trained = train_vae(chosen, model, batches_of(frames, 4), Checkpoints(tmp_path), TrainContext.local(tmp_path))
    end = measure_psnr(trained, [ClipBatch(frames, ("a", "b", "c", "d"))])
    assert end > start + 6.0
    assert end > 30.0


def test_the_normalisation_is_that_of_all_latents() -> None:
    frames = some_frames(6, side=16)
    model = fresh_model(frames).eval()
    batches = [ClipBatch(frames[:2], ("a", "b")), ClipBatch(frames[2:], ("c", "d", "e", "f"))]
    fit_normalisation(model, batches)
    with torch.no_grad():
        latents = model.encode(to_pixels(frames))
    torch.testing.assert_close(latents.mean((0, 2, 3, 4)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(latents.std((0, 2, 3, 4)), torch.ones(4), atol=0.02, rtol=0)
