"""A training is planned from the table's own shapes, and what does not fit is named with what would make it fit."""

from pathlib import Path

import numpy as np
import pytest

from components.config import load_config
from components.operations.training_plan import TrainingPlan, plan_training
from components.sections import Config
from components.store import tables
from components.store.project import Project
from tests.operations.pipeline import REPOSITORY

MIB = 2**20


def settings(*overrides: str) -> Config:
    return load_config("test", overrides, file=str(REPOSITORY / "pipelines.yaml"))


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Of 24 clips to train on, encoded to two shapes of latents."""
    project = Project(tmp_path, "films")
    shared = {"keep": True, "split": "train", "text_embeds": np.zeros((12, 64), np.float16), "text_shape": [12, 64]}
    rows = []
    for number in range(24):
        shape = (16, 3, 4, 4) if number < 16 else (16, 1, 8, 8)
        rows.append({"clip_id": f"clip{number:02d}", "latents": np.zeros(shape, np.float16), "latents_shape": list(shape), **shared})
    tables.clips(project).append(rows)
    return project


def arithmetic(config: Config, project: Project, worker_bytes: int | None = None) -> TrainingPlan:
    return plan_training(config, project, worker_bytes, seconds=0)


def test_buckets_are_the_shapes_of_the_latents_and_their_share_of_the_steps(project: Project) -> None:
    found = arithmetic(settings(), project)
    assert [(bucket.latents, bucket.clips, bucket.tokens) for bucket in found.buckets] == [
        ((16, 1, 8, 8), 8, 8 * 16),
        ((16, 3, 4, 4), 8, 8 * 12),
    ]
    assert [bucket.share for bucket in found.buckets] == [pytest.approx(1 / 3), pytest.approx(2 / 3)]
    assert (found.steps, found.seconds) == (10, None)
    assert found.tokens == round(10 * (128 / 3 + 2 * 96 / 3))


def test_a_budget_of_tokens_fills_each_shape_for_itself(project: Project) -> None:
    found = arithmetic(settings("dit.tokens_per_batch=50"), project)
    assert [(bucket.clips, bucket.tokens) for bucket in found.buckets] == [(3, 48), (4, 48)]
    packed = arithmetic(settings("dit.tokens_per_batch=50", "dit.packing=true"), project)
    assert [(bucket.latents, bucket.clips) for bucket in packed.buckets] == [((16, 1, 8, 8), 3)]
    with pytest.raises(ValueError, match=r"`dit\.tokens_per_batch` of 13 leaves it without a clip.*--set dit\.tokens_per_batch=16"):
        arithmetic(settings("dit.tokens_per_batch=13"), project)


@pytest.mark.parametrize("budget", [(), ("dit.tokens_per_batch=20000",)])
def test_a_way_out_that_is_taken_lets_it_fit(project: Project, budget: tuple[str, ...]) -> None:
    chosen = ("dit.batch_size=1024", *budget)
    needed = max(bucket.num_bytes for bucket in arithmetic(settings(*chosen), project).buckets)
    room = needed - 20 * MIB
    found = arithmetic(settings(*chosen), project, room)
    assert not all(bucket.fits for bucket in found.buckets)
    assert found.ways_out
    for way in found.ways_out:
        changed = [change for change in way.split() if change != "--set"]
        assert all(bucket.fits for bucket in arithmetic(settings(*chosen, *changed), project, room).buckets), way


def test_before_there_are_clips_the_settings_say_what_they_will_be(tmp_path: Path) -> None:
    found = arithmetic(settings("text_encoder.pretrained=some/t5"), Project(tmp_path, "films"))
    assert [(bucket.latents, bucket.clips) for bucket in found.buckets] == [((16, 3, 4, 4), 8)]
    assert found.steps == 10
    assert [note.partition(";")[0] for note in found.notes] == [
        "the text encoder was not taken yet",
        "there are no clips yet",
    ]
    assert list(tmp_path.iterdir()) == []


def test_a_pretrained_vae_is_asked_for_first(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shape of the latents of `some/vae` is not known yet; hint: `kinora run train_vae` takes it"):
        arithmetic(settings("vae.pretrained=some/vae"), Project(tmp_path, "films"))


@pytest.mark.slow  # it loads torch in a process of its own
def test_steps_are_rehearsed_and_their_time_and_memory_told(project: Project) -> None:
    beside = np.ones(1600 * MIB, np.uint8)  # what this process holds is not of the steps
    found = plan_training(settings("dit.batch_size=2", "cluster.threads=1"), project, None, seconds=4)
    assert found.seconds is not None
    assert found.seconds > 0
    assert all(bucket.is_measured and bucket.fits for bucket in found.buckets)
    for bucket in found.buckets:
        assert bucket.measured_bytes is not None
        assert bucket.num_bytes / 2 < bucket.measured_bytes < 2 * bucket.num_bytes < beside.nbytes


def test_what_does_not_fit_is_not_rehearsed(project: Project) -> None:
    found = plan_training(settings(), project, 1, seconds=4)
    assert found.seconds is None
    assert not any(bucket.fits for bucket in found.buckets)
