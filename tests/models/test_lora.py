"""Adapters: what they change, what stays, and how they become plain weights again."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from components.fitting import check_lora_rank
from components.models.dit import DiT
from components.models.lora import LoraLinear, adapt, adapters_of, merged_state
from components.models.sizes import DitSize

SIZE = DitSize(hidden_size=64, depth=2, num_heads=2, patch_size=(1, 2, 2), text_size=32)


def fresh() -> DiT:
    torch.manual_seed(0)
    model = DiT(SIZE, latent_channels=4, text_width=8)
    for layer in (model.modulation, model.modulation_out, model.patch_out):
        torch.nn.init.normal_(layer.weight, std=0.02)
    return model


def velocity(model: DiT) -> Tensor:
    random = torch.Generator().manual_seed(1)
    noisy, text = torch.randn(2, 4, 2, 4, 4, generator=random), torch.randn(2, 3, 8, generator=random)
    answer: Tensor = model(noisy, torch.tensor([0.3, 0.8]), text, torch.ones(2, 3, dtype=torch.bool), 2.0)
    return answer


def test_a_fresh_adapter_changes_nothing() -> None:
    model = fresh()
    before = velocity(model)
    adapt(model, 4)
    torch.testing.assert_close(velocity(model), before)


def test_only_adapters_learn_and_every_attention_and_feed_forward_has_them() -> None:
    model = fresh()
    layers = [name for name, _ in model.named_modules() if name.endswith((".query", ".key_value", ".out", "feed_forward.into"))]
    base = {name: value.clone() for name, value in model.state_dict().items()}
    adapt(model, 4)
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learning == {f"{name}.{part}" for name in layers for part in ("down", "up")} == adapters_of(model).keys()
    optimizer = torch.optim.SGD([parameter for parameter in model.parameters() if parameter.requires_grad], lr=0.1)
    for _ in range(2):  # `down` moves once `up` did
        velocity(model).square().mean().backward()
        optimizer.step()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None and bool(parameter.grad.any())) == (name in learning), name
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in base.items())


def test_a_plain_model_with_merged_weights_does_the_same() -> None:
    model, plain = fresh(), fresh()
    adapt(model, 4)
    for name, value in adapters_of(model).items():
        value.copy_(torch.randn(value.shape, generator=torch.Generator().manual_seed(len(name))) * 0.1)
    apart = (velocity(model) - velocity(plain)).abs().max()
    plain.load_state_dict(merged_state(model))
    torch.testing.assert_close(velocity(plain), velocity(model), atol=1e-5, rtol=1e-5)
    assert apart > 1e-2
    assert merged_state(plain).keys() == plain.state_dict().keys()
    assert adapters_of(plain) == {}


def test_what_is_learned_is_of_the_rank() -> None:
    torch.manual_seed(0)
    layer = LoraLinear(torch.nn.Linear(12, 20), 3)
    torch.nn.init.normal_(layer.up)
    assert torch.linalg.matrix_rank(layer.merged() - layer.weight) == 3


@pytest.mark.parametrize("rank", [0, 32])
def test_a_rank_that_is_no_less_than_the_layer_is_refused(rank: int) -> None:
    with pytest.raises(ValueError, match=rf"`dit.lora_rank` {rank} is not below 32, .* hint: `--set dit.lora_rank=16`"):
        adapt(fresh(), rank)


@pytest.mark.parametrize(
    ("size", "narrowest"), [(SIZE, 32), (replace(SIZE, text_size=96), 64), (replace(SIZE, text_size=96, mlp_ratio=0.5), 32)]
)
def test_settings_are_refused_the_ranks_that_a_model_is(size: DitSize, narrowest: int) -> None:
    check_lora_rank(None, size, "a model")
    check_lora_rank(narrowest - 1, size, "a model")
    adapt(DiT(size, latent_channels=4, text_width=8), narrowest - 1)
    for refused in (lambda: check_lora_rank(narrowest, size, "a model"), lambda: adapt(DiT(size, 4, 8), narrowest)):
        with pytest.raises(ValueError, match=rf"`dit.lora_rank` {narrowest} is not below {narrowest}, the width of the narrowest layer"):
            refused()
