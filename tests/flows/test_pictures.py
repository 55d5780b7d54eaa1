"""A take-down finds the pictures of footage in Prefect, those of its project alone."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from components.store.project import Project
from flows.pictures import remove_pictures

RUNS: dict[str, dict[str, object]] = {
    "films": {"project": "films"},
    "scheduled": {"source": "/footage/films", "profile": "laptop"},
    "others": {"project": "others", "source": "/footage/films"},
    "demo": {},
}
PIXELS = "iVBORw0KGgoAAAANSUhEUg" * 400


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file as the embedded server of Prefect keeps it: runs of some projects with a sheet of clips and one of samples each."""
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    path = tmp_path / "prefect.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("pragma journal_mode = wal")
        connection.execute("create table flow_run (id text, parameters text)")
        for table in ("artifact", "artifact_collection"):
            connection.execute(f"create table {table} (id text, key text, type text, data text, flow_run_id text)")
        for name, parameters in RUNS.items():
            connection.execute("insert into flow_run values (?, ?)", (name, json.dumps(parameters)))
            for table in ("artifact", "artifact_collection"):
                for key in ("curate-clips", "evaluate-samples"):
                    connection.execute(
                        f"insert into {table} values (?, ?, 'image', ?, ?)", (f"{name}-{key}", key, f"{name} {key} {PIXELS}", name)
                    )
    return path


def test_pictures_of_the_projects_footage_go_and_leave_no_byte(database: Path) -> None:
    assert remove_pictures(Project(database.parent, "films")) == 2
    left = b"".join(path.read_bytes() for path in database.parent.iterdir())
    assert b"films curate-clips" not in left
    assert b"scheduled curate-clips" not in left
    assert b"films evaluate-samples" in left
    assert b"others curate-clips" in left
    assert b"demo curate-clips" in left
    assert [remove_pictures(Project(database.parent, name)) for name in ("films", "demo")] == [0, 1]


def test_without_prefect_there_is_nothing_to_remove(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "none"))
    assert remove_pictures(Project(tmp_path, "films")) == 0
    assert not (tmp_path / "none").exists()


def test_a_server_that_is_not_there_is_said_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    with (
        temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}),
        pytest.raises(ValueError, match=r"no Prefect server at .*; hint: "),
    ):
        remove_pictures(Project(tmp_path, "films"))
