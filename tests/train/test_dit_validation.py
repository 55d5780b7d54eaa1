"""The held-out loss: a closed form, the same for any number of workers, and no trace in the training."""

import math
from dataclasses import replace
from statistics import NormalDist

import pytest
import torch
from torch import Tensor, nn

from components.diffusion.flow_matching import timestep_quantiles
from components.models.dit import DiT
from components.models.sequence_parallel import SequenceGroup
from components.train.checkpoint import Checkpoints
from components.train.context import TrainContext, nothing_to_report, read_metrics
from components.train.dit_loop import train_dit
from components.train.dit_validation import HeldOut, held_out_losses
from tests.train.test_dit_loop import EMPTY, LATENTS, SIZE, TEXT, batches, new_model, settings

ALONE = TrainContext(0, 1, "cpu", 1, nothing_to_report, lambda model: model)
CLIPS = [HeldOut(f"clip{row}", LATENTS[row], TEXT[row], 2.0) for row in range(3)]


class Zero(nn.Module):
    """Says of every clip that it stays where it is."""

    def forward(self, noisy: Tensor, t: Tensor, text_embeds: Tensor, text_mask: Tensor, latents_fps: Tensor) -> Tensor:
        self.t = t
        return torch.zeros_like(noisy)


def test_quantiles_of_timesteps_are_those_of_the_logit_normal() -> None:
    found = timestep_quantiles(torch.tensor([0.1, 0.5, 0.9]), mean=0.5, std=2.0, shift=3.0).tolist()
    for share, t in zip((0.1, 0.5, 0.9), found, strict=True):
        unshifted = t / (3.0 - 2.0 * t)  # the way back of 3 t / (1 + 2 t)
        assert math.log(unshifted / (1 - unshifted)) == pytest.approx(NormalDist(0.5, 2.0).inv_cdf(share), abs=1e-4)


def test_the_loss_of_a_model_that_says_nothing_is_that_of_the_velocity() -> None:
    found, model = held_out_losses(settings(), Zero(), CLIPS, ALONE), Zero()
    held_out_losses(settings(), model, CLIPS[:1], ALONE)
    assert list(found) == ["val_loss", *(f"val_loss_t{percent}" for percent in range(10, 100, 10))]
    assert found["val_loss"] == pytest.approx(sum(value for name, value in found.items() if "_t" in name) / 9)
    weighed = torch.tensor([found[f"val_loss_t{percent}"] for percent in range(10, 100, 10)]) / model.t.square()
    torch.testing.assert_close(weighed, weighed[:1].expand(9))  # the same noise at every timestep
    assert weighed[0].item() == pytest.approx(1.0 + LATENTS[:3].square().mean().item(), rel=0.25)


def test_long_clips_are_taken_in_parts_to_the_same_end(monkeypatch: pytest.MonkeyPatch) -> None:
    model = new_model()
    nn.init.normal_(model.patch_out.weight, std=0.1)
    whole = held_out_losses(settings(), model, CLIPS, ALONE)
    monkeypatch.setattr("components.train.dit_validation.PLACES_AT_ONCE", 2 * LATENTS[0, 0].numel())
    assert held_out_losses(settings(), model, CLIPS, ALONE) == pytest.approx(whole, rel=1e-5)


def test_no_more_is_held_out_at_once_than_a_step_has(monkeypatch: pytest.MonkeyPatch) -> None:
    model, places = Divided(), LATENTS[0, 0].numel()
    for step, parts in ((None, [9]), (20 * places, [9]), (4 * places, [4, 4, 1]), (places - 1, [1] * 9)):
        model.seen.clear()
        held_out_losses(settings(), model, CLIPS[:1], ALONE, step_places=step)
        assert [len(noisy) for _, noisy in model.seen] == parts
    monkeypatch.setattr("components.train.dit_validation.PLACES_AT_ONCE", 3 * places)
    model.seen.clear()
    held_out_losses(settings(), model, CLIPS[:1], ALONE, step_places=4 * places)
    assert [len(noisy) for _, noisy in model.seen] == [3, 3, 3]


class Divided(DiT):
    """Keeps what it is given and by which workers it is shared out; says that every clip stays where it is."""

    def __init__(self) -> None:
        super().__init__(SIZE, latent_channels=4, text_width=8)
        self.seen: list[tuple[SequenceGroup | None, Tensor]] = []

    def forward(self, noisy: Tensor, *told: object) -> Tensor:  # type: ignore[override]
        self.seen.append((self.sequence, noisy))
        return torch.zeros_like(noisy)


def test_workers_that_share_out_tokens_are_held_out_the_same_clips_at_the_same_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = held_out_losses(settings(), Divided(), CLIPS, ALONE)
    monkeypatch.setattr("components.train.dit_validation.mean_over_workers", lambda values, context: values)
    told, seen = [], []
    for rank in range(4):
        model, group = Divided(), SequenceGroup(rank % 2, 2)
        told.append(held_out_losses(settings(context_parallel=2), model, CLIPS, replace(ALONE, rank=rank, world_size=4), None, group))
        assert [sequence for sequence, _ in model.seen] == [group, group]
        assert model.sequence is None, "or no copy of it could be made"
        seen.append([noisy for _, noisy in model.seen])
    assert all(map(torch.equal, seen[0], seen[1]))
    assert all(map(torch.equal, seen[2], seen[3]))
    assert not torch.equal(seen[0][0], seen[2][0])
    for name, value in whole.items():
        assert sum(each[name] for each in told) / 4 == pytest.approx(value)


def test_it_is_reported_when_it_is_due_and_the_training_does_not_notice(tmp_path) -> None:
    def train(name: str, **more) -> dict[str, Tensor]:
        place = tmp_path / name
        chosen = settings(validate_every=5, report_every=4)
        torch.manual_seed(0)
        made = train_dit(chosen, new_model(), batches(), EMPTY, Checkpoints(place), TrainContext.local(place), **more)
        assert torch.rand(()) == at_the_end
        return made.state_dict()

    torch.manual_seed(0)
    new_model()
    at_the_end = torch.rand(())
    plain, validated = train("plain"), train("validated", held_out=CLIPS)
    assert all(torch.equal(value, validated[name]) for name, value in plain.items())
    metrics = dict(read_metrics(tmp_path / "validated" / "metrics.jsonl"))
    assert [step for step, told in metrics.items() if "val_loss" in told] == [5, 10, 12]
    assert [step for step, told in metrics.items() if "loss" in told] == [4, 8, 12]
    assert metrics[12]["val_loss"] < metrics[5]["val_loss"]
    untouched = {step: told["loss"] for step, told in read_metrics(tmp_path / "plain" / "metrics.jsonl")}
    assert untouched == {step: told["loss"] for step, told in metrics.items() if "loss" in told}
