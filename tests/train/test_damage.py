"""Damaged checkpoints of the three loops: the one before is taken, or the training starts anew, and the end is the same to the bit."""

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from components.train.checkpoint import Checkpoints
from components.train.context import read_starts
from tests.train.sharing import STEPS, TRAININGS, work

pytestmark = pytest.mark.slow


def cut(step: Path) -> None:
    os.truncate(step / "tensors.safetensors", (step / "tensors.safetensors").stat().st_size // 2)


def flip(step: Path) -> None:
    content = bytearray((step / "tensors.safetensors").read_bytes())
    content[len(content) // 2] ^= 1
    (step / "tensors.safetensors").write_bytes(content)


def lose_manifest(step: Path) -> None:
    (step / "manifest.json").unlink()


def garble_manifest(step: Path) -> None:
    (step / "manifest.json").write_bytes(b"\x00\xff garbage")


def state_of(folder: Path) -> dict[str, torch.Tensor]:
    newest = Checkpoints(folder / "checkpoints").newest()
    assert newest is not None
    assert newest[0] == STEPS
    return newest[1]


@pytest.mark.parametrize("training", sorted(TRAININGS))
def test_a_training_with_damaged_checkpoints_ends_as_an_undisturbed_one(
    training: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    threads = torch.get_num_threads()
    work(tmp_path, 0, 1, 0, [training])
    expected = state_of(tmp_path / training)
    newest, all_of_them = slice(-1, None), slice(None)
    damages: list[tuple[Callable[[Path], None], slice]] = [
        *((damage, newest) for damage in (cut, flip, lose_manifest, garble_manifest)),
        (flip, all_of_them),
    ]
    for number, (damage, which) in enumerate(damages):
        folder = tmp_path / str(number)
        shutil.copytree(tmp_path / training, folder / training)
        steps = sorted((folder / training / "checkpoints").iterdir())
        assert len(steps) == 2
        for step in steps[which]:
            damage(step)
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="kinora"):
            work(folder, 0, 1, 0, [training])
        named = [record.getMessage().split()[1] for record in caplog.records if record.levelno == logging.WARNING]
        assert named == [step.name for step in reversed(steps[which])], damage.__name__
        begun = read_starts(folder / training / "metrics.jsonl")[-1].step
        assert begun == (0 if which is all_of_them else STEPS // 2), damage.__name__
        found = state_of(folder / training)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected), damage.__name__
    torch.set_num_threads(threads)
