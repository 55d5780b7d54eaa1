"""Samples beside a training: what is written for them, when they are left out, and how much they may cost."""

import logging
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from components.models.weights import load_tensors, save_folder, verify_folder
from components.train.dit_samples import FEWEST_STEPS, SAMPLER, Drawn, Sampling, affordable

NOTES = {"generate": {"num_inference_steps": 50}, "latents_shapes": [[16, 1, 4, 4], [16, 3, 8, 8]], "size": {"patch_size": [1, 2, 2]}}
LARGE = NOTES | {"latents_shapes": [[16, 13, 32, 32]]}
WITH_IMAGES = NOTES | {"latents_shapes": [[16, 13, 32, 32], [16, 1, 32, 32]]}


class Slow:
    """Work beside a training that takes as long as a test wants."""

    def __init__(self) -> None:
        self.busy, self.started = False, list[tuple[str, ...]]()

    def is_busy(self) -> bool:
        return self.busy

    def start(self, what: str, entry: str, *arguments: str) -> None:
        self.busy = True
        self.started.append((what, entry, *arguments))

    def close(self) -> None:
        self.busy = False


def write(folder: Path, model: nn.Module) -> None:
    save_folder(folder, {"dit": model.state_dict()}, {})


def sampling(folder: Path, **changes: object) -> tuple[Sampling, Slow]:
    save_folder(folder / "vae", {"vae": {"weight": torch.ones(3)}}, {})
    beside = Slow()
    given = {"write": write, "notes": NOTES, "parts": {"video-vae": folder / "vae"}, "prompts": ["a", "b", "c", "d"]}
    given |= {"weights": 1000, **changes}
    return Sampling(folder / "samples", beside=beside, **given), beside  # type: ignore[arg-type]


def written(samples: Sampling) -> None:
    assert samples._writing is not None
    samples._writing.join(60)


def test_a_sampler_is_given_the_weights_and_links_to_what_stays(tmp_path: Path) -> None:
    samples, beside = sampling(tmp_path)
    for step in (5, 10):  # the second time in the place of the first
        model = nn.Linear(step, 2)
        assert samples.is_wanted(step)
        samples(step, model)
        written(samples)
        folder, target = tmp_path / "samples" / ".weights", tmp_path / "samples" / f"step_{step:06d}"
        assert beside.started[-1] == (
            f"sampling after step {step}",
            SAMPLER,
            str(folder),
            str(target),
            '["a", "b", "c", "d"]',
            "50",
            "videos",
        )
        assert torch.equal(load_tensors(folder, "dit")["weight"], model.weight)
        verify_folder(folder / "video-vae")
        assert (folder / "video-vae").is_symlink()
        beside.busy = False
    samples.close()
    assert not folder.exists()
    verify_folder(tmp_path / "vae")


def test_samples_that_are_left_out_are_said_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    may_write = threading.Event()

    def waits(folder: Path, model: nn.Module) -> None:
        assert may_write.wait(60)
        write(folder, model)

    samples, beside = sampling(tmp_path, write=waits)
    samples(5, nn.Linear(2, 2))
    with caplog.at_level(logging.INFO, logger="kinora"):
        assert not samples.is_wanted(10)  # the weights are still being written
        may_write.set()
        written(samples)
        assert not samples.is_wanted(15)  # the samples are still being drawn
        samples.close()
    assert samples.skipped == 2
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "no samples are made after step 10",
        "no samples are made after step 15",
        "the last samples beside the training were still being made, and are left out",
    ]
    assert not beside.busy


def test_a_full_disk_leaves_out_samples_and_ends_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def full(folder: Path, model: nn.Module) -> None:
        raise OSError(28, "No space left on device")

    samples, beside = sampling(tmp_path, write=full)
    with caplog.at_level(logging.WARNING, logger="kinora"):
        samples(5, nn.Linear(2, 2))
        written(samples)
    assert "samples after step 5 are left out: [Errno 28] No space left on device" in caplog.text
    assert samples.is_wanted(10)
    assert beside.started == []


def test_without_prompts_nothing_is_wanted(tmp_path: Path) -> None:
    assert not sampling(tmp_path, prompts=[])[0].is_wanted(5)


@pytest.mark.parametrize(
    ("notes", "weights", "expected"),
    [
        (NOTES, 5_000_000, Drawn(4, 50)),
        (LARGE, 100_000_000, Drawn(3, 50)),
        (LARGE, 500_000_000, Drawn(1, 30)),
        (LARGE, 5_000_000_000, Drawn(1, FEWEST_STEPS)),
        (WITH_IMAGES, 5_000_000_000, Drawn(1, FEWEST_STEPS)),
        (WITH_IMAGES, 14_000_000_000, Drawn(1, 13, images=True)),
        (LARGE, 14_000_000_000, Drawn(0, 0)),
        (WITH_IMAGES, 140_000_000_000, Drawn(0, 0)),
    ],
)
def test_the_larger_a_model_the_fewer_prompts_and_then_steps_and_then_frames(notes: dict[str, Any], weights: int, expected: Drawn) -> None:
    assert affordable(notes, weights, 4) == expected


def test_a_large_model_is_said_to_have_fewer_samples_once_at_the_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="kinora"):
        samples, beside = sampling(tmp_path, notes=WITH_IMAGES, weights=14_000_000_000)
        assert "samples beside this large a model are of one frame, of 1 of 4 prompts, in 13 of 50 steps" in caplog.text
        caplog.clear()
        samples(5, nn.Linear(2, 2))
        written(samples)
    assert not caplog.text
    assert beside.started[0][-3:] == ('["a"]', "13", "images")


def test_a_model_too_large_for_any_sample_is_said_to_have_none_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="kinora"):
        samples, _ = sampling(tmp_path, notes=LARGE, weights=14_000_000_000)
        assert not samples.is_wanted(5)
        assert not samples.is_wanted(10)
        sampling(tmp_path, notes=LARGE, weights=14_000_000_000, prompts=[])  # of which none were asked for
    assert len(caplog.records) == 1
    assert "no samples are made beside this large a model" in caplog.text
    assert samples.skipped == 0
