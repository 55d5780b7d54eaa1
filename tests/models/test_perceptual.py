"""LPIPS against a VGG16 built layer by layer as torchvision's is, and the files it is read from."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from components.models.perceptual import Perceptual, load_perceptual

WIDTHS = (4, 4, "M", 6, 6, "M", 8, 8, 8, "M", 10, 10, 10, "M", 10, 10, 10, "M")  # VGG16's plan, each layer far narrower
ENDS = (4, 9, 16, 23, 30)  # of the slices that the lpips package cuts it into


def vgg() -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    width = 3
    for planned in WIDTHS:
        if isinstance(planned, int):
            layers += [nn.Conv2d(width, planned, 3, padding=1), nn.ReLU()]
            nn.init.uniform_(layers[-2].bias, 0.05, 0.2)  # type: ignore[arg-type]  # so that each place sees something
            width = planned
        else:
            layers.append(nn.MaxPool2d(2, 2))
    return nn.Sequential(*layers)


def heads() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {f"lin{stage}.model.1.weight": torch.rand(1, width, 1, 1, generator=generator) for stage, width in enumerate((4, 6, 8, 10, 10))}


def torchvision_s() -> dict[str, Tensor]:
    return {f"features.{name}": value for name, value in vgg().state_dict().items()}


def some_pictures(side: int = 32) -> tuple[Tensor, Tensor]:
    first, second = 2 * torch.rand(2, 3, 3, side, side + 16, generator=torch.Generator().manual_seed(2)) - 1
    return first, second


def by_hand(pictures: Tensor, others: Tensor) -> Tensor:
    net, weights, total = vgg(), list(heads().values()), torch.zeros(len(pictures))
    mean, deviation = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    seen = [((of.movedim(1, -1) - mean) / deviation).movedim(-1, 1) for of in (pictures, others)]
    start = 0
    for end, weight in zip(ENDS, weights, strict=True):
        seen = [net[start:end](of) for of in seen]
        one, other = (nn.functional.normalize(of) for of in seen)
        total = total + ((one - other).square() * weight).sum(1).mean((1, 2))
        start = end
    return total


def test_the_distance_is_that_of_its_formula() -> None:
    pictures, others = some_pictures()
    net = Perceptual(torchvision_s() | heads())
    torch.testing.assert_close(net(pictures, others), by_hand(pictures, others))
    assert torch.equal(net(pictures, pictures), torch.zeros(3))


def test_the_gradient_is_that_of_its_formula_and_reaches_no_weight() -> None:
    pictures, others = some_pictures()
    pictures.requires_grad_()
    net = Perceptual(torchvision_s() | heads())
    found, expected = (torch.autograd.grad(distance(pictures, others).sum(), pictures)[0] for distance in (net, by_hand))
    torch.testing.assert_close(found, expected)
    assert list(net.parameters()) == []


def test_black_and_small_pictures_have_gradients() -> None:
    net = Perceptual({name: value - 2 * value.abs() for name, value in torchvision_s().items()} | heads())  # nothing is ever seen
    for side in (8, 32):
        pictures = some_pictures(side)[0].requires_grad_()
        net(pictures, torch.zeros_like(pictures)).sum().backward()
        assert pictures.grad is not None
        assert pictures.grad.isfinite().all()


def test_files_of_torchvision_and_of_the_lpips_package_are_the_same_net(tmp_path: Path) -> None:
    theirs = torchvision_s()
    slices = {number: next(place for place, end in enumerate(ENDS, 1) if number < end) for number in range(30)}
    lpips_s = {f"net.slice{slices[int(name.split('.')[1])]}.{name.removeprefix('features.')}": value for name, value in theirs.items()}
    beside = {"scaling_layer.shift": torch.zeros(1, 3, 1, 1), "lins.0.model.1.weight": torch.zeros(1, 4, 1, 1)}
    save_file(lpips_s | heads() | beside, tmp_path / "lpips.safetensors")
    folder = tmp_path / "two"
    folder.mkdir()
    save_file(theirs | {"classifier.0.weight": torch.zeros(2, 2)}, folder / "vgg16.safetensors")
    save_file(heads(), folder / "heads.safetensors")
    pictures, others = some_pictures()
    expected = by_hand(pictures, others)
    for place in (tmp_path / "lpips.safetensors", folder):
        torch.testing.assert_close(load_perceptual(place)(pictures, others), expected)


def test_weights_that_are_none_are_refused_in_one_sentence(tmp_path: Path) -> None:
    save_file(torchvision_s(), tmp_path / "vgg16.safetensors")
    with pytest.raises(ValueError, match=r"no `lin0.model.1.weight` is among the 26 perceptual weights; hint: "):
        load_perceptual(tmp_path)
    with pytest.raises(ValueError, match=r"has no safetensors; hint: .* `vae.perceptual_loss_weight=0`"):
        load_perceptual(tmp_path / "elsewhere")
    (tmp_path / "vgg16.safetensors").write_bytes(b"PK\x03\x04 of torch.save")
    with pytest.raises(ValueError, match=r"is not a safetensors file .*; hint: "):
        load_perceptual(tmp_path)
