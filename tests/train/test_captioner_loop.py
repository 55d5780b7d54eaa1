import json
from dataclasses import replace

import pytest
import torch

from components.config import load_config
from components.models.sizes import CocaSize
from components.openclip.decode import caption_pictures
from components.openclip.load import build_coca
from components.openclip.mosaic import cells, picture
from components.openclip.parts import part
from components.train.captioner_batches import Labelled, captioner_batches, channel_statistics
from components.train.captioner_loop import CaptionBatch, train_captioner
from components.train.checkpoint import Checkpoints
from components.train.context import TrainContext, read_starts
from components.train.steps import UnstableTrainingError
from components.world.render import render_clips
from components.world.vocabulary import caption

SIZE = CocaSize(64, 48, 24, 64, 2, 64, 1, 1, 32, 600, 32, 8)


@pytest.fixture(scope="module")
def four() -> Labelled:
    """Four clips of the world and their captions."""
    from components.openclip.mosaic import Mosaic

    frames, scenes = render_clips("demo", 4, seed=11, height=32, width=32)
    cut = torch.stack([cells(clip, Mosaic(9, 48, 8)) for clip in frames])
    return Labelled(cut, tuple(caption(scene) for scene in scenes), (None,) * 4)


def settings_for(**changes):
    plain = {"size": SIZE, "batch_size": 4, "turns": False, "shift_share": 0.0, "light": 0.0, "report_every": 1, "warmup_steps": 2}
    return load_config("test").captioner.model_copy(update={**plain, **changes})


def train(settings, four, folder, batches=None):
    mean, std = channel_statistics(four)
    coca = build_coca(SIZE, four.captions, mosaic_frames=9, mean=mean, std=std, seed=settings.seed)
    loss = part("loss").CoCaLoss(settings.caption_loss_weight, settings.contrastive_loss_weight)
    batches = batches or captioner_batches(four, coca, settings)
    model = train_captioner(settings, coca.model, loss, batches, Checkpoints(folder / "checkpoints"), TrainContext.local(folder))
    return replace(coca, model=model)


def test_a_tiny_captioner_learns_four_clips_by_heart(tmp_path, four):
    coca = train(settings_for(steps=60, learning_rate=4e-3, checkpoint_every=60), four, tmp_path)
    said = caption_pictures(coca, picture(four.cells, coca.mosaic, coca.mean, coca.std))
    assert [text for text, _ in said] == list(four.captions)
    assert all(-0.5 < score < 0 for _, score in said)


def test_a_resumed_run_ends_with_the_same_bits(tmp_path, four):
    settings = settings_for(steps=6, checkpoint_every=3, turns=True, shift_share=0.1, light=0.1)
    whole = train(settings, four, tmp_path / "whole").model.state_dict()

    class StopError(Exception):
        pass

    def killed_at_five(coca):
        def batches(first):
            for step, batch in enumerate(captioner_batches(four, coca, settings)(first), start=first):
                if step == 5:
                    raise StopError
                yield batch

        return batches

    mean, std = channel_statistics(four)
    coca = build_coca(SIZE, four.captions, mosaic_frames=9, mean=mean, std=std, seed=settings.seed)
    with pytest.raises(StopError):
        train(settings, four, tmp_path / "parts", killed_at_five(coca))
    resumed = train(settings, four, tmp_path / "parts").model.state_dict()
    assert read_starts(tmp_path / "parts" / "metrics.jsonl")[-1].step == 3
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    lines = [json.loads(line) for line in (tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()]
    unbroken = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert [line["caption_loss"] for line in lines] == [line["caption_loss"] for line in unbroken]


def test_a_step_without_a_finite_gradient_changes_nothing(tmp_path, four, caplog):
    settings = settings_for(steps=2, checkpoint_every=1)

    def batches_with_a_hole(first):
        for step in range(first, 2):
            pictures = torch.zeros(4, 3, 48, 48) if step == 0 else torch.full((4, 3, 48, 48), float("nan"))
            yield CaptionBatch(pictures, torch.ones(4, 16, dtype=torch.long))

    train(settings, four, tmp_path, batches_with_a_hole)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    _, after, _ = checkpoints.newest()
    from components.models.weights import load_tensors

    before = load_tensors(tmp_path / "checkpoints" / "step_000001", "tensors")
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith("model."))
    assert "step 2 is skipped" in caplog.text


def test_a_training_that_never_recovers_gives_up_with_a_way_out(tmp_path, four):
    settings = settings_for(steps=40, checkpoint_every=40)

    def broken(first):
        while True:
            yield CaptionBatch(torch.full((4, 3, 48, 48), float("nan")), torch.ones(4, 16, dtype=torch.long))

    with pytest.raises(UnstableTrainingError, match=r"hint: a lower `captioner\.learning_rate`"):
        train(settings, four, tmp_path, broken)


def test_an_epoch_is_gone_through_without_a_clip_twice():
    from components.train.captioner_batches import _rows_of

    assert sorted(row for step in range(5) for row in _rows_of(step, 10, 2, 0)) == list(range(10))
    assert sorted(row for step in range(5, 10) for row in _rows_of(step, 10, 2, 0)) == list(range(10))
