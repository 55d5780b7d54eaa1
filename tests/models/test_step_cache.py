import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from components.diffusion.samplers import euler, sampling_timesteps
from components.models.dit import DiT
from components.models.sizes import DitSize
from components.models.step_cache import Recording, StepCache, fit_gain, relative_change

SIZE = DitSize(hidden_size=48, depth=2, num_heads=2, patch_size=(1, 2, 2), text_size=32)
PROMPTS = 2
TEXT, MASK = torch.randn(2 * PROMPTS, 5, 16, generator=torch.Generator().manual_seed(1)), torch.ones(2 * PROMPTS, 5, dtype=torch.bool)
NOISE = torch.randn(PROMPTS, 4, 3, 4, 6, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def model():
    """A model whose zero layers have moved, and that counts what passes through its blocks."""
    torch.manual_seed(0)
    made = DiT(SIZE, latent_channels=4, text_width=16).eval()
    for layer in (made.modulation, made.modulation_out, made.patch_out):
        torch.nn.init.normal_(layer.weight, std=0.1)
    made.tokens = []
    made.blocks[0].register_forward_hook(lambda block, told, answer: made.tokens.append(len(answer)))
    return made


@torch.no_grad()
def sampled(model, cache, prompts=range(PROMPTS), kept=None):
    """Samples with guidance, a row with and a row without the text for each prompt."""
    rows = [*prompts, *(PROMPTS + prompt for prompt in prompts)]

    def velocity(noisy, t):
        times = t.expand(len(rows), 3) if kept is None else (~kept * t).expand(len(rows), -1)
        told, without = model(torch.cat([noisy, noisy]), times, TEXT[rows], MASK[rows], 4.0, cache).chunk(2)
        guided = without + 2.0 * (told - without)
        return guided if kept is None else guided.masked_fill(kept[:, None, None], 0.0)

    return euler(velocity, NOISE[list(prompts)], sampling_timesteps(8))


def test_threshold_zero_equals_no_cache_bit_for_bit(model):
    cache = StepCache(0.0, PROMPTS)
    assert torch.equal(sampled(model, cache), sampled(model, None))
    assert cache.ran == cache.asked == 8 * 2 * PROMPTS


def test_the_larger_the_threshold_the_fewer_tokens_pass_through_the_blocks(model):
    passed, errors, exact = [], [], sampled(model, None)
    for threshold in (0.0, 0.1, 0.3, math.inf):
        model.tokens.clear()
        cache = StepCache(threshold, PROMPTS)
        errors.append(float((sampled(model, cache) - exact).square().mean()))
        passed.append(sum(model.tokens))
        assert sum(model.tokens) == cache.ran * 18
    assert passed == sorted(passed, reverse=True)
    assert passed[0] > passed[2] > passed[3] == 2 * PROMPTS * 18  # the first step alone
    assert errors[0] == 0.0 < errors[2] < errors[3]


class Transfers(TorchDispatchMode):
    """Counts what is made of the CPU's numbers, which a GPU is sent, and what the CPU reads of single ones."""

    def __init__(self):
        super().__init__()
        self.sent = self.read = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.sent += operation is torch.ops.aten.lift_fresh.default
        self.read += operation is torch.ops.aten._local_scalar_dense.default
        return operation(*args, **(kwargs or {}))


@pytest.mark.parametrize(("threshold", "ran", "sent"), [(0.0, 12, 0), (0.1, 8, 1), (9.0, 4, 0)])
def test_a_step_tells_a_gpu_no_more_than_the_rows_that_run(threshold, ran, sent):
    cache = StepCache(threshold, 2, gain=(0.1, 0.2))
    tokens, moves = torch.ones(4, 6, 8), torch.tensor([0.0, 0.1])
    for step in range(3):
        with Transfers() as seen:
            cache(tokens, tokens + step * moves.repeat(2)[:, None, None], torch.full((4,), 0.5), lambda rows: 2 * tokens[rows])
        assert seen.sent <= sent + (step == 1)  # the gain, once
        assert seen.read == 0
    assert cache.ran == ran


def test_a_sample_does_not_depend_on_what_it_is_batched_with(model):
    both = sampled(model, StepCache(0.2, PROMPTS))
    for prompt in range(PROMPTS):
        torch.testing.assert_close(sampled(model, StepCache(0.2, 1), [prompt]), both[[prompt]], atol=1e-4, rtol=1e-4)


def test_kept_frames_do_not_hide_how_much_the_others_change(model):
    before, now = torch.randn(1, 6, 8), torch.randn(1, 6, 8)
    now[:, :4] = before[:, :4]
    torch.testing.assert_close(relative_change(before, now), (now - before)[:, 4:].abs().sum((1, 2)) / before[:, 4:].abs().sum((1, 2)))
    assert relative_change(before, before).item() == 0.0
    kept = torch.tensor([True, False, False])
    found = sampled(model, StepCache(0.2, PROMPTS), kept=kept)
    assert torch.equal(found[:, :, :1], NOISE[:, :, :1])


def test_the_gain_is_how_much_more_the_answer_moves_by_timestep(model):
    true = [(t, told, told * math.exp(0.5 - 2.0 * t + t**2)) for t in (0.1, 0.3, 0.5, 0.8, 1.0) for told in (0.01, 0.1)]
    assert fit_gain(true) == pytest.approx([0.5, -2.0, 1.0, 0.0], abs=1e-5)
    assert fit_gain([]) == []
    recording = Recording(0.0, PROMPTS)
    sampled(model, recording)
    assert len(recording.seen) == 7 * 2 * PROMPTS
    gain = fit_gain(recording.seen)
    foreseen, happened = zip(
        *((told * math.exp(sum(part * t**power for power, part in enumerate(gain))), answered) for t, told, answered in recording.seen),
        strict=True,
    )
    assert sum(abs(math.log(a / b)) for a, b in zip(foreseen, happened, strict=True)) / len(foreseen) < 0.3
