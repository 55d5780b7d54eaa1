"""Which model a training goes on from: the one that is named, and after a kill the one that it began with."""

import logging
from pathlib import Path

import pytest

from components.config import load_config
from components.jobs.finetune import base_of
from components.jobs.run import Run, unseen
from components.models.weights import digest_folder, verify_folder
from components.operations.freshness import Freshness
from components.registry.models import ModelNotFoundError
from components.store import readings
from components.store.project import Project
from tests.operations.pipeline import text_to_video

FRESHNESS = Freshness("train_dit", False, "", "maker", 1, "rows", "key", 1)


def run_of(root: Path, finetune: str | None, storage: Path | None = None) -> Run:
    overrides = [f"dit.finetune={finetune}"] if finetune else []
    uri = f"file://{storage}" if storage else None
    return Run(load_config("test", overrides), Project(root, "demo", uri), None, None, unseen)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return text_to_video(tmp_path / "model")


def test_a_folder_is_taken_where_it_lies_and_without_a_name_there_is_none(model: Path, tmp_path: Path) -> None:
    assert base_of(run_of(tmp_path, str(model)), FRESHNESS) == model
    assert base_of(run_of(tmp_path, None), FRESHNESS) is None
    with pytest.raises(ModelNotFoundError, match="is not a folder"):
        base_of(run_of(tmp_path, str(tmp_path / "nowhere")), FRESHNESS)


def test_with_a_storage_it_travels_and_is_kept_for_a_training_that_goes_on(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    carried = base_of(run_of(tmp_path, str(model), tmp_path / "storage"), FRESHNESS)
    assert carried is not None
    assert carried.is_relative_to(tmp_path / "demo" / "models")
    verify_folder(carried)
    assert digest_folder(carried) == digest_folder(model)
    gone = run_of(tmp_path, str(tmp_path / "nowhere"), tmp_path / "storage")
    with pytest.raises(ModelNotFoundError):
        base_of(gone, FRESHNESS)
    caplog.set_level(logging.INFO, logger="kinora")
    readings.write_head(gone.project, {"stage": "train_dit", "key": "key", "stands_on": {"text-to-video": digest_folder(model)}})
    assert base_of(gone, FRESHNESS) == carried
    assert not caplog.text
    other = run_of(tmp_path, str(text_to_video(tmp_path / "other")), tmp_path / "storage")
    assert base_of(other, FRESHNESS) == carried
    assert f"the training goes on from the model it began with; `{tmp_path / 'other'}` is another by now" in caplog.text
