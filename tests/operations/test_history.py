"""What is expected follows from what was: by rows, by steps, by bytes, and only from the same kind of work where there is any."""

from pathlib import Path

import numpy as np
import pytest

from components.operations.history import Expected, clips_of_steps, expected, history_file, planned_steps, read_history, remember
from components.store import tables
from components.store.project import Project
from tests.operations.pipeline import settings


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path, "films")


def note(project: Project, stage: str, worked: int, seconds: float, work_seconds: float, num_bytes: int, *overrides: str) -> None:
    spent = {"worked": worked, "work_seconds": work_seconds, "core_seconds": 1.0, "gpu_seconds": 0.0, "num_bytes": num_bytes}
    record = {"stage": stage, "rows": worked, "seconds": seconds, "finished_at": "2026-11-26", "spent": spent}
    remember(project, settings(*overrides), record)


def test_without_history_nothing_is_expected(project: Project) -> None:
    assert expected(project, settings(), "caption", 10) == Expected(None, None)


def test_rows_take_a_start_and_then_each_as_long_as_before(project: Project) -> None:
    note(project, "caption", 100, seconds=25.0, work_seconds=20.0, num_bytes=1000)
    assert expected(project, settings(), "caption", 1000) == Expected(5.0 + 200.0, 10_000)
    assert expected(project, settings(), "caption", 0) == Expected(5.0, 0)


def test_the_middle_of_the_newest_counts_and_not_the_last_alone(project: Project) -> None:
    for each in (9.0, 1.0, 1.0, 1.0, 1.0, 50.0):  # the first is too old, the last was a busy machine
        note(project, "caption", 10, seconds=10 * each, work_seconds=10 * each, num_bytes=10)
    assert expected(project, settings(), "caption", 10).seconds == pytest.approx(10.0)


def test_a_training_takes_as_long_as_its_steps_and_as_much_disk_whatever_their_number(project: Project) -> None:
    note(project, "train_dit", 1000, seconds=130.0, work_seconds=100.0, num_bytes=5000)
    assert expected(project, settings(), "train_dit", 250) == Expected(30.0 + 25.0, 5000)


def test_an_evaluation_takes_what_it_took(project: Project) -> None:
    note(project, "evaluate", 12, seconds=40.0, work_seconds=30.0, num_bytes=700)
    assert expected(project, settings(), "evaluate", 4000) == Expected(40.0, 700)


def test_another_size_or_shape_is_another_kind_of_work(project: Project) -> None:
    note(project, "train_vae", 10, 1000.0, 1000.0, 1, "vae.size=base")
    assert expected(project, settings(), "train_vae", 10).seconds == 1000.0  # better than nothing
    note(project, "train_vae", 10, seconds=10.0, work_seconds=10.0, num_bytes=1)
    assert expected(project, settings(), "train_vae", 10).seconds == 10.0
    assert expected(project, settings("vae.steps=77", "vae.learning_rate=0.1"), "train_vae", 10).seconds == 10.0
    assert expected(project, settings("clip.height=64"), "train_vae", 10).seconds == 505.0  # none alike, so the middle of all


def test_a_line_that_a_kill_cut_is_passed_over(project: Project) -> None:
    note(project, "caption", 1, 1.0, 1.0, 1)
    with history_file(project).open("a") as handle:
        handle.write('{"stage": "caption", "kin')
    assert len(read_history(project, "caption")) == 1


def test_few_clips_take_fewer_steps_than_are_set() -> None:
    config = settings("dit.steps=1000", "dit.max_epochs=10", "dit.batch_size=8")
    assert planned_steps(config, "train_dit", 80) == 100
    assert planned_steps(config, "train_dit", 80_000) == 1000
    assert planned_steps(config, "train_vae", 3) == 10
    assert planned_steps(settings("vae.pretrained=OWNER/NAME"), "train_vae", 3) == 1
    assert planned_steps(settings("vae.pretrained=OWNER/NAME", "vae.finetune=true"), "train_vae", 3) == 10


def test_steps_see_the_clips_that_have_latents_and_text_and_before_that_those_with_captions(project: Project) -> None:
    assert clips_of_steps(project, "train_dit", 400) == 400
    clips = tables.clips(project)
    clips.append([{"clip_id": f"c{number}", "keep": True, "split": "val" if number == 7 else "train"} for number in range(8)])
    assert clips_of_steps(project, "train_dit", 7) == 7
    clips.update([{"clip_id": f"c{number}", "caption": "a cat"} for number in (0, 1, 2, 7)])
    assert (clips_of_steps(project, "train_dit", 7), clips_of_steps(project, "train_vae", 7)) == (3, 7)
    encoded = {"latents": np.zeros((4, 1, 2, 2), np.float16), "latents_shape": [4, 1, 2, 2]}
    text = {"text_embeds": np.zeros((3, 8), np.float16), "text_shape": [3, 8]}
    clips.update([{"clip_id": f"c{number}", **encoded, **text} for number in (0, 1, 7)])
    assert clips_of_steps(project, "train_dit", 7) == 2
    assert clips_of_steps(project, "train_dit", 7, are_encoded=False) == 3
