"""A training reads one version of the clips, tagged, and its exact rows are written down."""

import dataclasses
import shutil
from pathlib import Path

import pytest

from components.operations.forget import forget
from components.operations.freshness import READ_ROWS
from components.operations.readings import dataset_of, pin_reading, tag_of
from components.registry.tracking import Tracker, client_of
from components.store import readings, tables
from components.store.filters import CAPTIONED, LABELLED, TRAINING
from tests.operations.pipeline import Pipeline, video_id

SETTINGS = {"dit": {"steps": 10}}


@pytest.fixture
def ready(tmp_path: Path) -> Pipeline:
    pipeline = Pipeline(tmp_path)
    pipeline.add_clips(*range(8), label="a red ball")
    pipeline.add_files(*range(12))
    pipeline.add_clips(8, 9, 10, 11, label="a red ball", split="val")
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


STAGES = {"train_captioner": LABELLED, "train_vae": TRAINING, "train_dit": CAPTIONED}


@pytest.mark.parametrize("stage", STAGES)
def test_a_training_keeps_its_clips_and_their_order_when_other_footage_is_taken_down(ready: Pipeline, stage: str) -> None:
    found, where = ready.assess(stage), STAGES[stage]
    pinned, first = pin_reading(ready.project, found, SETTINGS, {})
    began = tables.clips(pinned).keys(where)
    assert began == [f"c{number:03d}" for number in range(8)]
    clips = tables.clips(ready.project)
    clips.update([{"clip_id": name, "quarantine": f"{stage}, step 3: its gradient"} for name in ("c002", "c005")])
    for held_out in ("film-4.mp4", "film-5.mp4"):
        forget(ready.project, video_id(held_out))
        again = ready.assess(stage)
        assert (again.key, again.rows) == (found.key, 6)
        resumed, head = pin_reading(ready.project, again, SETTINGS, {})
        assert tables.clips(resumed).keys(where) == began
        assert tables.clips(resumed).count(where) == head["tables"]["clips"]["rows"] == 8
        assert pin_reading(ready.project, again, SETTINGS, {}) == (resumed, head)
        assert [row["clip_id"] for row in readings.read_rows(ready.project, stage, found.key)] == began
    assert head["tables"]["clips"]["rows_digest"] == first["tables"]["clips"]["rows_digest"]
    assert clips.keys(where) == [name for name in began if name not in ("c002", "c005")], "others leave them out"


def test_a_training_whose_clips_cannot_be_told_any_more_does_not_go_on(ready: Pipeline) -> None:
    clips, found = tables.clips(ready.project), ready.assess("train_dit")
    aside = [{"clip_id": "c002", "quarantine": "train_vae, step 3: its gradient"}]
    clips.update(aside)
    pin_reading(ready.project, ready.assess("train_dit"), SETTINGS, {})
    clips.change({"quarantine": "NULL"}, "clip_id = 'c002'")
    forget(ready.project, video_id("film-4.mp4"))
    refused = r"cannot go on in the order in which it began: .*; hint: another seed \(`--set dit.seed=N`\) trains anew"
    with pytest.raises(ValueError, match=refused):
        pin_reading(ready.project, ready.assess("train_dit"), SETTINGS, {})
    assert tag_of("train_dit", found.key) not in clips.tags()

    clips.update(aside)
    shutil.rmtree(ready.project.folder / "lineage")
    ready.project.checkpoints("train_dit", found.key).joinpath("step_000003").mkdir(parents=True)
    with pytest.raises(ValueError, match=refused):
        pin_reading(ready.project, ready.assess("train_dit"), SETTINGS, {})
    clips.change({"quarantine": "NULL"}, "clip_id = 'c002'")
    _, head = pin_reading(ready.project, ready.assess("train_dit"), SETTINGS, {})
    assert head["tables"]["clips"]["rows"] == 8


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
