"""`kinora lineage`, `kinora forget` and `kinora gc`: what they print, and one sentence for every mistake."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from components.store import tables
from flows import __main__ as entry
from tests.flows.command import REPOSITORY
from tests.operations.pipeline import Pipeline, video_id

Say = Callable[..., tuple[int, str, str]]


@pytest.fixture
def say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Say]:
    """Runs a command line in this process, with profile `test`, in a folder whose project `films` is finished but not registered."""
    pipeline = Pipeline(tmp_path / "runs")
    pipeline.add_files(*range(6))
    pipeline.add_clips(*range(6), label="a red ball")
    pipeline.run()
    before = dict(os.environ)
    monkeypatch.chdir(tmp_path)
    os.environ["KINORA_CONFIG"] = str(REPOSITORY / "pipelines.yaml")

    def run(*arguments: str) -> tuple[int, str, str]:
        code = entry._exit_code([*arguments, "--profile", "test"])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    yield run
    os.environ.clear()
    os.environ.update(before)


def test_a_file_is_walked_to_models_and_forgotten_and_what_is_left_over_is_listed(say: Say, tmp_path: Path) -> None:
    code, out, _ = say("lineage", "film-1.mp4", "--project", "films")
    assert code == 0
    assert f"sha256 {video_id('film-1.mp4')}" in out
    assert "c002: scene 0, 0.00 to 1.00 s, train: a red ball" in out
    assert "text-to-video, not registered: 2 clips" in out

    code, _, err = say("forget", "film-1.mp4", "--project", "films")
    assert (code, err.splitlines()[-2:]) == (2, ["error: a take-down is for good and nobody is there to confirm it", "hint: `--yes`"])
    code, out, err = say("forget", "film-1.mp4", "--project", "films", "--yes", "--json")
    assert code == 0
    (taken,) = json.loads(out)
    assert (taken["video_id"], taken["clips"]) == (video_id("film-1.mp4"), 2)
    assert tables.clips(Pipeline(tmp_path / "runs").project).count() == 4
    assert "rows removed: 2 clips on " in say("lineage", video_id("film-1.mp4"), "--project", "films")[1]
    assert say("forget", video_id("film-1.mp4"), "--project", "films", "--yes")[2].endswith("nothing is left to do\n")

    (tmp_path / "runs" / "films" / "models" / "train_vae" / "0123456789abcdef").mkdir()
    code, out, err = say("gc", "--project", "films", "--dry-run")
    assert (code, "models/train_vae/0123456789abcdef" in out) == (0, True)
    assert "would free" in err
    assert say("gc", "--project", "films")[0] == 0
    assert not (tmp_path / "runs" / "films" / "models" / "train_vae" / "0123456789abcdef").exists()


def test_what_is_not_there_is_said_in_one_sentence(say: Say) -> None:
    for arguments, sentence, hint in (
        (("lineage", "champion", "--project", "films"), "project `films` has no registered models yet", "`kinora run --project films`"),
        (("lineage", "film-9.mp4", "--project", "films"), "project `films` knows no file `film-9.mp4`", "a path, a file's name"),
        (("forget", "film-9.mp4", "--yes", "--project", "films"), "project `films` knows no file `film-9.mp4`", "a path, a file's name"),
        (("gc", "--project", "nothing"), "there is no project `nothing` in `runs`", "`kinora run` makes one"),
    ):
        code, out, err = say(*arguments)
        assert (code, out) == (2, "")
        assert err.startswith(f"error: {sentence}\nhint: {hint}")
