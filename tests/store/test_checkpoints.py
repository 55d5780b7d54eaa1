"""Checkpoints in a storage: the newest whole one is fetched, a damaged one is passed over, old ones go."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from components.models.weights import new_folder
from components.store import checkpoints
from components.store.checkpoints import Uploads, bring_step, fetch_newest, newest_here, upload_step
from components.store.project import Project
from components.store.storage import Storage, StorageAwayError


@pytest.fixture
def there(tmp_path: Path) -> Storage:
    return Storage(f"file://{tmp_path}/storage")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "machine"


def save(folder: Path, *steps: int) -> Path:
    for step in steps:
        with new_folder(folder / f"step_{step:06d}") as draft:
            (draft / "tensors.safetensors").write_bytes(bytes(1000) + str(step).encode())
    return folder / f"step_{steps[-1]:06d}"


def upload(there: Storage, folder: Path, *steps: int) -> None:
    save(folder, *steps)
    for step in steps:
        upload_step(there, folder / f"step_{step:06d}", f"step_{step:06d}")


def content(folder: Path, step: int) -> bytes:
    return (folder / f"step_{step:06d}" / "tensors.safetensors").read_bytes()


def test_the_newest_step_comes_to_an_empty_folder(there: Storage, folder: Path, tmp_path: Path) -> None:
    upload(there, folder, 10, 20)
    assert fetch_newest(there, tmp_path / "other") == 20
    assert content(tmp_path / "other", 20) == content(folder, 20)
    assert fetch_newest(Storage(f"{there.uri}/none"), tmp_path / "none") is None


def test_a_newer_step_of_this_machine_is_kept(there: Storage, folder: Path) -> None:
    upload(there, folder, 10)
    save(folder, 30)
    assert fetch_newest(there, folder) == 30


@pytest.mark.parametrize("damage", ["cut", "flip", "file", "manifest"])
def test_a_damaged_step_of_the_storage_gives_way_to_the_one_before(
    there: Storage, folder: Path, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    upload(there, folder, 10, 20)
    place = tmp_path / "storage/step_000020"
    data = place / "tensors.safetensors"
    match damage:
        case "cut":
            os.truncate(data, 500)
        case "flip":
            blob = bytearray(data.read_bytes())
            blob[10] ^= 1
            data.write_bytes(blob)
        case "file":
            data.unlink()
        case "manifest":
            (place / "manifest.json").write_text("{")
    assert fetch_newest(there, tmp_path / "other") == 10
    assert "the one before it is taken" in caplog.text
    assert sorted(path.name for path in (tmp_path / "other").iterdir()) == ["step_000010"]


def test_a_damaged_step_of_this_machine_is_fetched_again(there: Storage, folder: Path) -> None:
    upload(there, folder, 10, 20)
    whole = content(folder, 20)
    os.truncate(folder / "step_000020/tensors.safetensors", 5)
    assert newest_here(folder) == 10
    assert fetch_newest(there, folder) == 20
    assert content(folder, 20) == whole


@pytest.mark.parametrize("before", ["nothing", "another"])
def test_workers_of_one_machine_fetch_a_step_once(
    there: Storage, folder: Path, tmp_path: Path, before: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(there, folder, 20)
    machine, workers = tmp_path / "other", 3
    if before == "another":
        with new_folder(machine / "step_000020") as draft:
            (draft / "tensors.safetensors").write_bytes(b"done again")
    fetched, together = [], threading.Barrier(workers)
    download = Storage.download

    def slow_download(storage: Storage, name: str, path: Path) -> None:
        fetched.append(name)
        time.sleep(0.05)
        download(storage, name, path)

    def worker(rank: int) -> bytes:
        together.wait()
        bring_step(there, machine, 20)
        return content(machine, 20)

    monkeypatch.setattr(Storage, "download", slow_download)
    with ThreadPoolExecutor(workers) as pool:
        assert set(pool.map(worker, range(workers))) == {content(folder, 20)}
    assert sorted(fetched) == ["step_000020/manifest.json", "step_000020/tensors.safetensors"]


@pytest.mark.parametrize("stored", [False, True])
def test_the_newest_finished_step_is_that_of_the_storage_if_there_is_one(tmp_path: Path, stored: bool) -> None:
    project = Project(tmp_path / "machine", "films", f"file://{tmp_path}/storage" if stored else None)
    folder = project.checkpoints("train_dit", "k")
    assert checkpoints.newest_finished(project, folder) is None
    (folder / "step_000090").mkdir(parents=True)  # without a manifest
    save(folder, 10, 20)
    if stored:
        upload(checkpoints.storage_of(project, folder), folder, 10)
    assert checkpoints.newest_finished(project, folder) == (10 if stored else 20)


def test_the_newest_finished_step_is_not_known_while_the_storage_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(storage: Storage, name: str = "") -> None:
        raise StorageAwayError("no answer")

    monkeypatch.setattr(Storage, "list", away)
    project = Project(tmp_path / "machine", "films", f"file://{tmp_path}/storage")
    assert checkpoints.newest_finished(project, project.checkpoints("train_dit", "k")) is None


def test_the_storage_keeps_as_many_steps_as_the_machine(there: Storage, folder: Path) -> None:
    upload(there, folder, 10, 20, 90)
    there.upload(folder / "step_000010/manifest.json", "step_000015/part.bin")  # a torn upload
    uploads = Uploads(there, folder, keep=2)
    uploads(save(folder, 30))
    uploads.close()
    assert sorted({name.partition("/")[0] for name in there.list()}) == ["step_000020", "step_000030"]


def test_metrics_and_samples_travel_with_a_checkpoint(there: Storage, folder: Path, tmp_path: Path) -> None:
    place = save(folder, 10)
    (folder / "metrics.jsonl").write_text('{"step": 10, "loss": 1.0}\n')
    (folder / "quarantined.jsonl").write_text('{"step": 7}\n')
    (folder / "samples").mkdir()
    (folder / "samples/step_000010.png").write_bytes(b"a picture")
    uploads = Uploads(there, folder)
    uploads(place)
    with (folder / "metrics.jsonl").open("a") as handle:
        handle.write('{"step": 11, "loss": 0.5}\n')
    uploads.close()
    driver = tmp_path / "driver"
    checkpoints.follow(there, driver)
    assert (driver / "metrics.jsonl").read_text() == (folder / "metrics.jsonl").read_text()
    assert (driver / "quarantined.jsonl").read_text() == '{"step": 7}\n'
    assert (driver / "samples/step_000010.png").read_bytes() == b"a picture"
    assert not (driver / "step_000010").exists()


def test_metrics_of_a_training_on_this_machine_are_left_alone(there: Storage, folder: Path) -> None:
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("longer\n")
    there.upload(folder / "metrics.jsonl", "metrics.jsonl")
    (folder / "metrics.jsonl").write_text("short\n")
    with checkpoints._nobody_trains_here(folder) as alone:
        assert alone
        checkpoints.follow(there, folder)
    assert (folder / "metrics.jsonl").read_text() == "short\n"


def test_what_a_training_left_in_the_storage_can_be_found_and_removed(tmp_path: Path) -> None:
    project = Project(tmp_path / "machine", "films", f"file://{tmp_path}/storage")
    for key in ("a" * 16, "b" * 16):
        folder = project.checkpoints("train_vae", key)
        upload(checkpoints.storage_of(project, folder), folder, 10)
    (folder / "samples").mkdir()
    (folder / "samples/step_000010.png").write_bytes(b"a picture")
    stored = checkpoints.storage_of(project, folder)
    stored.upload(folder / "samples/step_000010.png", "samples/step_000010.png")
    assert set(checkpoints.stored_trainings(project, "train_vae")) == {"a" * 16, "b" * 16}
    checkpoints.remove_samples(project, folder)
    assert stored.list("samples") == {}
    assert checkpoints.whole_steps(stored) == [10]
    checkpoints.remove_training(project, "train_vae", "a" * 16)
    assert set(checkpoints.stored_trainings(project, "train_vae")) == {"b" * 16}
    assert checkpoints.stored_trainings(Project(tmp_path, "films"), "train_vae") == {}
