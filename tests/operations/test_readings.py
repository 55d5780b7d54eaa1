"""A training reads one version of the clips, tagged, and its exact rows are written down."""

import dataclasses
from pathlib import Path

import pytest

from components.operations.freshness import READ_ROWS
from components.operations.readings import dataset_of, pin_reading, tag_of
from components.registry.tracking import Tracker, client_of
from components.store import readings, tables
from components.store.filters import TRAINING
from tests.operations.pipeline import Pipeline

SETTINGS = {"dit": {"steps": 10}}


@pytest.fixture
def ready(tmp_path: Path) -> Pipeline:
    pipeline = Pipeline(tmp_path)
    pipeline.add_clips(*range(8), label="a red ball")
    pipeline.add_clips(8, 9, label="a red ball", split="val")
    pipeline.run("ingest", "curate", "train_captioner", "caption", "train_vae", "encode")
    return pipeline


def test_a_reading_is_the_rows_of_its_version_whatever_comes_later(ready: Pipeline) -> None:
    found = ready.assess("train_dit")
    pinned, head = pin_reading(ready.project, found, SETTINGS, {"video-vae": "v", "captioner": "c"})
    clips = tables.clips(ready.project)
    clips.delete("clip_id = 'c000'")
    clips.update([{"clip_id": "c001", "caption": "something else"}])

    replayed = tables.clips(pinned)
    assert replayed.keys(TRAINING) == [f"c{number:03d}" for number in range(8)]
    assert replayed.read(["caption"], "clip_id = 'c001'") == [{"caption": "a red ball"}]
    where, columns = READ_ROWS["train_dit"]
    assert replayed.digest(columns, where) == head["tables"]["clips"]["rows_digest"] == found.rows_digest
    assert clips.tags()[tag_of("train_dit", found.key)] == head["tables"]["clips"]["version"]
    rows = list(readings.read_rows(ready.project, "train_dit", found.key))
    assert rows == replayed.read(["clip_id", "video_id", "scene_index", "start_seconds", "end_seconds", *columns], where)


def test_a_training_that_was_killed_goes_on_with_the_version_it_began_with(ready: Pipeline) -> None:
    found = ready.assess("train_dit")
    _, first = pin_reading(ready.project, found, SETTINGS, {})
    tables.clips(ready.project).update([{"clip_id": "c009", "caption": "a later word"}])
    assert pin_reading(ready.project, found, SETTINGS, {})[1] == first


def test_rows_that_change_before_the_training_reads_them_stop_it(ready: Pipeline) -> None:
    found = ready.assess("train_dit")
    tables.clips(ready.project).delete("clip_id = 'c000'")
    with pytest.raises(ValueError, match="the rows that `train_dit` reads changed while it was about to start; hint: run it again"):
        pin_reading(ready.project, found, SETTINGS, {})
    assert tag_of("train_dit", found.key) not in tables.clips(ready.project).tags()


def test_a_pinned_project_cannot_write_its_clips(ready: Pipeline) -> None:
    pinned = dataclasses.replace(ready.project, clips_version=tables.clips(ready.project).version)
    with pytest.raises(tables.TableError, match="is pinned to version"):
        tables.clips(pinned).delete("clip_id = 'c000'")


def test_a_head_tells_of_rows_makers_settings_and_what_the_model_stands_on(ready: Pipeline) -> None:
    ready.run("train_dit")
    found, (head,) = ready.project.record("train_dit"), [h for h in readings.heads(ready.project) if h["stage"] == "train_dit"]
    assert found is not None
    tags = head["tags"]
    assert tags["kinora.table.clips.version"] == str(head["tables"]["clips"]["version"])
    assert tags["kinora.table.clips.rows"] == "8"
    assert tags["kinora.maker.train_dit"] == found["maker"]
    assert set(head["stands_on"]) == {"video-vae", "captioner"}
    assert head["stands_on"]["video-vae"] == tags["kinora.upstream.video-vae"] != ""
    assert head["weights"]
    assert head["rows_removed"] == []
    assert set(readings.clips_by_video(ready.project, "train_dit", head["key"]).values()) == {2}


def test_mlflow_shows_a_reading_as_the_dataset_of_its_run(ready: Pipeline) -> None:
    ready.run("train_dit")
    head = readings.heads(ready.project)[-1]
    dataset = dataset_of(head)
    assert dataset is not None
    run = Tracker(ready.project).run("train_dit", head["key"])
    run.log_dataset(**dataset)
    run.log_dataset(**dataset)  # as a resumed training does
    run.close()
    (shown,) = client_of(ready.project).get_run(run.run_id).inputs.dataset_inputs
    assert shown.dataset.name == "clips"
    assert head["tables"]["clips"]["rows_digest"].startswith(shown.dataset.digest)
    assert f'"version": {head["tables"]["clips"]["version"]}' in shown.dataset.source
    assert {tag.key: tag.value for tag in shown.tags} == {"mlflow.data.context": "training"}
