"""A project in an object store: tables that several processes write, and a folder that follows it from machine to machine."""

import gzip
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from components.models.weights import new_folder
from components.store import checkpoints, conditional_writes, mirror, storage, tables
from components.store.project import Project
from components.store.storage import Storage, StorageAwayError, StorageError
from tests.store.object_store import REPOSITORY, ObjectStore, found_by_this_process, object_store

ROWS_EACH = 12
UPLOAD = """
import sys
from pathlib import Path
from components.store.checkpoints import Uploads
from components.store.storage import Storage
uploads = Uploads(Storage(sys.argv[1]), Path(sys.argv[2]))
uploads(Path(sys.argv[2], "step_000020"))
uploads.close()
"""


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStore]:
    with object_store() as running, found_by_this_process(running):
        yield running


@pytest.fixture
def machine(store: ObjectStore, tmp_path: Path) -> Project:
    """A project in the object store, seen from a machine whose own folder is empty."""
    return Project(tmp_path / "a", "films", store.uri(tmp_path.name))


@pytest.fixture
def other_machine(machine: Project, tmp_path: Path) -> Project:
    return Project(tmp_path / "b", machine.name, machine.storage)


def write(project: Project, name: str, content: str | bytes) -> Path:
    path = project.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_a_table_lies_in_the_store_alone(machine: Project, other_machine: Project) -> None:
    assert not tables.exists(machine, "clips")
    clips = tables.clips(machine)
    assert tables.exists(other_machine, "clips")
    clips.append([{"clip_id": "a", "video": b"film a"}, {"clip_id": "b", "video": b"film b"}])
    clips.update([{"clip_id": "a", "caption": "a red square"}])
    version = clips.tag("before")
    clips.delete("clip_id = 'b'")
    clips.compact()
    there = tables.clips(other_machine)
    assert there.read(["clip_id", "caption"]) == [{"clip_id": "a", "caption": "a red square"}]
    assert list(there.read_blobs("video", ["a"])) == [("a", b"film a")]
    assert there.at("before").version == version
    assert list(there.at("before").read_blobs("video", ["b"])) == [("b", b"film b")]
    assert not (machine.folder / "tables").exists()
    assert not (other_machine.folder / "tables").exists()


def _write_rows(project: Project, writer: int, together: "multiprocessing.synchronize.Barrier") -> None:  # type: ignore[name-defined]
    clips = tables.clips(project)
    together.wait(60)
    for number in range(ROWS_EACH):
        clips.append([{"clip_id": f"w{writer}-{number:02d}", "video": b"x"}, {"clip_id": f"shared-{number:02d}", "video": b"y"}])
        clips.update([{"clip_id": f"w{writer}-{number:02d}", "caption": f"by {writer}"}])


@pytest.mark.slow
def test_three_processes_that_write_one_table_lose_nothing_and_double_nothing(machine: Project) -> None:
    spawn = multiprocessing.get_context("spawn")
    together = spawn.Barrier(3)
    writers = [spawn.Process(target=_write_rows, args=(machine, writer, together)) for writer in range(3)]
    for process in writers:
        process.start()
    for process in writers:
        process.join(120)
    assert [process.exitcode for process in writers] == [0, 0, 0]
    rows = tables.clips(machine).read(["clip_id", "caption"])
    wanted = {f"w{writer}-{number:02d}": f"by {writer}" for writer in range(3) for number in range(ROWS_EACH)}
    wanted |= {f"shared-{number:02d}": None for number in range(ROWS_EACH)}
    assert len(rows) == len(wanted)
    assert {row["clip_id"]: row["caption"] for row in rows} == wanted


def test_a_folder_follows_its_project_to_another_machine(machine: Project, other_machine: Project) -> None:
    weights = os.urandom(3_000_000)
    sheet = write(machine, "sheets/samples.png", "a picture")
    write(machine, "models/train_vae/k/vae.safetensors", weights)
    write(machine, "models/train_vae/k/manifest.json", "{}")
    write(machine, "models/downloaded/m/vae.safetensors", "a cache")
    write(machine, "ray-train/x", "of this machine")
    write(machine, "models/train_vae/.k.draft/vae.safetensors", "half of it")
    machine.write_record("train_vae", {"rows": 3, "sheet": str(sheet)})
    went = mirror.push(machine)
    assert went == ["models/train_vae/k/vae.safetensors", "models/train_vae/k/manifest.json", "sheets/samples.png", "state/train_vae.json"]
    assert mirror.pull(other_machine) == went
    assert (other_machine.folder / "models/train_vae/k/vae.safetensors").read_bytes() == weights
    assert other_machine.record("train_vae") == {"rows": 3, "sheet": str(other_machine.folder / "sheets/samples.png")}
    for project in (machine, other_machine):
        assert mirror.pull(project) == mirror.push(project) == []


def test_a_packed_file_arrives_as_it_was(machine: Project, other_machine: Project, tmp_path: Path) -> None:
    of_files = [Project(tmp_path / name, "films", f"file://{tmp_path}/shared") for name in "cd"]
    packed = gzip.compress(b"rows of a reading")
    for here, there in ((machine, other_machine), of_files):
        name = "lineage/train_vae/k.rows.gz"
        write(here, name, packed)
        mirror.push(here)
        mirror.pull(there)
        assert (there.folder / name).read_bytes() == mirror.project_storage(there).read(name) == packed
        assert mirror.project_storage(there).list(name)[name].num_bytes == len(packed)


def test_a_record_of_the_same_second_and_length_is_not_taken_for_the_old_one(machine: Project, other_machine: Project) -> None:
    for number in range(5):
        machine.write_record("encode", {"number": number})
        mirror.push(machine)
        mirror.pull(other_machine)
        assert other_machine.record("encode") == {"number": number}


def test_what_a_stage_removes_goes_everywhere(machine: Project, other_machine: Project) -> None:
    for name in ("samples/a.mp4", "samples/b.mp4"):
        write(machine, name, name)
    mirror.push(machine)
    mirror.pull(other_machine)
    (other_machine.folder / "samples/a.mp4").unlink()
    mirror.push(other_machine)
    mirror.pull(machine)
    assert [path.name for path in (machine.folder / "samples").iterdir()] == ["b.mp4"]


def test_what_a_person_loses_comes_back(machine: Project) -> None:
    lost = write(machine, "samples/a.mp4", "a film")
    mirror.push(machine)
    lost.unlink()
    mirror.pull(machine)
    assert lost.read_text() == "a film"


def test_what_was_not_pushed_is_kept_by_a_pull(machine: Project) -> None:
    machine.write_record("curate", {"rows": 1})
    mirror.push(machine)
    machine.write_record("curate", {"rows": 2})
    mirror.pull(machine)
    assert machine.record("curate") == {"rows": 2}
    assert mirror.push(machine) == ["state/curate.json"]


def test_an_emptied_store_does_not_empty_the_folder(machine: Project) -> None:
    write(machine, "samples/a.mp4", "a film")
    mirror.push(machine)
    mirror.project_storage(machine).delete(["samples/a.mp4"])
    mirror.pull(machine)
    assert mirror.push(machine) == ["samples/a.mp4"]


def test_a_name_that_leaves_the_folder_is_not_followed(machine: Project, tmp_path: Path) -> None:
    Storage(f"{machine.storage}").upload(write(machine, "x", "evil"), f"{machine.name}/samples/../../../evil.txt")
    mirror.pull(machine)
    assert not list(tmp_path.rglob("evil.txt"))


def test_a_busy_store_is_asked_again(machine: Project, store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "FIRST_PAUSE_SECONDS", 0.01)
    write(machine, "sheets/a.png", "a picture")
    store.tell("fail", times=storage.SDK_ATTEMPTS + 1, match="sheets/a.png")
    mirror.push(machine)
    store.tell("fail", times=2, match="sheets/a.png", method="GET")
    assert mirror.project_storage(machine).read("sheets/a.png") == b"a picture"


def test_a_store_that_stays_busy_is_given_up(machine: Project, store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(storage, "SDK_ATTEMPTS", 1)
    write(machine, "sheets/a.png", "a picture")
    store.tell("fail", times=1000, match="sheets/a.png")
    with pytest.raises(StorageAwayError, match=r"does not answer .* hint: "):
        mirror.push(machine)
    store.tell("fail", times=0)
    assert mirror.push(machine) == ["sheets/a.png"]


def test_a_bucket_that_is_not_there_is_named(machine: Project) -> None:
    with pytest.raises(StorageError, match=r"there is no bucket `none` .* hint: make it"):
        mirror.pull(Project(machine.root, "films", "s3://none/runs"))


def test_an_address_where_nobody_listens_is_said_soon(machine: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StorageAwayError, match="hint: AWS_ENDPOINT_URL names its address"):
        mirror.pull(machine)


def test_a_folder_of_a_file_system_is_a_storage_too(tmp_path: Path) -> None:
    here, there = (Project(tmp_path / name, "films", f"file://{tmp_path}/shared") for name in "ab")
    tables.clips(here).append([{"clip_id": "a", "video": b"film"}])
    write(here, "samples/a.mp4", "a film")
    mirror.push(here)
    assert mirror.pull(there) == ["samples/a.mp4"]
    assert tables.clips(there).keys() == ["a"]
    assert sorted(path.name for path in (tmp_path / "shared/films/samples").iterdir()) == ["a.mp4"]


def test_without_a_storage_nothing_happens(tmp_path: Path) -> None:
    project = Project(tmp_path, "films")
    assert mirror.pull(project) == mirror.push(project) == []
    assert not project.folder.exists()


def save(folder: Path, step: int, content: bytes = b"weights") -> Path:
    with new_folder(folder / f"step_{step:06d}") as draft:
        (draft / "tensors.safetensors").write_bytes(content + str(step).encode())
    return folder / f"step_{step:06d}"


def wait_until(moment: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not moment():
        assert time.monotonic() < deadline, "the moment never came"
        time.sleep(0.02)


def test_a_training_does_not_wait_for_its_uploads_and_the_newest_goes_next(machine: Project, store: ObjectStore) -> None:
    folder, there = machine.folder / "checkpoints", Storage(f"{machine.storage}/checkpoints")
    uploads = checkpoints.Uploads(there, folder)
    store.tell("hold", match="step_")
    uploads(save(folder, 10))
    wait_until(lambda: store.tell("held") > 0)
    for step in (20, 30, 40):
        uploads(save(folder, step))  # returns, though nothing was let through yet
    shutil.rmtree(folder / "step_000010")  # pruned while it is under way
    assert checkpoints.whole_steps(there) == []
    store.tell("release")
    uploads.close()
    assert checkpoints.whole_steps(there) == [10, 40]
    assert there.read("step_000010/tensors.safetensors") == b"weights10"
    assert sorted(path.name for path in folder.iterdir()) == ["step_000020", "step_000030", "step_000040"]


def test_an_upload_killed_half_way_is_not_taken_for_a_checkpoint(machine: Project, store: ObjectStore, tmp_path: Path) -> None:
    folder, there = machine.folder / "checkpoints", Storage(f"{machine.storage}/checkpoints")
    checkpoints.upload_step(there, save(folder, 10), "step_000010")
    save(folder, 20, b"more")
    store.tell("hold", match="step_000020/manifest")
    upload = subprocess.Popen([sys.executable, "-c", UPLOAD, there.uri, str(folder)], cwd=REPOSITORY)
    wait_until(lambda: store.tell("held") > 0)
    assert there.read("step_000020/tensors.safetensors") == b"more20"
    upload.send_signal(signal.SIGKILL)
    upload.wait()
    elsewhere = tmp_path / "elsewhere"
    assert checkpoints.fetch_newest(there, elsewhere) == 10
    assert [path.name for path in elsewhere.iterdir()] == ["step_000010"]
    store.tell("release")


def test_a_store_that_is_busy_for_long_costs_one_upload_and_not_the_training(
    machine: Project, store: ObjectStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(storage, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(storage, "SDK_ATTEMPTS", 1)
    folder, there = machine.folder / "checkpoints", Storage(f"{machine.storage}/checkpoints")
    uploads = checkpoints.Uploads(there, folder)
    store.tell("fail", times=1000, match="step_000010")
    uploads(save(folder, 10))
    wait_until(lambda: "step_000010 was not uploaded" in caplog.text)
    store.tell("fail", times=0)
    uploads(save(folder, 20))
    uploads.close()
    assert checkpoints.whole_steps(there) == [20]


def test_a_store_that_keeps_conditional_writes_passes_and_is_left_as_it_was(machine: Project) -> None:
    assert conditional_writes.check(f"{machine.storage}") is None
    assert Storage(f"{machine.storage}/.conditional-writes").list() == {}


def test_a_store_that_overwrites_is_found_out(machine: Project, store: ObjectStore) -> None:
    store.tell("overwrite", on=1)
    try:
        said = conditional_writes.check(f"{machine.storage}")
    finally:
        store.tell("overwrite", on=0)
    assert said is not None
    assert "does not keep conditional writes" in said


@pytest.mark.parametrize(("error", "said"), [("Commit conflict for version 3", None), ("the codec broke", "takes no table")])
def test_only_a_commit_that_was_taken_and_is_gone_counts_as_lost(
    machine: Project, monkeypatch: pytest.MonkeyPatch, error: str, said: str | None
) -> None:
    import lance

    write, commits = lance.write_dataset, iter(range(99))

    def once_not(*arguments: Any, **options: Any) -> Any:
        if next(commits) == 3:
            raise OSError(error)
        return write(*arguments, **options)

    monkeypatch.setattr(lance, "write_dataset", once_not)
    found = conditional_writes.check(f"{machine.storage}")
    assert (found is None) if said is None else (said in str(found) and error in str(found) and "conditional" not in str(found))


def test_a_probe_of_a_bucket_that_is_not_there_says_so(store: ObjectStore) -> None:
    assert "there is no bucket `none`" in str(conditional_writes.check("s3://none/runs"))


def test_a_table_without_credentials_is_not_taken_for_a_broken_one(machine: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    tables.clips(machine)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(StorageError, match=r"does not let us read .* hint: credentials come from"):
        tables.clips(Project(machine.root, "others", machine.storage))
    assert "credentials" in str(conditional_writes.check(f"{machine.storage}"))
