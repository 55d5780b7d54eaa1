import platform
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.models import linear
from components.models.linear import Linear, asks_one_dnn, linear_of_both
from components.models.lora import LoraLinear

SHAPES = [(5, 12), (2, 3, 12), (1, 12)]


def twins(bias: bool = True) -> tuple[Linear, nn.Linear]:
    """Answers a layer of ours and one of torch's with the same weights."""
    ours, theirs = Linear(12, 20, bias=bias), nn.Linear(12, 20, bias=bias)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


@pytest.fixture(autouse=True)
def one_dnn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has it asked on whatever CPU this is, where this torch can."""
    monkeypatch.setattr(linear, "_ONE_DNN", linear.CALL)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="torch has oneDNN on x86")
def test_this_torch_has_the_call_that_is_made() -> None:
    assert asks_one_dnn(torch.ones(2, 3), torch.ones(4, 3))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_it_answers_and_learns_as_the_layer_of_torch_does(shape: tuple[int, ...], bias: bool) -> None:
    (ours, theirs), x = twins(bias), torch.randn(shape)
    inputs = [x.clone().requires_grad_(), x.clone().requires_grad_()]
    answers = [layer(given) for layer, given in zip((ours, theirs), inputs, strict=True)]
    torch.testing.assert_close(*answers, atol=1e-6, rtol=1e-5)
    weights = torch.randn_like(answers[0])
    for answer in answers:
        (answer * weights).sum().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, atol=1e-5, rtol=1e-5)
    for mine, torchs in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, torchs.grad, atol=1e-5, rtol=1e-5)
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), theirs(x), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(ours.then_gelu(x), F.gelu(theirs(x)), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(ours.then_gelu(x), F.gelu(theirs(x)), atol=1e-6, rtol=1e-5)


def test_only_what_learns_gets_a_gradient() -> None:
    layer, x = Linear(12, 20), torch.randn(5, 12)
    layer(x).sum().backward()
    assert layer.weight.grad is not None
    frozen, given = Linear(12, 20).requires_grad_(False), x.clone().requires_grad_()
    frozen(given).sum().backward()
    assert (frozen.weight.grad, given.grad is None) == (None, False)
    frozen.bias.requires_grad_(True)
    frozen(x).sum().backward()
    torch.testing.assert_close(frozen.bias.grad, torch.full((20,), 5.0))


@pytest.mark.parametrize("turned", [lambda x: x.mT.contiguous().mT, lambda x: torch.cat([x, x], dim=1)[:, : x.shape[1]], lambda x: x[::2]])
def test_how_the_input_and_the_gradient_lie_in_memory_does_not_matter(turned: Callable[[Tensor], Tensor]) -> None:
    (ours, theirs), x = twins(), torch.randn(6, 12)
    grads = []
    for layer in (ours, theirs):
        given = x.clone().requires_grad_()
        answer = layer(turned(given))
        (turned(answer) * turned(torch.arange(answer.numel()).view(answer.shape) / 100.0)).sum().backward()
        grads.append((answer.detach(), given.grad, layer.weight.grad, layer.bias.grad))
    for mine, torchs in zip(*grads, strict=True):
        torch.testing.assert_close(mine, torchs, atol=1e-4, rtol=1e-5)


def test_other_numbers_a_vector_and_no_rows_are_torchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = Linear(12, 20), torch.randn(5, 12)
    vector = x[0].clone().requires_grad_()
    layer(vector).sum().backward()
    torch.testing.assert_close(vector.grad, layer.weight.sum(dim=0))
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    assert layer.double()(x.double()).dtype == torch.float64
    assert Linear(12, 20)(torch.empty(0, 12)).shape == (0, 20)
    assert Linear(12, 20, device="meta")(torch.empty(5, 12, device="meta")).shape == (5, 20)
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    assert not asks_one_dnn(x, Linear(12, 20).weight)


def test_an_adapter_is_part_of_what_goes_through_the_gelu() -> None:
    layer, x = LoraLinear(Linear(12, 20), 2), torch.randn(5, 12)
    nn.init.normal_(layer.up)
    with torch.inference_mode():
        torch.testing.assert_close(layer.then_gelu(x), F.gelu(F.linear(x, layer.merged(), layer.bias)), atol=1e-5, rtol=1e-5)


def test_where_torch_lacks_the_call_the_layer_is_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    (ours, theirs), x = twins(), torch.randn(5, 12)
    monkeypatch.setattr(linear, "_ONE_DNN", None)
    with torch.inference_mode():
        assert torch.equal(ours(x), theirs(x))
        assert torch.equal(ours.then_gelu(x), F.gelu(theirs(x)))


def test_two_layers_in_one_product_answer_and_learn_as_each_by_itself():
    first, second = Linear(12, 20), Linear(12, 8)
    x, weights = torch.randn(2, 5, 12), torch.randn(2, 5, 28)
    gradients = []
    for answer in (linear_of_both(x, first, second), torch.cat([first(x), second(x)], dim=-1)):
        (answer * weights).sum().backward()
        gradients.append([parameter.grad.clone() for parameter in (*first.parameters(), *second.parameters())])
        first.zero_grad(), second.zero_grad()
    torch.testing.assert_close(linear_of_both(x, first, second), torch.cat([first(x), second(x)], dim=-1), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(linear_of_both(x, first, second), torch.cat([first(x), second(x)], dim=-1))
