"""Texts are read at the first step of sampling; the steps after it answer the same, bit for bit, without reading them."""

import pytest
import torch
from torch import Tensor

from components.generate.conditioning import Guidance, told_velocity
from components.models import dit
from components.models.dit import KEPT_TEXT, Block, DiT
from components.models.lora import adapt
from components.models.step_cache import StepCache
from components.models.text_refiner import KeptText
from tests.models.test_dit import inputs, make

FPS = 2.0


def counted(model: DiT) -> list[str]:
    """Answers a list that grows by a name whenever a model reads a text, or brings it to a block's keys and values."""
    done: list[str] = []
    model.text_refiner.register_forward_hook(lambda *_: done.append("text"))
    for block in model.blocks:
        assert isinstance(block, Block)
        block.text_attention.key_value.register_forward_hook(lambda *_: done.append("keys"))
    return done


@pytest.mark.parametrize("adapted", [False, True])
@torch.inference_mode()
def test_a_text_is_read_at_the_first_step_alone_and_every_step_answers_the_same(adapted: bool) -> None:
    model = make()
    if adapted:
        adapt(model, 2)
    noisy, t, text, mask = inputs()
    kept, times = KeptText(), [t, t / 2, t[:, None].expand(-1, noisy.shape[2]) / 3]
    plain = [model(noisy, each, text, mask, FPS) for each in times]
    done = counted(model)
    for each, expected in zip(times, plain, strict=True):
        assert torch.equal(model(noisy, each, text, mask, FPS, None, kept), expected)
    assert done == ["text", "keys", "keys"]


@torch.inference_mode()
def test_beside_a_long_clip_a_text_is_read_once_but_takes_no_memory_for_keys() -> None:
    model = make()
    noisy, t, text, mask = inputs(1, 3, 2 * KEPT_TEXT, 16)
    kept, plain = KeptText(), model(noisy, t, text, mask, FPS)
    done = counted(model)
    for _ in range(2):
        assert torch.equal(model(noisy, t, text, mask, FPS, None, kept), plain)
    assert done == ["text", *["keys"] * 4]
    assert {each.shape for each in kept.of_blocks if isinstance(each, Tensor)} == {(1, 5, 32)}


@pytest.mark.parametrize("frames", [3, 3 * KEPT_TEXT])
@torch.inference_mode()
def test_a_step_cache_asks_for_some_rows_of_a_kept_text(frames: int) -> None:
    model = make()
    noisy, t, text, mask = inputs(2, frames)
    near, far = noisy + 1e-4, noisy.flip(1)
    answers = []
    for kept in (None, KeptText()):
        cache = StepCache(0.05, 2)
        model(noisy, t, text, mask, FPS, cache, kept)
        answers.append(model(torch.stack([near[0], far[1]]), t, text, mask, FPS, cache, kept))
        assert (cache.asked, cache.ran) == (4, 3)
    assert torch.equal(*answers)


@torch.inference_mode()
def test_guidance_in_an_interval_keeps_the_prompts_with_and_without_the_negative_one() -> None:
    model = make()
    noisy, _, text, mask = inputs(3)
    guidance, steps = Guidance(4.0, (0.2, 0.6)), [torch.tensor(t, dtype=torch.float64) for t in (0.9, 0.5, 0.3, 0.1)]
    anew = [told_velocity(model, text, mask, guidance, FPS)(noisy[:2], t) for t in steps]
    velocity, done = told_velocity(model, text, mask, guidance, FPS), counted(model)
    for t, expected in zip(steps, anew, strict=True):
        assert torch.equal(velocity(noisy[:2], t), expected)
    assert done.count("text") == 2  # outside of the interval, and within


@torch.inference_mode()
def test_compiled_blocks_are_told_of_a_kept_text_too() -> None:
    model = make()
    noisy, t, text, mask = inputs()
    plain = model(noisy, t, text, mask, FPS)
    model.compile_blocks(backend="aot_eager")
    kept = KeptText()
    for _ in range(2):
        torch.testing.assert_close(model(noisy, t, text, mask, FPS, None, kept), plain, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_what_is_kept_is_keys_and_values_alone_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make()
    noisy, t, text, mask = inputs()
    kept, bounded = KeptText(), KeptText()
    model(noisy, t, text, mask, FPS, None, kept)
    parts = [part for heads in kept.of_blocks for part in heads]
    assert sum(part.untyped_storage().nbytes() for part in parts) == 2 * 5 * 2 * 48 * 2 * 4  # clips, tokens, both, width, blocks, bytes
    monkeypatch.setattr(dit, "KEPT_BYTES", 2 * 5 * 2 * 48 * 2 * 4 - 1)
    model(noisy, t, text, mask, FPS, None, bounded)
    assert all(isinstance(of_block, Tensor) for of_block in bounded.of_blocks)
