"""A champion is tried as a user would: one that makes videos stays, a broken one is taken back for the one before."""

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from components.config import load_config
from components.generate.generator import Generator
from components.jobs import __main__ as job
from components.jobs.check_champion import ChampionRefusedError, conclude, frames_fault, try_champion
from components.jobs.run import Outcome, Run, unseen
from components.jobs.spec import heard, spec_of
from components.models.weights import load_json, save_folder
from components.registry import models
from components.registry.gates import Check, Verdict
from components.sections import Config
from components.store.project import Project
from tests.generate.test_generator import folder  # noqa: F401  (a text-to-video folder of small untrained parts)

SETTINGS = Generator.settings
GOOD = Verdict([Check("by hand", None, None, None, True, "a person chose it")])


def settings(repository: Path) -> Config:
    return load_config("test", ["curate.min_contrast=0.5", "encode.num_actors=0"], file=str(repository / "pipelines.yaml"))


def broken(good: Path, place: Path) -> Path:
    """The same model with weights that are no numbers, its manifest in order."""
    from safetensors.torch import load_file

    weights = {name: torch.full_like(value, float("nan")) for name, value in load_file(good / "dit.safetensors").items()}
    parts = {name: good / name for name in ("video-vae", "text-encoder")}
    save_folder(place, {"dit": weights}, {name: load_json(good, name) for name in ("dit", "style")}, folders=parts)
    return place


def as_job(run: Run, capsys: pytest.CaptureFixture[str]) -> Outcome:
    """What the flow hears of the trial when it is a job."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert job.main(["check_champion", spec_of(run).as_json()]) == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    (outcome,) = (told["outcome"] for line in capsys.readouterr().out.splitlines() if (told := heard(line)) and "outcome" in told)
    return Outcome(**outcome)


def test_a_broken_champion_is_taken_back_and_one_that_makes_videos_stays(
    tmp_path: Path,
    repository: Path,
    folder: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    project = Project(tmp_path / "runs", "films")
    run = Run(settings(repository), project, None, None, unseen)
    nothing = try_champion(run)
    assert nothing.action == "skip"
    assert "no champion yet" in conclude(run, nothing)

    first = models.register(project, "text-to-video", folder, {}, models.generate_tag({"num_inference_steps": 1}))
    models.promote(project, "text-to-video", first, GOOD, None)
    steps: list[int] = []

    def settings_of(generator: Generator, **sampling: Any) -> dict[str, Any]:
        steps.append(sampling["num_inference_steps"])
        return SETTINGS(generator, **sampling)

    with monkeypatch.context() as patch:
        patch.setattr(Generator, "settings", settings_of)
        found = try_champion(run)
    assert steps == [1], "as it was evaluated"
    assert found.result["version"] == first.number
    assert conclude(run, found) == "version 1 of `films-text-to-video` makes videos"
    assert Path(found.result["show"]["images"]["videos"]).read_bytes().startswith(b"\x89PNG")

    second = models.register(project, "text-to-video", broken(folder, tmp_path / "broken"), {}, {})
    models.promote(project, "text-to-video", second, GOOD, first)
    told = as_job(run, capsys)
    still = models.find(project, "text-to-video", "champion")
    assert still is not None
    assert still.number == second.number, "a job moves no alias; the flow that waits for it does"
    with pytest.raises(ChampionRefusedError, match=r"version 2 .* failed its check \(its weights .*; version 1 is the champion again"):
        conclude(run, told)
    champion = models.find(project, "text-to-video", "champion")
    assert champion is not None
    assert champion.number == first.number
    refused = models.lookup(project, "text-to-video", "2")
    assert (refused.tags[models.VERDICT_TAG], refused.tags[models.REASONS_TAG]) == ("reject", "its weights are not all finite numbers")


@pytest.mark.parametrize(
    ("frames", "fault"),
    [
        (np.zeros((9, 32, 32, 3), np.uint8), "blank"),
        (np.full((9, 32, 32, 3), 128, np.uint8), "blank"),
        (np.repeat(np.random.default_rng(0).integers(0, 255, (1, 32, 32, 3), np.uint8), 9, axis=0), "frozen"),
        (np.random.default_rng(0).integers(0, 255, (9, 32, 32, 3), np.uint8), None),
        (np.random.default_rng(0).integers(0, 255, (1, 32, 32, 3), np.uint8), None),
    ],
)
def test_frames_that_show_nothing_are_told_from_a_video(repository: Path, frames: np.ndarray, fault: str | None) -> None:
    assert frames_fault(frames, load_config("test", file=str(repository / "pipelines.yaml"))) == fault
