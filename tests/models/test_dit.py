import os
import shutil
from dataclasses import replace

import pytest
import torch
from torch import nn

from components.models import attention
from components.models.dit import DiT, dit_size, load_dit, positions
from components.models.lora import adapt
from components.models.patches import pad_to_patches, patchify, token_grid, unpatchify
from components.models.rotary import token_places
from components.models.sizes import DIT_SIZES, DitSize
from components.models.text_refiner import mask_of_padding
from components.models.weights import DamagedFolderError, save_folder

SIZE = DitSize(hidden_size=48, depth=2, num_heads=2, patch_size=(1, 2, 2), text_size=32)


def make(seed: int = 0, size: DitSize = SIZE) -> DiT:
    """A model whose zero layers have moved, as after some training."""
    torch.manual_seed(seed)
    model = DiT(size, latent_channels=4, text_width=16)
    for layer in (model.modulation, model.modulation_out, model.patch_out):
        nn.init.normal_(layer.weight, std=0.1)
    return model


def inputs(batch: int = 2, frames: int = 3, height: int = 4, width: int = 6):
    generator = torch.Generator().manual_seed(1)
    mask = torch.ones(batch, 5, dtype=torch.bool)
    mask[:, 4:] = False
    return (
        torch.randn(batch, 4, frames, height, width, generator=generator),
        torch.rand(batch, generator=generator),
        torch.randn(batch, 5, 16, generator=generator),
        mask,
    )


def test_velocity_has_the_shape_of_the_latents_for_one_frame_and_any_size():
    model = make()
    for shape in ((1, 4, 4), (1, 2, 8), (3, 4, 6), (2, 5, 3)):
        noisy, t, text, mask = inputs(2, *shape)
        assert model(noisy, t, text, mask, 2.0).shape == noisy.shape


def test_an_untrained_model_sees_the_mean_clip_in_everything():
    """Its last layer is zero and latents have mean zero, so the velocity is the one that leads to zero."""
    noisy, t, text, mask = inputs()
    velocity = DiT(SIZE, 4, 16)(noisy, t.clamp(min=0.1), text, mask, 2.0)
    torch.testing.assert_close(noisy - t.clamp(min=0.1).view(-1, 1, 1, 1, 1) * velocity, torch.zeros_like(noisy), atol=1e-5, rtol=0)


def test_gradients_reach_every_parameter():
    model = make()
    model(*inputs(), 2.0).square().mean().backward()
    silent = [name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.abs().sum() > 0]
    assert silent == []


def test_the_same_timestep_for_every_token_is_the_timestep_of_the_clip():
    model = make()
    noisy, t, text, mask = inputs()
    each = t[:, None].expand(-1, 3 * 2 * 3)
    torch.testing.assert_close(model(noisy, each, text, mask, 2.0), model(noisy, t, text, mask, 2.0), atol=1e-5, rtol=1e-4)


def test_a_token_of_its_own_timestep_changes_the_answer():
    model = make()
    noisy, t, text, mask = inputs()
    each = t[:, None].repeat(1, 18)
    each[:, :6] = 0.0  # the first frame is kept
    assert (model(noisy, each, text, mask, 2.0) - model(noisy, t, text, mask, 2.0)).abs().max() > 1e-3


def test_a_timestep_a_frame_is_that_of_each_of_its_tokens():
    model = make()
    noisy, _, text, mask = inputs()
    by_frame = torch.tensor([[0.0, 0.5, 0.9], [0.3, 0.0, 0.0]])
    by_token = by_frame.repeat_interleave(2 * 3, dim=1)
    torch.testing.assert_close(model(noisy, by_frame, text, mask, 2.0), model(noisy, by_token, text, mask, 2.0), atol=1e-5, rtol=1e-4)


def test_packed_clips_are_what_each_is_alone():
    """Forward and backward, at one timestep a clip, a frame or a token."""
    model = make()
    shapes = [(3, 4, 6), (3, 4, 6), (1, 4, 4), (2, 5, 3), (3, 4, 6)]
    _, _, text, mask = inputs(5)
    clips = [torch.randn(4, *shape, generator=torch.Generator().manual_seed(place)) for place, shape in enumerate(shapes)]
    t = [torch.tensor(0.3), torch.rand(3), torch.tensor([0.7]), torch.rand(2 * 3 * 2), torch.tensor([0.0, 0.4, 0.4])]
    fps = torch.tensor([2.0, 4.0, 1.0, 6.0, 2.0])
    packed = model(clips, t, text, mask, fps)
    sum(velocity.square().mean() for velocity in packed).backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    for place, (clip, velocity) in enumerate(zip(clips, packed, strict=True)):
        each = slice(place, place + 1)
        alone = model(clip[None], t[place].view(1, -1), text[each], mask[each], fps[each])
        assert velocity.shape == clip.shape
        torch.testing.assert_close(velocity, alone[0], atol=1e-5, rtol=1e-5)
        alone.square().mean().backward()
    for one, parameter in zip(gradients, model.parameters(), strict=True):
        torch.testing.assert_close(one, parameter.grad, atol=1e-5, rtol=1e-3)


def test_the_frame_rate_changes_the_answer_of_a_video_and_not_that_of_an_image():
    model = make()
    noisy, t, text, mask = inputs()
    assert (model(noisy, t, text, mask, 2.0) - model(noisy, t, text, mask, 4.0)).abs().max() > 1e-4
    image = noisy[:, :, :1]
    torch.testing.assert_close(model(image, t, text, mask, 2.0), model(image, t, text, mask, 4.0))


def test_clips_of_a_batch_do_not_see_each_other():
    model = make()
    noisy, t, text, mask = inputs(3)
    torch.testing.assert_close(
        model(noisy, t, text, mask, 2.0)[1:2], model(noisy[1:2], t[1:2], text[1:2], mask[1:2], 2.0), atol=1e-5, rtol=1e-4
    )


def test_text_behind_the_mask_does_not_matter_and_text_before_it_does():
    model = make()
    noisy, t, text, mask = inputs()
    answer = model(noisy, t, text, mask, 2.0)
    behind, before = text.clone(), text.clone()
    behind[:, 4:] = 7.0
    before[:, 3] = 7.0
    torch.testing.assert_close(model(noisy, t, behind, mask, 2.0), answer)
    torch.testing.assert_close(model(noisy, t, text[:, :4], mask[:, :4], 2.0), answer, atol=1e-5, rtol=1e-4)
    assert (model(noisy, t, before, mask, 2.0) - answer).abs().max() > 1e-3


def test_long_clips_whose_norm_scales_and_shifts_come_to_the_same(monkeypatch):
    model = make()
    noisy, t, text, mask = inputs()

    def answers():
        velocity = model(noisy, t, text, mask, 2.0)
        return velocity, *torch.autograd.grad(velocity.square().mean(), list(model.parameters()))

    short = answers()
    monkeypatch.setattr("components.models.dit.LONG_CLIP", 1)
    for one, other in zip(short, answers(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_in_mixed_precision_the_velocity_is_near_and_every_gradient_finite():
    model = make()
    noisy, t, text, mask = inputs()
    exact = model(noisy, t, text, mask, 2.0)
    with torch.autocast("cpu", torch.bfloat16):
        near = model(noisy, t, text, mask, 2.0)
    assert near.dtype == torch.float32
    assert (near - exact).norm() < 0.03 * exact.norm()
    near.square().mean().backward()
    assert all(bool(parameter.grad.isfinite().all()) for parameter in model.parameters())


def test_frames_see_each_other_in_both_directions():
    model = make()
    noisy, t, text, mask = inputs()
    for frame in (0, 2):
        other = noisy.clone()
        other[:, :, frame] += 1.0
        apart = (model(other, t, text, mask, 2.0) - model(noisy, t, text, mask, 2.0)).abs().amax(dim=(0, 1, 3, 4))
        assert (apart > 1e-5).all()


def test_tokens_go_back_where_they_came_from():
    latents = torch.randn(2, 4, 4, 6, 8)
    for patch in ((1, 2, 2), (2, 3, 4), (1, 1, 1)):
        tokens = patchify(latents, patch)
        assert tokens.shape == (2, 4 * 6 * 8 // (patch[0] * patch[1] * patch[2]), 4 * patch[0] * patch[1] * patch[2])
        assert torch.equal(unpatchify(tokens, token_grid(latents.shape[2:], patch), patch), latents)


def test_a_patch_is_a_block_of_the_latents():
    latents = torch.randn(1, 4, 2, 4, 4)
    assert torch.equal(patchify(latents, (1, 2, 2))[0, 5].view(4, 1, 2, 2), latents[0, :, 1:2, 0:2, 2:4])


def test_odd_sides_are_padded_with_zeros_behind():
    padded = pad_to_patches(torch.ones(1, 2, 1, 3, 5), (1, 2, 4))
    assert padded.shape == (1, 2, 1, 4, 8)
    assert padded.sum() == 2 * 3 * 5


def test_no_two_places_look_alike_and_those_of_a_larger_grid_begin_with_those_of_a_smaller_one():
    small, large = (positions(token_places(grid, torch.tensor([0.25]))[0], 48) for grid in ((1, 2, 2), (3, 4, 5)))
    torch.testing.assert_close(small.view(2, 2, 48), large.view(3, 4, 5, 48)[0, :2, :2])
    assert torch.pdist(large).min() > 0.1


def test_what_is_computed_again_on_the_way_back_changes_no_gradient():
    kept, again = make(), make()
    again.recompute = True
    for model in (kept, again):
        model(*inputs(), 2.0).square().mean().backward()
    for one, other in zip(kept.parameters(), again.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


def test_a_saved_model_answers_the_same(tmp_path):
    model = make()
    notes = {
        "size": {
            "hidden_size": 48,
            "depth": 2,
            "num_heads": 2,
            "patch_size": [1, 2, 2],
            "mlp_ratio": 4.0,
            "text_size": 32,
            "refiner_depth": 1,
        },
        "latent_channels": 4,
        "text_width": 16,
    }
    save_folder(tmp_path / "dit", {"dit": model.state_dict()}, {"dit": notes})
    loaded, read = load_dit(tmp_path / "dit")
    assert read == notes
    assert dit_size(read["size"]) == SIZE
    assert torch.equal(loaded(*inputs(), 2.0), model(*inputs(), 2.0))
    (tmp_path / "dit" / "dit.safetensors").write_bytes(b"cut")
    with pytest.raises(DamagedFolderError, match=r"dit\.safetensors"):
        load_dit(tmp_path / "dit")


@pytest.mark.parametrize(("name", "published"), [("1.3b", 1.42e9), ("5b", 5.0e9), ("14b", 14.3e9)])
def test_the_published_sizes_have_as_many_parameters_as_their_models(name, published):
    """Wan's checkpoints."""
    with torch.device("meta"):
        model = DiT(DIT_SIZES[name], 48 if name == "5b" else 16, 4096)
    assert abs(sum(parameter.numel() for parameter in model.parameters()) - published) < 0.02 * published


@pytest.mark.parametrize("name", DIT_SIZES)
def test_named_sizes_can_be_built(name):
    with torch.device("meta"):
        DiT(DIT_SIZES[name], 16, 128)


@pytest.mark.slow
@pytest.mark.parametrize("as_on_a_gpu", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_compiled_blocks_do_the_same_under_the_same_names(as_on_a_gpu, masked, monkeypatch):
    if as_on_a_gpu:  # query, key and value in one product
        monkeypatch.setattr(attention, "in_one_product", lambda x, first, second: torch.compiler.is_compiling())
    plain, compiled = make(), make()
    compiled.compile_blocks("aot_eager")
    compiled.recompute = True
    noisy, _, text, mask = inputs()
    t = torch.tensor([[0.0, 0.5, 0.9], [0.3, 0.0, 0.0]])
    answers = [model(noisy, t, text, mask if masked else None, 2.0) for model in (plain, compiled)]
    torch.testing.assert_close(answers[1], answers[0], atol=1e-5, rtol=1e-4)
    for answer in answers:
        answer.square().mean().backward()
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    for (name, parameter), other in zip(plain.named_parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(other.grad, parameter.grad, atol=1e-5, rtol=1e-3, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="no C++ compiler, which inductor needs on a CPU")
@pytest.mark.parametrize("rank", [None, 2], ids=["all weights", "adapters"])
def test_a_block_compiled_by_inductor_does_the_same_to_packed_clips_of_two_shapes(rank):
    plain, compiled = (make(size=replace(SIZE, depth=1)) for _ in range(2))
    for model in (plain, compiled):
        if rank is not None:
            torch.manual_seed(2)
            adapt(model, rank)
            for name, parameter in model.named_parameters():
                if name.endswith(".up"):
                    nn.init.normal_(parameter, std=0.1)
    compiled.compile_blocks()
    clips = [inputs()[0][0], inputs()[0][1], inputs(1, 1, 6, 4)[0][0]]
    times = [torch.tensor([0.0, 0.5, 0.9]), torch.tensor([0.3, 0.0, 0.0]), torch.tensor([0.7])]
    _, _, text, mask = inputs(3)
    answers = [model(clips, times, text, mask, 2.0) for model in (plain, compiled)]
    for one, other in zip(*answers, strict=True):
        torch.testing.assert_close(other, one, atol=1e-4, rtol=1e-4)
    for answer in answers:
        torch.stack([velocity.square().mean() for velocity in answer]).sum().backward()
    for (name, parameter), other in zip(plain.named_parameters(), compiled.parameters(), strict=True):
        assert (parameter.grad is None) == (other.grad is None) == (not parameter.requires_grad), name
        if parameter.grad is not None:
            torch.testing.assert_close(other.grad, parameter.grad, atol=1e-4, rtol=1e-3, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("refiner_depth", [0, 1])
def test_no_mask_says_what_a_mask_of_text_alone_says(refiner_depth):
    torch.manual_seed(0)
    model = DiT(DitSize(64, 2, 4, (1, 2, 2), text_size=32, refiner_depth=refiner_depth), latent_channels=4, text_width=8)
    for layer in (model.modulation, model.modulation_out, model.patch_out):
        torch.nn.init.normal_(layer.weight, std=0.1)
    noisy, t, text = torch.randn(2, 4, 3, 6, 6), torch.rand(2), torch.randn(2, 40, 8)
    whole = torch.ones(2, 40, dtype=torch.bool)
    assert mask_of_padding(whole, "cpu") is None
    torch.testing.assert_close(model(noisy, t, text, None, 2.0), model(noisy, t, text, whole, 2.0), atol=1e-5, rtol=1e-5)
    whole[1, 30:] = False
    assert torch.equal(mask_of_padding(whole, "cpu"), whole)
