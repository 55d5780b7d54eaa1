"""The optimiser against torch's own, its schedules, and its way through a checkpoint."""

import pytest
import torch
from torch import nn

from components.train.checkpoint import load_optimizer_tensors, optimizer_tensors
from components.train.optim import (
    Muon,
    adamw_for,
    clip_gradients,
    cosine_schedule,
    linear_schedule,
    muon_for,
    orthogonal,
    set_learning_rate,
    update_ema,
)


def test_orthogonal_brings_all_singular_values_near_one():
    for shape in ((16, 64), (64, 16), (24, 24)):
        matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        values = torch.linalg.svdvals(orthogonal(matrix))
        assert values.min() > 0.3  # the smallest of a square matrix starts near zero and is lifted last
        assert values.max() < 1.3
    left, _, right = torch.linalg.svd(matrix := torch.randn(8, 40), full_matrices=False)
    cosine = torch.cosine_similarity(orthogonal(matrix).flatten(), (left @ right).flatten(), dim=0)
    assert cosine > 0.97


def test_the_rest_moves_as_torch_adamw_moves_it():
    ours, theirs = nn.Parameter(torch.linspace(-1, 1, 7)), nn.Parameter(torch.linspace(-1, 1, 7))
    muon = Muon([], [ours], learning_rate=0.01, betas=(0.9, 0.95))
    adamw = torch.optim.AdamW([theirs], lr=0.01, betas=(0.9, 0.95), weight_decay=0.0)
    for step in range(5):
        for parameter, optimizer in ((ours, muon), (theirs, adamw)):
            optimizer.zero_grad()
            ((parameter - step) ** 3).sum().backward()
            optimizer.step()
    torch.testing.assert_close(ours, theirs)


def test_muon_moves_a_matrix_as_torch_muon_does():
    ours, theirs = (nn.Parameter(torch.linspace(-1, 1, 96).view(8, 12)) for _ in range(2))
    muon = Muon([ours], [], learning_rate=0.01, weight_decay=0.1)
    reference = torch.optim.Muon([theirs], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    start = ours.detach().clone()
    for step in range(3):
        for parameter, optimizer in ((ours, muon), (theirs, reference)):
            parameter.grad = torch.randn(8, 12, generator=torch.Generator().manual_seed(step))
            optimizer.step()
    moved, expected = (ours - start).detach(), (theirs - start).detach()
    assert torch.cosine_similarity(moved.flatten(), expected.flatten(), dim=0) > 0.999  # torch's iterates in bfloat16
    assert moved.norm().item() == pytest.approx(expected.norm().item(), rel=0.02)


def test_muon_refuses_vectors():
    with pytest.raises(ValueError, match="others"):
        Muon([nn.Parameter(torch.zeros(3))], [], learning_rate=0.1)


def test_an_optimiser_goes_through_a_checkpoint_bit_for_bit():
    def build():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv3d(3, 8, 3), nn.SiLU(), nn.Conv3d(8, 3, 1))
        return model, muon_for(model, 0.01, 0.1, adamw=("2.",))

    def train(model, optimizer, steps):
        for step in steps:
            clip = torch.randn(2, 3, 4, 4, 4, generator=torch.Generator().manual_seed(step))
            optimizer.zero_grad()
            model(clip).square().mean().backward()
            optimizer.step()

    model, optimizer = build()
    train(model, optimizer, range(3))
    kept = {name: tensor.clone() for name, tensor in optimizer_tensors(optimizer, dict(model.named_parameters())).items()}
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    train(model, optimizer, range(3, 6))

    again, resumed = build()
    again.load_state_dict(weights)
    load_optimizer_tensors(resumed, dict(again.named_parameters()), kept)
    train(again, resumed, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_only_hidden_matrices_go_to_muon():
    model = nn.ModuleDict({"embed": nn.Embedding(5, 4), "hidden": nn.Linear(4, 4), "norm": nn.LayerNorm(4)})
    groups = {group["kind"]: group["params"] for group in muon_for(model, 0.1, adamw=("embed",)).param_groups}
    assert [id(p) for p in groups["muon"]] == [id(model["hidden"].weight)]
    assert len(groups["adamw"]) == 4


def test_schedules_rise_stay_and_end_at_zero():
    assert [linear_schedule(step, 4) for step in range(4)] == [1.0, 0.75, 0.5, 0.25]
    assert [linear_schedule(step, 10, 2, 0.5) for step in (0, 1, 2, 6, 8, 10)] == pytest.approx([1 / 3, 2 / 3, 1, 1, 0.5, 0])
    assert cosine_schedule(0, 10) == 1.0
    assert cosine_schedule(5, 10) == pytest.approx(0.5)
    assert cosine_schedule(10, 10, floor=0.1) == pytest.approx(0.1)
    optimizer = adamw_for(nn.Linear(2, 2), 0.2)
    assert set_learning_rate(optimizer, 0.25) == pytest.approx(0.05)
    assert all(group["lr"] == pytest.approx(0.05) for group in optimizer.param_groups)


@pytest.mark.parametrize("schedule", [linear_schedule, cosine_schedule])
def test_a_warm_up_as_long_as_all_steps_is_a_tenth_of_them_and_any_other_as_it_is_set(schedule):
    for warmup_steps in (20, 50):
        assert [schedule(step, 20, warmup_steps) for step in range(21)] == [schedule(step, 20, 2) for step in range(21)]
    assert max(schedule(step, 20, 50) for step in range(20)) == 1.0
    assert [schedule(step, 20, 19) for step in range(19)] == pytest.approx([(step + 1) / 20 for step in range(19)])
    assert schedule(0, 1, 50) == 1.0


def test_gradients_are_scaled_only_when_finite_and_too_large():
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([3.0, 4.0])
    assert clip_gradients([parameter], 1.0) == pytest.approx(5.0)
    torch.testing.assert_close(parameter.grad, torch.tensor([0.6, 0.8]))
    parameter.grad = torch.tensor([float("nan"), 1.0])
    assert clip_gradients([parameter], 1.0) != clip_gradients([parameter], 1.0)
    assert parameter.grad[1] == 1.0


def test_the_average_of_constant_weights_is_the_weights():
    model, average = nn.Linear(3, 3), nn.Linear(3, 3)
    update_ema(average, model, 0.9, step=0)  # the first step is taken whole
    torch.testing.assert_close(average.weight, model.weight)
    before = model.weight.detach().clone()
    with torch.no_grad():
        model.weight.add_(1.0)
    update_ema(average, model, 0.9, step=1000)
    torch.testing.assert_close(average.weight, before + 0.1)


def test_a_young_average_leans_to_the_newest_weights():
    model, average = nn.Linear(1, 1), nn.Linear(1, 1)
    for step in range(10):
        with torch.no_grad():
            model.weight.fill_(step)
        update_ema(average, model, 0.9999, step)
    share, expected = 1.0, 0.0
    for step in range(9, -1, -1):
        weight = 10 / (step + 10)
        expected, share = expected + share * weight * step, share * (1 - weight)
    assert average.weight.item() == pytest.approx(expected)
    assert average.weight.item() > 4.5 + 2.0, "their plain mean"
