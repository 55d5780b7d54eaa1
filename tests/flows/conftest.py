"""A command line in an empty folder, and a folder where a project is finished."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from components.operations.reported import WRITTEN
from flows import __main__ as entry
from tests.flows.command import REPOSITORY
from tests.operations.pipeline import Pipeline

Say = Callable[..., tuple[int, str, str]]
AFTERWARDS = 4_000_000_000  # seconds since the epoch: whenever the records of the stages say that they ended


@pytest.fixture
def say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Say]:
    """Runs a command line in this process, in an empty folder, and answers (exit code, stdout, stderr)."""
    before = dict(os.environ)
    monkeypatch.chdir(tmp_path)
    os.environ["KINORA_CONFIG"] = str(REPOSITORY / "pipelines.yaml")

    def run(*arguments: str) -> tuple[int, str, str]:
        code = entry._exit_code(list(arguments))
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    yield run
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A folder whose project `films` has every stage done and was reported, with profile `test`."""
    pipeline = Pipeline(tmp_path / "runs")
    pipeline.add_clips(*range(8), label="a red ball")
    pipeline.run()
    for name in WRITTEN:
        (pipeline.project.folder / name).write_text("{}")
        os.utime(pipeline.project.folder / name, (AFTERWARDS, AFTERWARDS))
    return tmp_path
