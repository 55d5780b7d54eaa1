"""A project's folder: records that are whole or absent, and one holder of a lock at a time."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from components.store.project import Project, StageBusyError, project_name, project_of

HOLD = (
    "import sys; from pathlib import Path; from components.store.project import Project\n"
    "with Project(Path(sys.argv[1]), 'films').lock('train_vae'): print('held', flush=True); sys.stdin.read()"
)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path, "films")


def test_a_record_is_read_back_as_it_was_written(project: Project) -> None:
    assert project.record("curate") is None
    project.write_record("curate", {"maker": "abc", "rows": 3})
    assert project.record("curate") == {"maker": "abc", "rows": 3}
    assert [path.name for path in (project.folder / "state").iterdir()] == ["curate.json"]


@pytest.mark.parametrize("left", [b'{"maker": "ab', b"", b"[1, 2]", b"\xff\xfe"])
def test_a_torn_record_counts_as_none(project: Project, left: bytes) -> None:
    project.write_record("curate", {"maker": "abc"})
    (project.folder / "state" / "curate.json").write_bytes(left)
    assert project.record("curate") is None


def test_the_second_holder_of_a_lock_is_told_who_has_it_and_a_dead_one_frees_it(project: Project) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(project.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    with (
        pytest.raises(StageBusyError, match=rf"`train_vae` of project `films` is already running \(process {holder.pid} "),
        project.lock("train_vae"),
    ):
        pass
    with project.lock("train_dit"):
        pass
    holder.kill()
    holder.communicate()
    with project.lock("train_vae"):
        assert f"process {os.getpid()}" in (project.folder / "locks" / "train_vae.lock").read_text()


@pytest.mark.parametrize(
    ("text", "name"), [("Footage", "footage"), ("My Films, 2024!", "my-films-2024"), ("_a_", "a"), ("x" * 80, "x" * 48)]
)
def test_a_project_name_is_fit_for_folders_and_models(text: str, name: str) -> None:
    assert project_name(text) == name


@pytest.mark.parametrize(
    ("project", "source", "name"),
    [
        (None, None, "demo"),
        (None, "", "demo"),
        ("Mine", "/a/films", "mine"),
        (None, "/a/My Films/", "my-films"),
        (None, "/a/films/*.mp4", "films"),
        (None, Path("films"), "films"),
    ],
)
def test_a_run_works_in_the_project_it_names_or_in_that_of_its_footage(project: str | None, source: str | Path | None, name: str) -> None:
    assert project_of(project, source) == name


def test_a_name_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="hint: `--project NAME`"):
        project_name("..")
