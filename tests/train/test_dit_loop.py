import importlib
import itertools
import logging
import threading
import weakref
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from components.diffusion.samplers import euler, sampling_timesteps
from components.diffusion.tasks import TASKS
from components.models.dit import DiT
from components.models.sizes import DitSize
from components.train import norms
from components.train.checkpoint import Checkpoints
from components.train.context import TrainContext, read_metrics, read_starts
from components.train.dit_draws import DitBatch, drawn_batch
from components.train.dit_loop import _losses, optimizer_for, train_dit
from components.train.quarantine import NAME, read_quarantine
from components.train.steps import UnstableTrainingError

SIZE = DitSize(hidden_size=64, depth=2, num_heads=2, patch_size=(1, 2, 2), text_size=32)
LATENTS = torch.randn(4, 4, 2, 4, 4, generator=torch.Generator().manual_seed(0))
TEXT = torch.randn(4, 3, 8, generator=torch.Generator().manual_seed(1))
MASK = torch.ones(4, 3, dtype=torch.bool)
FPS = torch.full((4,), 2.0)
EMPTY = torch.zeros(2, 8)
TEXT_ALONE = dict.fromkeys(TASKS, 0.0) | {"text": 1.0}


def settings(**changes):
    return SimpleNamespace(
        **{
            "steps": 12,
            "optimizer": "adamw",
            "learning_rate": 2e-3,
            "weight_decay": 0.0,
            "ema_decay": 0.9,
            "max_grad_norm": 1.0,
            "size": SIZE,
            "compile": False,
            "context_parallel": 1,
            "adaptive_clip": False,
            "skip_above": 10.0,
            "caption_dropout": 0.1,
            "tasks": TEXT_ALONE,
            "image_share": 0.0,
            "clip_loss_weight": 1.0,
            "timestep_mean": 0.5,
            "timestep_std": 1.0,
            "timestep_shift": 1.0,
            "warmup_steps": 2,
            "report_every": 3,
            "validate_every": 0,
            "sample_every": 100,
            "checkpoint_every": 4,
            "seed": 7,
            **changes,
        }
    )


def batches(repeat: int = 1, poison: int | None = None, by: float = float("nan")):
    def given(first: int):
        step = first
        while True:
            order = torch.randperm(4, generator=torch.Generator().manual_seed(step)).repeat(repeat)
            latents = LATENTS[order].clone()
            if step == poison:
                latents[1] *= by
            yield DitBatch(latents, TEXT[order], MASK[order], tuple(f"clip{row}" for row in order.tolist()), FPS.repeat(repeat))
            step += 1

    return given


def new_model():
    torch.manual_seed(0)
    return DiT(SIZE, latent_channels=4, text_width=8)


def train(folder, given=None, threads=2, from_storage=False, **changes):
    model = new_model()
    context = TrainContext.local(folder, threads=threads)
    return train_dit(settings(**changes), model, given or batches(), EMPTY, Checkpoints(folder), context, from_storage=from_storage)


def test_four_prompts_bring_back_their_four_clips(tmp_path):
    model = train(tmp_path, batches(repeat=8), steps=250, checkpoint_every=250, report_every=50, ema_decay=0.95)
    noise = torch.randn(LATENTS.shape, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        made = euler(lambda x, t: model(x, t.expand(4), TEXT, MASK, FPS), noise, sampling_timesteps(12, 2.0))
    apart = (made[:, None] - LATENTS[None]).square().mean(dim=(2, 3, 4, 5))  # (made, clip)
    assert apart.diagonal().max() < 0.1
    assert (apart + 10 * torch.eye(4)).min() > 1.0
    losses = [metrics["loss"] for _, metrics in read_metrics(tmp_path / "metrics.jsonl")]
    assert losses[-1] < 0.3 * losses[0]


class Killed(Exception):
    pass


def dying(batches):
    def given(first: int):
        for step, batch in enumerate(batches(first), start=first):
            if step == 7:
                raise Killed
            yield batch

    return given


@pytest.mark.parametrize("changes", [{}, {"optimizer": "muon", "adaptive_clip": True}], ids=["adamw", "muon"])
def test_a_killed_run_goes_on_to_the_same_bits(changes, tmp_path, monkeypatch):
    monkeypatch.setattr(norms, "WARM_UP", 2)
    whole = train(tmp_path / "whole", **changes)
    with pytest.raises(Killed):
        train(tmp_path / "killed", dying(batches()), **changes)
    assert Checkpoints(tmp_path / "killed").newest()[0] == 4
    resumed = train(tmp_path / "killed", **changes)
    assert read_starts(tmp_path / "killed" / "metrics.jsonl")[-1].step == 4
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    _, kept, _ = Checkpoints(tmp_path / "whole").newest()
    _, again, _ = Checkpoints(tmp_path / "killed").newest()
    assert kept.keys() == again.keys()
    assert all(torch.equal(kept[name], again[name]) for name in kept)
    assert [step for step, _ in read_metrics(tmp_path / "killed" / "metrics.jsonl")] == [3, 6, 9, 12]


def packed(repeat: int = 1):
    """Clips of two sizes, side by side."""

    def given(first: int):
        for step in itertools.count(first):
            order = torch.randperm(4, generator=torch.Generator().manual_seed(step)).repeat(repeat).sort().values
            clips = tuple(LATENTS[row, :, : 1 + row % 2] for row in order)
            names = tuple(f"clip{row}" for row in order.tolist())
            yield DitBatch(clips, TEXT[order], MASK[order], names, FPS.repeat(repeat))

    return given


def losses(chosen, model, batch):
    return _losses(chosen, model, drawn_batch(chosen, batch, 3, 16, EMPTY, torch.device("cpu")), torch.device("cpu"))


def test_packed_clips_train_as_each_by_itself_does():
    """One step of plain gradients: the loss of a pack is the mean of the losses of its clips, each drawn by its place."""
    chosen = settings(tasks=dict.fromkeys(TASKS, 1.0), caption_dropout=0.5)
    torch.manual_seed(0)
    model, batch = DiT(SIZE, latent_channels=4, text_width=8), next(packed()(0))
    torch.nn.init.normal_(model.patch_out.weight, std=0.1)
    together = losses(chosen, model, batch)
    alone = []
    for place, clip in enumerate(batch.latents):
        one = slice(place, place + 1)
        share = DitBatch(clip[None], TEXT[place][None], MASK[one], (f"clip{place}",), FPS[one], (place,), 4)
        assert batch.clip_ids[place] == share.clip_ids[0]
        alone.append(losses(chosen, model, share))
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("given", [batches, packed])
def test_a_step_that_sees_images_trains_on_the_first_frames_of_clips(given):
    chosen, batch = settings(image_share=1.0), next(given()(0))
    torch.manual_seed(0)
    model = DiT(SIZE, latent_channels=4, text_width=8)
    torch.nn.init.normal_(model.patch_out.weight, std=0.1)
    firsts = torch.stack([clip[:, :1] for clip in batch.latents])
    images = DitBatch(firsts, batch.text_embeds, batch.text_mask, batch.clip_ids, batch.latents_fps)
    found = losses(chosen, model, batch)
    torch.testing.assert_close(found, losses(chosen, model, images), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(found, losses(settings(), model, batch))


def test_packed_training_learns_and_goes_on_to_the_same_bits(tmp_path):
    whole = train(tmp_path / "whole", packed())
    with pytest.raises(Killed):
        train(tmp_path / "killed", dying(packed()))
    resumed = train(tmp_path / "killed", packed())
    assert read_starts(tmp_path / "killed" / "metrics.jsonl")[-1].step == 4
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())


@pytest.mark.parametrize("given", [batches, packed])
def test_steps_made_ahead_are_those_made_in_turn_bit_for_bit_and_so_after_a_kill(tmp_path, given):
    makers = []

    def watched(first):
        for batch in given()(first):
            makers.append(threading.current_thread().name)
            yield batch

    chosen = {"tasks": dict.fromkeys(TASKS, 1.0), "image_share": 0.3, "caption_dropout": 0.5}
    expected = train(tmp_path / "in turn", watched, **chosen).state_dict()
    assert makers == ["MainThread"] * 12
    makers.clear()
    whole = train(tmp_path / "ahead", watched, from_storage=True, **chosen).state_dict()
    assert makers == ["batches_0"] * 12  # and none after the last step
    with pytest.raises(Killed):
        train(tmp_path / "killed", dying(watched), from_storage=True, **chosen)
    resumed = train(tmp_path / "killed", watched, from_storage=True, **chosen).state_dict()
    assert read_starts(tmp_path / "killed" / "metrics.jsonl")[-1].step == 4
    for name, value in expected.items():
        assert torch.equal(whole[name], value), name
        assert torch.equal(resumed[name], value), name


def test_the_thread_that_makes_steps_ends_with_the_training_whatever_ends_that(tmp_path):
    def dies(step, metrics):
        assert makers()
        raise Killed

    def makers():
        return [thread for thread in threading.enumerate() if thread.name.startswith("batches")]

    train(tmp_path / "whole", from_storage=True)
    assert not makers()
    context = replace(TrainContext.local(tmp_path), report=dies)
    with pytest.raises(Killed) as died:
        train_dit(settings(), new_model(), batches(), EMPTY, Checkpoints(tmp_path), context, from_storage=True)
    assert died.traceback
    assert not makers()


def test_a_finished_run_is_not_trained_again(tmp_path):
    first = train(tmp_path)

    def never(step: int):
        assert step == 12
        return iter(())

    again = train(tmp_path, never)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in first.state_dict().items())


def test_a_step_that_is_not_finite_is_skipped_and_its_clip_named(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="kinora"):
        model = train(tmp_path, batches(poison=5))
    assert all(value.isfinite().all() for value in model.state_dict().values())
    order = torch.randperm(4, generator=torch.Generator().manual_seed(5)).tolist()
    assert "step 6 is skipped" in caplog.text
    assert f"clips: clip{order[1]}" in caplog.text
    assert read_metrics(tmp_path / "metrics.jsonl")[-1][1]["skipped_steps"] == 1


def test_a_clip_that_spoils_every_step_is_accused_when_the_training_gives_up(tmp_path):
    latents = LATENTS.clone()
    latents[2] *= float("nan")

    def all_of_them(first):
        while True:
            yield DitBatch(latents, TEXT, MASK, ("a", "b", "bad", "d"), FPS)

    with pytest.raises(UnstableTrainingError, match=r"whose own loss is not finite: bad; hint: another `dit\.seed`"):
        train(tmp_path, all_of_them, steps=30)
    assert read_quarantine(tmp_path / NAME) == {"bad": "step 1: its loss is not finite"}


def test_what_is_usual_is_of_the_clips_that_steps_have_and_goes_on_from_an_earlier_checkpoint(tmp_path):
    def of_four_and_of_one(first):
        for step in itertools.count(first):
            rows = [step % 4] if step % 2 else [0, 1, 2, 3]
            yield DitBatch(LATENTS[rows], TEXT[rows], MASK[rows], tuple(f"clip{row}" for row in rows), FPS[rows])

    train(tmp_path, of_four_and_of_one, steps=8, adaptive_clip=True)
    step, tensors, meta = Checkpoints(tmp_path).newest()
    assert [tensors[name][-1].item() for name in ("clip", "skipped")] == pytest.approx([2.5, 2.5])
    earlier = tensors | {"clip": tensors["clip"][:-1], "skipped": tensors["skipped"][:-1]}
    Checkpoints(tmp_path / "earlier").save(step, earlier, {"threads": meta["threads"]})
    train(tmp_path / "earlier", of_four_and_of_one, adaptive_clip=True)
    found, tensors, _ = Checkpoints(tmp_path / "earlier").newest()
    assert found == 12
    assert tensors["clip"][-2:].tolist() == [12, pytest.approx(4 - 3 / 10 + 0.3 / 11 - (4 - 3 / 10 + 0.3 / 11 - 1) / 12)]


def test_a_training_that_goes_on_with_other_threads_says_what_that_means(tmp_path, caplog):
    train(tmp_path, steps=4)
    with caplog.at_level(logging.INFO, logger="kinora"):
        train(tmp_path, steps=8)
        assert "bit for bit" not in caplog.text
        train(tmp_path, threads=1, warmup_steps=30)
    assert "it goes on from step 8 with threads 1 in place of 2: its results are equal up to rounding, not bit for bit" in caplog.messages
    assert "`dit.warmup_steps` of 30 leaves none of 12 steps at the full rate, so it is 1" in caplog.messages


def test_a_clip_whose_gradient_is_far_out_of_range_is_put_aside_and_moves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(norms, "WARM_UP", 2)
    train(tmp_path / "with", batches(poison=5, by=1e4))
    guilty = torch.randperm(4, generator=torch.Generator().manual_seed(5))[1]
    accused = read_quarantine(tmp_path / "with" / NAME)
    assert accused.keys() == {f"clip{guilty}"}
    assert accused[f"clip{guilty}"].startswith("step 6: its gradient is ")
    assert read_metrics(tmp_path / "with" / "metrics.jsonl")[-1][1]["skipped_steps"] == 1
    train(tmp_path / "none is too long", batches(poison=5, by=1e4), skip_above=None)
    assert read_metrics(tmp_path / "none is too long" / "metrics.jsonl")[-1][1]["skipped_steps"] == 0


def test_muon_steps_the_matrices_between_the_first_and_the_last_layers():
    model = DiT(SIZE, latent_channels=4, text_width=8)
    kinds = {id(p): group["kind"] for group in optimizer_for(settings(optimizer="muon"), model).param_groups for p in group["params"]}
    named = {name: kinds[id(parameter)] for name, parameter in model.named_parameters()}
    by_muon = {name for name, kind in named.items() if kind == "muon"}
    inside = ("attention.query", "attention.key_value", "attention.out", "text_attention.out", "feed_forward.into", "feed_forward.out")
    assert {f"blocks.{block}.{layer}.weight" for block in range(2) for layer in inside} < by_muon
    assert {"modulation.weight", "text_in.weight", "text_refiner.blocks.0.attention.out.weight"} < by_muon
    assert not [name for name in by_muon if name.startswith(("patch_", "time_in")) or "bias" in name or "norm" in name]


@pytest.mark.slow
def test_without_a_compiler_a_training_that_is_to_be_compiled_ends_in_one_sentence(tmp_path, monkeypatch):
    inductor = importlib.import_module("torch._inductor.config")
    monkeypatch.setattr(inductor.cpp, "cxx", (None, "no-compiler"))
    monkeypatch.setattr(inductor, "force_disable_caches", True)
    with pytest.raises(ValueError, match=r"^`dit.compile` cannot compile here \(.*no-compiler.*\); hint: install .*$"):
        train(tmp_path, compile=True)


class Asked:
    """Keeps the steps and the models that it is given, after the first of which it is busy for once."""

    def __init__(self):
        self.skipped, self.models = 0, {}

    def is_wanted(self, step):
        self.skipped += step == 6
        return step != 6

    def __call__(self, step, model):
        self.models[step] = model


@pytest.mark.parametrize(("every", "steps"), [(3, [3, 9]), (0, [])])
def test_samples_are_asked_for_between_the_steps_with_averaged_weights(every, steps, tmp_path):
    asked = Asked()
    train_dit(settings(sample_every=every), new_model(), batches(), EMPTY, Checkpoints(tmp_path), TrainContext.local(tmp_path), asked)
    assert list(asked.models) == steps
    assert read_metrics(tmp_path / "metrics.jsonl")[-1][1]["skipped_samples"] == (1 if every else 0)
    if every:
        first, second = (asked.models[step].state_dict() for step in steps)
        assert not torch.equal(first["patch_in.weight"], second["patch_in.weight"])  # neither moved with later steps


def test_what_was_sampled_from_is_let_go_of_before_the_next_step(tmp_path):
    shown = []

    class Sampled(Asked):
        def __call__(self, step, model):
            shown.append(weakref.ref(model))

    def given(first):
        for batch in batches()(first):
            assert not any(model() for model in shown)
            yield batch

    train_dit(settings(sample_every=3), new_model(), given, EMPTY, Checkpoints(tmp_path), TrainContext.local(tmp_path), Sampled())
    assert len(shown) == 2


@pytest.mark.parametrize(("before", "skipped"), [(Asked(), 1), (None, 0)])
def test_samples_that_were_left_out_are_counted_over_a_resume(before, skipped, tmp_path):
    for steps, asked in ((8, before), (12, Asked())):
        chosen, context = settings(steps=steps, sample_every=3), TrainContext.local(tmp_path)
        train_dit(chosen, new_model(), batches(), EMPTY, Checkpoints(tmp_path), context, asked)
    assert read_starts(tmp_path / "metrics.jsonl")[-1].step == 8
    assert asked.skipped == read_metrics(tmp_path / "metrics.jsonl")[-1][1]["skipped_samples"] == skipped


def test_a_sample_that_is_left_out_beside_a_checkpoint_is_in_it(tmp_path):
    train_dit(
        settings(sample_every=6, checkpoint_every=6),
        new_model(),
        batches(),
        EMPTY,
        Checkpoints(tmp_path),
        TrainContext.local(tmp_path),
        Asked(),
    )
    assert int(Checkpoints(tmp_path, at_most=6).newest()[1]["skipped_samples"]) == 1
