"""From clips to a verdict: what models of known faults would generate, measured and judged as a run does it."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.config import load_config
from components.evaluate import suite
from components.evaluate.degradations import MUST_RANK, freeze
from components.jobs import promote as promote_job
from components.jobs.evidence import text_to_video_evidence, write_evidence
from components.jobs.run import Run, unseen
from components.models.weights import digest_folder
from components.registry.gates import Verdict, decide_text_to_video
from components.registry.models import find
from components.store.project import Project
from components.world.reader import read
from components.world.render import draw_scene, render_scene
from tests.generate.test_generator import folder  # noqa: F401  (a text-to-video folder of small untrained parts)

PROMPTS = suite.make_prompts("demo", 16, 16, seed=5)
MEASURED: dict[str, Any] = {"fps": 8, "min_motion": 0.02, "sharp_at": 0.4}


def shown(prompt: suite.Prompt, rng: np.random.Generator) -> np.ndarray:
    """Renders what a prompt asks for, with the VAE's grain over it."""
    assert prompt.truth is not None
    scene = None
    while scene is None or scene.fields != prompt.truth:
        scene = draw_scene(rng, "demo", (prompt.truth["colour"], prompt.truth["shape"], prompt.truth["motion"]))
    frames = render_scene(scene, 9, 64, 64)
    return (frames + rng.normal(0, 3, frames.shape)).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def obedient() -> list[np.ndarray]:
    """Samples of a model that shows what it is asked for."""
    rng = np.random.default_rng(0)
    return [shown(prompt, rng) for prompt in PROMPTS]


@pytest.fixture(scope="module")
def good(obedient: list[np.ndarray]) -> dict[str, Any]:
    return evidence(obedient, "good")


def evidence(samples: list[np.ndarray], model: str) -> dict[str, Any]:
    rows = suite.score_samples(samples, PROMPTS, partial(read, preset="demo"), **MEASURED)
    ranking = suite.rank_degradations(samples, **MEASURED, count=8, names=MUST_RANK)
    evaluation = suite.aggregate(rows, sharp_at=0.4, ranking=ranking, bootstrap_samples=100, seed=0)
    return text_to_video_evidence(model, "these prompts", rows, evaluation)


def judged(ours: dict[str, Any], champion: dict[str, Any] | None = None) -> Verdict:
    return decide_text_to_video(ours, champion, load_config("laptop").gate)


def failing(verdict: Verdict) -> set[str]:
    return {check.name for check in verdict.checks if not check.holds}


def test_a_model_that_follows_is_promoted(good: dict[str, Any]) -> None:
    assert judged(good).reasons == []


def test_a_model_whose_captions_were_shuffled_is_refused(obedient: list[np.ndarray]) -> None:
    """Every clip is as good as a real one, but shows what another prompt asked for."""
    others = [obedient[i] for i in np.random.default_rng(1).permutation(len(obedient))]
    assert {"above_shuffled.seen", "above_shuffled.unseen", "following.seen", "following.unseen"} <= failing(
        judged(evidence(others, "shuffled"))
    )


def test_frozen_output_is_refused_however_well_it_follows_otherwise(obedient: list[np.ndarray]) -> None:
    assert {"moving_share", "repeated_share", "consistency"} <= failing(judged(evidence([freeze(clip) for clip in obedient], "frozen")))


def test_what_an_untrained_model_shows_is_refused() -> None:
    """Noise as it leaves the decoder: coarse in space, another one in every frame."""
    rng = np.random.default_rng(0)
    coarse = [rng.normal(60, 40, (9, 8, 8, 3)).clip(0, 255).astype(np.uint8) for _ in PROMPTS]
    samples = [clip.repeat(8, axis=1).repeat(8, axis=2) for clip in coarse]
    assert {"following.seen", "following.unseen", "above_chance.seen", "above_chance.unseen"} <= failing(judged(evidence(samples, "noise")))


def test_a_worse_candidate_does_not_replace_the_champion(obedient: list[np.ndarray], good: dict[str, Any]) -> None:
    """It follows well enough to be promoted alone; beside the champion a fifth of its samples is wrong."""
    others = np.random.default_rng(2).permutation(len(obedient))
    worse = [obedient[other] if i % 5 == 0 else clip for i, (clip, other) in enumerate(zip(obedient, others, strict=True))]
    candidate = evidence(worse, "candidate")
    assert judged(candidate).reasons == []
    assert failing(judged(candidate, good)) == {"champion.following"}
    assert judged(good, candidate).reasons == []


def test_a_model_is_sampled_with_the_settings_that_the_gate_saw(
    obedient: list[np.ndarray],
    good: dict[str, Any],
    folder: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The same weights, evaluated again and again with other settings: what holds the floors is taken over, what does not is said."""
    project, weights = Project(tmp_path / "runs", "demo"), digest_folder(folder)
    run = Run(load_config("laptop"), project, None, None, unseen)
    monkeypatch.setattr(promote_job, "serving_base", lambda stage, config, project: None)
    monkeypatch.setattr(promote_job, "weights_of", lambda stage, project: weights if stage == "train_dit" else "")
    monkeypatch.setattr(promote_job, "model_folder", lambda stage, project: folder if stage == "train_dit" else None)
    project.write_record("train_dit", {"maker": "m", "rows_digest": "r", "result": {}})
    frozen = evidence([freeze(clip) for clip in obedient], "frozen")
    settings = run.config.generate.model_dump(mode="json")

    def promoted(evidence: dict[str, Any], scale: float) -> tuple[str, float]:
        write_evidence(project, "text-to-video", {**evidence, "model": weights, "generate": {**settings, "guidance_scale": scale}})
        said: str = promote_job.promote(run, {})["summary"]
        champion = find(project, "text-to-video", "champion")
        assert champion is not None
        return said, champion.generate["guidance_scale"]

    assert promoted(good, 4.0) == ("text-to-video 1: promote", 4.0)
    assert promoted(good, 4.0) == ("text-to-video 1: champion", 4.0)
    assert promoted(good, 7.0) == ("text-to-video 1: champion; from now on it is sampled with `generate.guidance_scale` 7.0", 7.0)
    with caplog.at_level("WARNING", logger="kinora"):
        said = "it is sampled as before: with `generate.guidance_scale` 9.0 the gate refuses it"
        assert promoted(frozen, 9.0) == (f"text-to-video 1: champion; {said}", 7.0)
    assert f"version 1 of `demo-text-to-video` stays champion, and {said} (" in caplog.text
