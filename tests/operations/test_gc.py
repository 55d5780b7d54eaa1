"""What nothing refers to goes, and everything else stays: a run afterwards is all fresh, and what was killed is resumed."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from components.models.weights import digest_folder
from components.operations import gc
from components.operations.freshness import text_encoder_place
from components.operations.gc import Garbage, collect
from components.operations.held import held
from components.operations.plan import newest_step
from components.operations.readings import pin_reading, tag_of
from components.registry import models
from components.store import mirror, readings, tables
from components.store.checkpoints import storage_of
from components.store.project import Project
from components.store.turns import alone
from tests.operations.pipeline import Pipeline, settings, text_to_video


@pytest.fixture
def used(tmp_path: Path) -> Pipeline:
    """A project that trained its VAE twice, and everything after it."""
    pipeline = Pipeline(tmp_path)
    pipeline.add_files(*range(8))
    pipeline.add_clips(*range(8), label="a red ball")
    pipeline.run()
    for stage in ("train_vae", "train_dit"):
        checkpoint(pipeline, stage)
    pipeline.config = settings("vae.seed=1")
    pipeline.run()
    checkpoint(pipeline, "train_vae")
    return pipeline


def checkpoint(pipeline: Pipeline, stage: str) -> Path:
    folder = pipeline.project.checkpoints(stage, pipeline.assess(stage).key) / "step_000005"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    return folder.parent


def names(found: list[Garbage]) -> list[str]:
    return [one.name for one in found]


def old(path: Path) -> Path:
    """Makes a file or folder look untouched for a day."""
    for place in (path, *path.rglob("*")):
        os.utime(place, (time.time() - 86400,) * 2)
    return path


def test_the_first_training_goes_and_the_second_stays(used: Pipeline) -> None:
    project = used.project
    assert len(list((project.folder / "models" / "train_vae").iterdir())) == 2
    listed, notes = collect(used.config, project, dry_run=True)
    assert notes == []
    assert len(list((project.folder / "models" / "train_vae").iterdir())) == 2, "a dry run removes nothing"
    found, _ = collect(used.config, project, dry_run=False)
    assert names(found) == names(listed)
    gone = [name.rpartition("/")[0] for name in names(found)]
    assert sorted(gone) == sorted(
        ["checkpoints/train_vae", "models/train_vae", "lineage/train_vae", "checkpoints/train_dit", "models/train_dit", "lineage/train_dit"]
    )
    for stage in ("train_captioner", "train_vae", "train_dit"):
        assert [path.name for path in (project.folder / "models" / stage).iterdir()] == [used.model(stage).name]
    assert used.stale() == []
    kept = {head["tables"]["clips"]["tag"] for head in readings.heads(project)}
    assert set(tables.clips(project).tags()) == kept
    assert len(kept) == 3
    assert collect(used.config, project, dry_run=False)[0] == []


def test_a_training_that_was_killed_is_resumed_afterwards(used: Pipeline) -> None:
    used.config = settings("vae.seed=2")
    found = used.assess("train_vae")
    pin_reading(used.project, found, {}, {})
    folder = checkpoint(used, "train_vae")
    collect(settings("vae.seed=1"), used.project, dry_run=False)  # asked for without the settings of the one that was killed
    assert newest_step(folder) == "step_000005"


def test_files_of_a_running_training_are_left_alone(used: Pipeline) -> None:
    draft = used.project.folder / "models" / "train_vae" / ".0123456789abcdef.x"
    draft.mkdir()
    old(draft)
    with used.project.lock("train_vae"):
        found, (note,) = collect(used.config, used.project, dry_run=False)
    assert not [name for name in names(found) if "train_vae" in name]
    assert "what belongs to `train_vae` is left alone" in note
    assert "lineage/train_vae" in " ".join(names(collect(used.config, used.project, dry_run=False)[0]))
    assert not draft.exists()


def test_folders_of_ray_train_stay_as_long_as_their_training_runs(used: Pipeline) -> None:
    folder = used.project.folder / "ray-train" / "train_vae-0123456789abcdef-00000001"
    (folder / ".validate_storage_marker").mkdir(parents=True)
    old(folder.parent)
    with used.project.lock("train_vae"):
        collect(used.config, used.project, dry_run=False)
    assert (folder / ".validate_storage_marker").exists()
    found, _ = collect(used.config, used.project, dry_run=False)
    assert [one.name for one in found if one.kind == "Ray Train's folders"] == [f"ray-train/{folder.name}"]
    assert not folder.exists()


def test_text_encoders_stay_that_the_settings_or_the_embeddings_are_of(used: Pipeline) -> None:
    project = used.project

    def taken(name: str) -> Path:
        chosen = settings(f"text_encoder.pretrained={name}").text_encoder.model_dump(mode="json")
        folder = text_encoder_place(chosen, project)
        folder.mkdir(parents=True)
        return folder

    former, embedded, asked = (taken(name) for name in ("some/t5", "some/mt5", "some/umt5"))
    chosen = settings("text_encoder.pretrained=some/mt5").text_encoder.model_dump(mode="json")
    project.write_record("encode", {**(project.record("encode") or {}), "settings": {"text_encoder": chosen}})
    config = settings("vae.seed=1", "text_encoder.pretrained=some/umt5")
    with project.lock("encode"):
        _, notes = collect(config, project, dry_run=False)
    assert any("text encoders are left alone" in note for note in notes)
    assert former.is_dir()
    assert f"models/text_encoder/{former.name}" in names(collect(config, project, dry_run=False)[0])
    assert [folder.is_dir() for folder in (former, embedded, asked)] == [False, True, True]


def test_a_fetched_model_stays_that_is_to_be_trained_further_or_that_a_killed_training_began_with(used: Pipeline, tmp_path: Path) -> None:
    named, begun, nobodys = (text_to_video(tmp_path / name) for name in ("named", "begun", "nobodys"))
    for model in (named, begun, nobodys):
        shutil.copytree(model, used.project.folder / "models" / "downloaded" / digest_folder(model)[:16])
    used.config = settings("dit.seed=9")
    pin_reading(used.project, used.assess("train_dit"), {}, {"text-to-video": digest_folder(begun)})
    found, _ = collect(settings(f"dit.finetune={named}"), used.project, dry_run=False)
    assert [one.name for one in found if one.kind == "downloaded models"] == [f"models/downloaded/{digest_folder(nobodys)[:16]}"]


def test_a_take_down_waits_for_it(used: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    class Waits(Exception):
        pass

    def waits() -> None:
        raise Waits

    def asked(project: Project) -> list[models.Version]:
        with pytest.raises(Waits), alone(project, waits):
            pass
        return []

    monkeypatch.setattr(gc, "versions_of", asked)
    assert collect(used.config, used.project, dry_run=True)[0] != []


def test_a_training_of_another_machine_is_left_alone_while_it_runs_and_after_it_was_killed(used: Pipeline, tmp_path: Path) -> None:
    here, there = (Project(tmp_path / name, "films", f"file://{tmp_path}/stored") for name in "ab")
    shutil.move(used.project.folder / "tables", tmp_path / "stored" / "films" / "tables")
    shutil.move(used.project.folder, here.folder)
    used.project = here
    mirror.push(here)
    mirror.pull(there)
    config, used.config = used.config, settings("vae.seed=2")
    found = used.assess("train_vae")
    checkpoints = storage_of(here, here.checkpoints("train_vae", found.key))
    with held(here, "train_vae"):
        pin_reading(here, found, {}, {})
        checkpoints.upload(here.folder / "state" / "train_vae.json", "step_000005/manifest.json")
        _, (note,) = collect(config, there, dry_run=False)
        assert "what belongs to `train_vae` is left alone" in note
    collect(config, there, dry_run=False)
    assert checkpoints.list() != {}
    assert tag_of("train_vae", found.key) in tables.clips(here).tags()


def test_drafts_go_when_they_are_old_and_the_footage_is_not_looked_at(used: Pipeline) -> None:
    folder = used.project.folder
    young, left = folder / "state" / ".promote.json.17", folder / "samples" / ".download-x"
    for path in (young, left, folder / "footage" / ".hidden"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half")
    old(left)
    old(folder / "footage")
    found, _ = collect(used.config, used.project, dry_run=False)
    assert [one.name for one in found if one.kind == "drafts"] == ["samples/.download-x"]
    assert young.exists()
    assert (folder / "footage" / ".hidden").exists()


def test_samples_of_a_model_that_is_gone_go_and_those_of_this_one_stay(used: Pipeline) -> None:
    project = used.project
    weights = readings.heads(project)[-1]["weights"]
    record = project.record("train_dit")
    assert record is not None
    project.write_record("train_dit", record | {"result": {"weights": weights}})
    row = {"prompt": "a ball", "group": "seen", "video": b"film"}
    tables.samples(project).append(
        [{"sample_id": "11111111-now", "model": weights, **row}, {"sample_id": "22222222-then", "model": "gone", **row}]
    )
    for name in ("seen-11111111.mp4", "seen-22222222.mp4", "seen-33333333.mp4"):
        project.samples.mkdir(exist_ok=True)
        (project.samples / name).write_bytes(b"film")
    collect(used.config, project, dry_run=False)
    assert tables.samples(project).keys() == ["11111111-now"]
    assert [path.name for path in project.samples.iterdir()] == ["seen-11111111.mp4"]


def test_old_versions_go_and_tagged_ones_stay(used: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    from datetime import timedelta

    clips = tables.clips(used.project)
    monkeypatch.setattr(tables, "KEEP_VERSIONS", timedelta(microseconds=1))
    found, _ = collect(used.config, used.project, dry_run=False)
    assert "old table versions" in {one.kind for one in found}
    assert sum(one.num_bytes for one in found if one.kind == "old table versions") > 0
    for head in readings.heads(used.project):
        read = head["tables"]["clips"]
        assert clips.at(read["tag"]).version == read["version"]
    assert used.stale() == []


def test_an_hour_old_session_of_ray_that_died_goes(used: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = Path("/tmp") / f"k{os.getpid()}"
    monkeypatch.setattr("tempfile.tempdir", str(short))
    for name, owner in (("kin-dead", {"pid": 1, "started": 0.0}), ("kin-strange", None)):
        (short / name).mkdir(parents=True)
        if owner:
            (short / name / "owner.json").write_text(json.dumps(owner))
    found, _ = collect(used.config, used.project, dry_run=False)
    assert [Path(one.name).name for one in found if one.kind == "Ray's temporary folders"] == ["kin-dead"]
    assert [path.name for path in short.iterdir()] == ["kin-strange"]
    (short / "kin-strange").rmdir()
    short.rmdir()


def test_a_project_that_is_not_there_has_nothing(tmp_path: Path) -> None:
    assert collect(settings(), Project(tmp_path, "films"), dry_run=True)[0] == []
