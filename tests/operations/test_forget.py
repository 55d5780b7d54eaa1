"""A take-down leaves no byte of a clip on the disk, tells every model that read it, and cannot be undone by a later ingestion."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from components.operations import forget as takedown
from components.operations.forget import forget
from components.operations.held import held, shared
from components.operations.lineage import UnknownFileError, file_lineage, find_videos
from components.operations.readings import TRAINED_BY
from components.registry import gates, models
from components.store import forgotten, mirror, readings, tables
from components.store.filters import TRAINING
from components.store.lease import FORGET
from components.store.project import Project, StageBusyError, write_json
from components.store.storage import StorageAwayError
from components.store.turns import alone, working
from tests.operations.pipeline import REPOSITORY, Pipeline, latents_of, pixels_of, video_id

GONE, STAYS = "film-1.mp4", "film-0.mp4"
SAMPLE, SAMPLED = "a" * 32, 100  # generated for the caption that only the film has that goes


@pytest.fixture
def done(finished: Pipeline, tmp_path: Path) -> Pipeline:
    """A copy of the finished project."""
    shutil.copytree(finished.project.folder, tmp_path / "runs" / "films")
    return Pipeline(tmp_path / "runs")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """A finished project of five films with two clips each, with pictures of the second one wherever a run leaves some."""
    pipeline = Pipeline(tmp_path_factory.mktemp("finished"))
    pipeline.add_files(*range(10))
    pipeline.add_clips(0, 1, *range(4, 8), label="a red ball")
    pipeline.add_clips(2, 3, label="a green ball")
    pipeline.add_clips(8, 9, label="a blue ball", split="val")
    pipeline.run()
    project = pipeline.project
    key = next(head["key"] for head in readings.heads(project) if head["stage"] == "train_dit")
    for place in (
        project.sheet("clips.png"),
        project.sheet("train_vae.png"),
        project.folder / "report.html",
        project.folder / "evaluations" / "reconstructions.npz",
        project.checkpoints("train_dit", key) / "samples" / "step_000005.png",
    ):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"picture of " + pixels_of(2))
    key = next(head["key"] for head in readings.heads(project) if head["stage"] == "train_vae")
    place = project.checkpoints("train_vae", key) / "samples" / "step_000005.mp4"  # of clips that are held out
    place.parent.mkdir(parents=True)
    place.write_bytes(b"video of " + pixels_of(8))
    row = {"group": "real", "model": "weights"}
    for sample_id, prompt, video in ((SAMPLE, "a green ball", pixels_of(SAMPLED)), ("b" * 32, "a red ball", pixels_of(SAMPLED + 1))):
        tables.samples(project).append([{**row, "sample_id": sample_id, "prompt": prompt, "video": video}])
        project.samples.mkdir(exist_ok=True)
        project.sample_file(sample_id, "real").write_bytes(video)
    write_json(project.folder / "evaluations" / "captioner" / "weights.json", {"clips": ["c002", "c008"], "caption": "a green ball"})
    return pipeline


def files_with(root: Path, *needles: bytes) -> list[str]:
    """Greps every file below a folder."""
    files = [path for path in root.rglob("*") if path.is_file()]
    return [str(path) for path in files if any(needle in path.read_bytes() for needle in needles)]


def test_no_byte_of_its_video_or_latents_is_left(done: Pipeline) -> None:
    needles = (pixels_of(2)[:48], pixels_of(3)[:48], latents_of("c002").tobytes()[:48])
    assert files_with(done.project.root, *needles), "the search finds what is there"
    clips = tables.clips(done.project)
    clips.tag("somebodys-own")
    (taken,) = forget(done.project, GONE)
    assert taken.video_id == video_id(GONE)
    assert (taken.clips, taken.bytes_freed > 0) == (2, True)
    assert files_with(done.project.root, *needles, f"/footage/{GONE}".encode()) == []
    assert files_with(done.project.root, pixels_of(0)[:48]), "other films stay"
    assert clips.keys() == [f"c{number:03d}" for number in (0, 1, 4, 5, 6, 7, 8, 9)]
    assert clips.tags() == {}, "every version that held it is gone"


def test_what_a_run_would_do_afterwards_is_to_train_again(done: Pipeline) -> None:
    assert done.stale() == []
    forget(done.project, GONE)
    found = done.assess("train_vae")
    assert (found.fresh, found.why) == (False, "rows that it read were taken down, 8 then and 6 now")
    done.run()
    assert done.stale() == []
    assert video_id(GONE) not in readings.clips_by_video(done.project, "train_vae", readings.heads(done.project)[-2]["key"])


def test_a_model_that_did_not_read_it_is_fresh_and_can_still_be_replayed(done: Pipeline) -> None:
    forget(done.project, "film-4.mp4")  # its clips are of the validation split
    assert done.assess("train_vae").fresh
    assert not done.assess("evaluate").fresh
    head = next(head for head in readings.heads(done.project) if head["stage"] == "train_vae")
    replayed = tables.clips(done.project).at(head["tables"]["clips"]["tag"])
    assert replayed.version == head["tables"]["clips"]["version"]
    assert replayed.keys(TRAINING) == [row["clip_id"] for row in readings.read_rows(done.project, "train_vae", head["key"])]
    assert head["rows_removed"] == []
    assert files_with(done.project.root, pixels_of(8)[:48]) == [], "a training of the VAE shows clips that it does not read"


def test_a_model_whose_clips_went_to_quarantine_is_not_said_to_be_replayed_without_them(done: Pipeline) -> None:
    head = next(head for head in readings.heads(done.project) if head["stage"] == "train_vae")
    tables.clips(done.project).update([{"clip_id": "c000", "quarantine": "train_vae, step 7: its gradient"}])
    forget(done.project, "film-4.mp4")
    assert head["tables"]["clips"]["tag"] not in tables.clips(done.project).tags()
    assert done.assess("train_vae").fresh


def test_every_reading_that_held_it_says_rows_removed_and_so_does_the_file(done: Pipeline) -> None:
    forget(done.project, GONE)
    for head in readings.heads(done.project):
        (removed,) = head["rows_removed"]
        assert (removed["video_id"], removed["clips"]) == (video_id(GONE), 2)
    (file,) = file_lineage(done.project, video_id(GONE))
    assert file["clips"] == []
    assert file["rows_removed"]["done"]
    assert {(model["kind"], model["clips"]) for model in file["models"]} == {(kind, 2) for kind in TRAINED_BY}


def test_the_deny_list_keeps_the_hash_and_nothing_else(done: Pipeline) -> None:
    forget(done.project, GONE)
    (entry,) = forgotten.entries(done.project).values()
    assert entry.keys() == {"at", "done", "clips"}
    (row,) = tables.videos(done.project).read(["uri", "places", "status", "reason"], f"video_id = '{video_id(GONE)}'")
    assert (row["uri"], row["places"], row["status"]) == ("", [], "forgotten")
    assert row["reason"].startswith("taken down on 20")


POINTS = ("purge", "_note_in_readings", "_move_tags", "_remove_pictures", "_remove_from_runs", "_mark_models")


@pytest.mark.parametrize("points", [*[(point,) for point in POINTS], POINTS], ids=lambda points: "+".join(points))
def test_a_take_down_that_is_killed_anywhere_is_finished_by_the_same_command(
    done: Pipeline, points: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(*_: Any, **__: Any) -> None:
        raise Killed

    needles = (pixels_of(2)[:48], latents_of("c002").tobytes()[:48], f"/footage/{GONE}".encode(), pixels_of(SAMPLED)[:48], b"a green ball")
    stays = pixels_of(SAMPLED + 1)[:48]
    assert len(files_with(done.project.root, needles[3])) == 2, "in the table and as a file"
    for point in points:
        with monkeypatch.context() as patch:
            patch.setattr(tables.Table if point == "purge" else takedown, point, killed)
            with pytest.raises(Killed):
                forget(done.project, GONE)
        assert video_id(GONE) in forgotten.denied(done.project)
    (taken,) = forget(done.project, GONE)
    assert (taken.clips, taken.samples, len(taken.models)) == (2, 1, 0)
    assert files_with(done.project.root, *needles) == []
    assert len(files_with(done.project.root, stays)) == 2, "the sample of another film's caption stays"
    assert not (done.project.folder / "evaluations" / "captioner" / "weights.json").exists()
    assert all(head["rows_removed"] for head in readings.heads(done.project))
    assert forget(done.project, video_id(GONE)) == []


def test_pictures_that_were_taken_down_come_with_the_next_run_of_their_stage(done: Pipeline) -> None:
    done.add_files(18)  # film-9, of which no clip was cut
    assert done.stale() == []
    forget(done.project, "film-9.mp4")
    assert done.stale() == ["curate", "evaluate"], "nothing but the pictures is missing"
    assert {done.assess(stage).why for stage in done.stale()} == {"its pictures were taken down"}
    done.run()
    assert done.stale() == []


@pytest.fixture
def machines(done: Pipeline, tmp_path: Path) -> tuple[Pipeline, Pipeline]:
    """The finished project on two machines that share a storage."""
    stored = tmp_path / "stored"
    shutil.move(done.project.folder / "tables", stored / "films" / "tables")
    both = []
    for name in "ab":
        both.append(Pipeline(tmp_path / name))
        both[-1].project = Project(tmp_path / name, "films", f"file://{stored}")
    shutil.move(done.project.folder, both[0].project.folder)
    mirror.push(both[0].project)
    mirror.pull(both[1].project)
    shutil.copytree(both[0].project.folder / "checkpoints", both[1].project.folder / "checkpoints", dirs_exist_ok=True)
    return both[0], both[1]


def test_while_a_stage_works_on_another_machine_the_file_is_denied_and_nothing_is_removed(
    machines: tuple[Pipeline, Pipeline], tmp_path: Path
) -> None:
    here, there = machines
    with (
        working(there.project),
        shared(there.project, "encode"),
        pytest.raises(StageBusyError, match=r"`encode` of project `films` is run"),
    ):
        forget(here.project, GONE)
    assert tables.clips(there.project).count() == 10
    mirror.pull(there.project)
    assert video_id(GONE) in forgotten.denied(there.project)
    assert len(forget(here.project, GONE)) == 1
    mirror.pull(there.project)
    gone = (pixels_of(2)[:48], latents_of("c002").tobytes()[:48], f"/footage/{GONE}".encode(), pixels_of(SAMPLED)[:48], b"a green ball")
    assert files_with(tmp_path, *gone) == [], "neither on a machine nor in the storage"
    assert forgotten.entries(there.project)[video_id(GONE)]["done"]


def test_another_machine_lets_go_of_pictures_of_held_out_clips_too(machines: tuple[Pipeline, Pipeline], tmp_path: Path) -> None:
    here, there = machines
    assert files_with(tmp_path / "b", pixels_of(8)[:48]), "a training of the VAE left a video of it"
    forget(here.project, "film-4.mp4")
    mirror.pull(there.project)
    assert files_with(tmp_path, pixels_of(8)[:48]) == []


def test_no_stage_begins_while_footage_is_taken_down_on_another_machine(machines: tuple[Pipeline, Pipeline]) -> None:
    here, there = machines
    with held(here.project, FORGET):
        for turn in (shared(there.project, "encode"), held(there.project, "train_vae")):
            with pytest.raises(StageBusyError, match="footage of project `films` is being taken down"), turn:
                pass
    with shared(there.project, "encode"), held(there.project, "train_vae"):
        pass


def test_a_take_down_is_not_done_before_the_storage_let_go_of_what_it_removed(
    machines: tuple[Pipeline, Pipeline], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = machines
    pushed, removed = mirror.push, project_pictures(here.project)

    def away(project: Project) -> list[str]:
        if any(not picture.exists() for picture in removed):
            raise StorageAwayError("the storage is away")
        return pushed(project)

    with monkeypatch.context() as patch:
        patch.setattr(mirror, "push", away)
        with pytest.raises(StorageAwayError):
            forget(here.project, GONE)
    assert not forgotten.entries(here.project)[video_id(GONE)]["done"]
    assert files_with(tmp_path / "stored", pixels_of(2)[:48]), "a picture of it"
    assert len(forget(there.project, GONE)) == 1, "another machine ends it"
    mirror.pull(here.project)
    assert files_with(tmp_path, pixels_of(2)[:48], pixels_of(SAMPLED)[:48]) == []
    assert forgotten.entries(here.project)[video_id(GONE)]["done"]


def project_pictures(project: Project) -> list[Path]:
    return [project.sheet("clips.png"), project.folder / "report.html"]


def test_a_file_is_known_by_path_name_id_clip_and_content(done: Pipeline, tmp_path: Path) -> None:
    whole = video_id(STAYS)
    for text in (f"/footage/{STAYS}", STAYS, whole, whole[:8], "c001"):
        assert find_videos(done.project, text) == [whole]
    moved = tmp_path / "moved.mp4"
    moved.write_bytes(STAYS.encode())  # whose sha256 is its id
    assert find_videos(done.project, str(moved)) == [whole]
    with pytest.raises(UnknownFileError, match=r"project `films` knows no file `film-7.mp4`; hint: a path"):
        forget(done.project, "film-7.mp4")


def test_a_take_down_waits_for_the_stages_that_run_and_new_ones_wait_for_it(done: Pipeline) -> None:
    script = (
        "import sys; from pathlib import Path; from components.store.project import Project\n"
        "from components.operations.forget import forget\n"
        "forget(Project(Path(sys.argv[1]), 'films'), sys.argv[2], lambda: print('waiting', flush=True))"
    )
    command = [sys.executable, "-c", script, str(done.project.root), GONE]
    with working(done.project):
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        assert video_id(GONE) in forgotten.denied(done.project), "what is ingested from now on is already refused"
        assert tables.clips(done.project).count() == 10
    with working(done.project):  # enters only once it is over
        assert tables.clips(done.project).count() == 8
    assert process.wait(timeout=60) == 0


def test_one_that_dies_lets_the_stages_go_on(done: Pipeline) -> None:
    script = (
        "import sys, time; from pathlib import Path; from components.store.project import Project\n"
        "from components.store.turns import alone\n"
        "with alone(Project(Path(sys.argv[1]), 'films'), lambda: None):\n print('in', flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(done.project.root)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "in\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with alone(done.project, lambda: pytest.fail("nobody is there")):
        assert process.returncode == -signal.SIGKILL


@pytest.mark.slow
def test_registered_models_are_marked_and_mlflow_lets_go_of_the_pictures(done: Pipeline) -> None:
    from components.operations.lineage import model_lineage
    from components.registry.tracking import Tracker, client_of

    project = done.project
    run = Tracker(project).run("train_vae", next(h["key"] for h in readings.heads(project) if h["stage"] == "train_vae"))
    run.log_artifact(project.sheet("train_vae.png"), "samples")
    run.close()
    for kind, stage in TRAINED_BY.items():
        head = next(head for head in readings.heads(project) if head["stage"] == stage)
        version = models.register(project, kind, done.model(stage), {}, head["tags"], run.run_id)  # type: ignore[arg-type]
        models.promote(project, kind, version, gates.Verdict([gates.Check("by hand", 1, 1, 1, True, "")]), None)  # type: ignore[arg-type]
    before = model_lineage(project, "text-to-video", "champion")
    assert [one["kind"] for one in before["stands_on"]] == ["video-vae", "captioner"]
    assert all(one["aliases"] == ["champion"] for one in [before, *before["stands_on"]])
    assert {Path(file["uri"]).name: file["clips"] for file in before["files"]} == {f"film-{number}.mp4": 2 for number in range(4)}

    (taken,) = forget(project, GONE)
    assert {one["model"] for one in taken.models} == {f"films-{kind}" for kind in TRAINED_BY}
    assert "mlflow:samples/train_vae.png" in taken.pictures
    assert files_with(project.root, pixels_of(2)[:48]) == []
    after = model_lineage(project, "text-to-video", "champion")
    assert [one["video_id"] for one in after["rows_removed"]] == [video_id(GONE)]
    version = models.lookup(project, "text-to-video", "champion")
    assert json.loads(version.tags["kinora.rows_removed"])[0]["video_id"] == video_id(GONE)
    assert json.loads(client_of(project).get_run(run.run_id).data.tags["kinora.rows_removed"])[0]["clips"] == 2
    assert time.strptime(json.loads(version.tags["kinora.rows_removed"])[0]["at"][:10], "%Y-%m-%d")

    for path in (project.folder / "lineage").glob("*/*"):
        path.unlink()
    told = model_lineage(project, "text-to-video", "champion")  # by the registry alone, as on a machine without the project's folder
    assert [{**table, "uri": None} for table in after["tables"]] == told["tables"]
    assert (told["files"], told["rows_removed"]) == (None, after["rows_removed"])
    assert [one["weights"] for one in told["stands_on"]] == [one["weights"] for one in after["stands_on"]]
