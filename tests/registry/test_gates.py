"""The gate against simulated models: the honest one passes, every known way to look good without being good does not."""

import copy
import json
import math
from typing import Any

import numpy as np
import pytest

from components.config import load_config
from components.registry.gates import decide_captioner, decide_text_to_video, decide_vae, lower_bound

FIELDS = {"colour": 1 / 6, "shape": 1 / 4, "motion": 1 / 4, "camera": 1 / 2}
GOOD = {"colour": 0.95, "shape": 0.6, "motion": 0.9, "camera": 0.95}


@pytest.fixture(scope="module")
def gate() -> Any:
    return load_config(overrides=["gate.bootstrap_samples=400"]).gate


def draw(rng: np.random.Generator, shares: np.ndarray) -> list[float]:
    return (rng.random(len(shares)) < shares).astype(float).tolist()


def model(
    seed: int = 0,
    *,
    rates: dict[str, float] = GOOD,
    binds: bool = True,
    moving: float = 0.95,
    consistency: float = 0.8,
    repeated: float = 0.02,
    ranked: float | None = 1.0,
    prompts: int = 64,
    samples_each: int = 1,
    name: str | None = None,
) -> dict[str, Any]:
    """Simulates what `evaluate` says of a model that gets each field right at a rate; one that does not bind fits any prompt as well."""
    rng = np.random.default_rng(seed)
    evidence: dict[str, Any] = {"model": name or f"model-{seed}", "measured_by": "prompts-1", "following": {}}
    everyone: list[str] = []
    for group in ("seen", "unseen"):
        named = [f"{group}-{i:04d}" for i in range(prompts) for _ in range(samples_each)]
        everyone += named
        skill = np.repeat(rng.normal(0.0, 0.1, prompts), samples_each)  # samples of one prompt are alike
        correct = {field: draw(rng, np.clip(rate + skill, 0, 1)) for field, rate in rates.items()}
        other = {field: rates[field] if not binds else FIELDS[field] for field in rates}
        evidence["following"][group] = {
            "prompts": named,
            "correct": correct,
            "shuffled": {field: draw(rng, np.full(len(named), rate)) for field, rate in other.items()},
            "chance": dict(FIELDS),
            "ceiling": dict.fromkeys(FIELDS, 0.98),
        }
    moves = draw(rng, np.full(len(everyone), moving))
    steady = np.clip(rng.normal(consistency, 0.05, len(everyone)), 0, 1)
    evidence["temporal"] = {
        "prompts": everyone,
        "moving": moves,
        "repeated": np.clip(rng.normal(repeated, 0.01, len(everyone)), 0, 1).tolist(),
        "consistency": [float(value) if move else None for value, move in zip(steady, moves, strict=True)],
        "ranked": {"freeze": ranked, "shuffle": ranked, "blur": ranked},
        "real": 0.85,
    }
    return json.loads(json.dumps(evidence))


def failing(verdict: Any) -> set[str]:
    return {check.name for check in verdict.checks if not check.holds}


def test_an_honest_first_model_is_promoted(gate: Any):
    verdict = decide_text_to_video(model(), None, gate)
    assert (verdict.outcome, verdict.reasons) == ("promote", [])


def test_an_untrained_dit_is_refused(gate: Any):
    """Noise: the reader answers nothing, and what moves is flicker."""
    untrained = model(rates=dict.fromkeys(FIELDS, 0.0), binds=False, consistency=0.1)
    assert {"following.seen", "following.unseen", "above_shuffled.unseen", "above_chance.unseen", "consistency"} <= failing(
        decide_text_to_video(untrained, None, gate)
    )


@pytest.mark.parametrize("seed", range(20))
def test_a_dit_trained_on_shuffled_captions_is_refused(gate: Any, seed: int):
    """Its clips are as sharp and steady as real ones, and show something else than was asked for."""
    rates = {"colour": 1 / 6, "shape": 1 / 4, "motion": 1 / 4, "camera": 1 / 2}
    verdict = decide_text_to_video(model(seed, rates=rates, binds=False), None, gate)
    assert verdict.outcome == "reject"
    assert {"above_shuffled.seen", "above_shuffled.unseen"} <= failing(verdict)


def test_always_showing_the_same_popular_thing_is_refused(gate: Any):
    """Right often, because many prompts ask for it; but it fits the other prompts as often as its own."""
    verdict = decide_text_to_video(model(rates=dict.fromkeys(FIELDS, 0.6), binds=False), None, gate)
    assert {"above_shuffled.seen", "above_shuffled.unseen"} <= failing(verdict)


def test_frozen_output_is_refused(gate: Any):
    frozen = model(moving=0.0, repeated=1.0, ranked=None)
    names = failing(decide_text_to_video(frozen, None, gate))
    assert {"moving_share", "repeated_share", "consistency", "ranked.freeze"} <= names


def test_frozen_samples_gain_nothing_from_being_steady(gate: Any):
    half = model(moving=0.5, consistency=0.9)
    verdict = decide_text_to_video(half, None, gate)
    assert {"moving_share", "consistency"} <= failing(verdict)


def test_held_frames_are_refused(gate: Any):
    assert "repeated_share" in failing(decide_text_to_video(model(repeated=0.7), None, gate))


def test_a_measure_that_prefers_degraded_copies_decides_nothing(gate: Any):
    assert {"ranked.freeze", "ranked.shuffle", "ranked.blur"} == failing(decide_text_to_video(model(ranked=0.6), None, gate))


def test_a_model_that_only_knows_seen_prompts_is_refused(gate: Any):
    learned_by_heart = model(0)
    learned_by_heart["following"]["unseen"] = model(1, rates=dict.fromkeys(FIELDS, 0.2))["following"]["unseen"]
    assert "following.unseen" in failing(decide_text_to_video(learned_by_heart, None, gate))


def test_a_clearly_better_candidate_replaces_the_champion(gate: Any):
    champion = model(1, rates={"colour": 0.8, "shape": 0.35, "motion": 0.7, "camera": 0.8}, consistency=0.7)
    wins = sum(decide_text_to_video(model(seed), champion, gate).outcome == "promote" for seed in range(2, 42))
    assert wins >= 38


@pytest.mark.parametrize("worse", [{"rates": {field: rate - 0.12 for field, rate in GOOD.items()}}, {"consistency": 0.65}, {"moving": 0.8}])
def test_a_clearly_worse_candidate_is_rejected_nearly_always(gate: Any, worse: dict[str, Any]):
    champion = model(1)
    rejected = [decide_text_to_video(model(seed, **worse), champion, gate) for seed in range(2, 102)]
    assert sum(verdict.outcome == "reject" for verdict in rejected) >= 95
    assert any("worse than the champion" in reason for reason in rejected[0].reasons)


def test_the_champion_itself_is_not_promoted_again(gate: Any):
    champion = model(1)
    assert decide_text_to_video(copy.deepcopy(champion), champion, gate).reasons == ["it is the champion already"]


def test_models_measured_in_different_ways_are_not_compared(gate: Any):
    champion = model(1) | {"measured_by": "prompts-0"}
    assert "evaluate it again" in decide_text_to_video(model(2), champion, gate).reasons[0]
    assert decide_text_to_video(model(2), model(1, prompts=32), gate).outcome == "reject"


def broken(path: str, value: Any) -> dict[str, Any]:
    evidence = model()
    place: Any = evidence
    *parts, last = path.split("/")
    for part in parts:
        place = place[part]
    if value is KeyError:
        del place[last]
    elif isinstance(place[last], list) and not isinstance(value, list):
        place[last][3] = value
    else:
        place[last] = value
    return evidence


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("following/seen/correct/shape", math.nan),
        ("following/unseen/shuffled/shape", math.inf),
        ("following/seen/correct/colour", None),
        ("following/seen/correct/colour", 1.5),
        ("following/seen/correct/colour", "yes"),
        ("following/seen/correct", {}),
        ("following/seen/shuffled", KeyError),
        ("following/seen/correct/motion", []),
        ("following/seen/chance/shape", math.nan),
        ("following", {}),
        ("following", KeyError),
        ("following", None),
        ("temporal", KeyError),
        ("temporal/moving", math.nan),
        ("temporal/moving", []),
        ("temporal/consistency", math.nan),
        ("temporal/consistency", [0.9]),
        ("temporal/repeated", KeyError),
        ("temporal/ranked/freeze", KeyError),
        ("temporal/ranked/blur", math.nan),
        ("model", ""),
        ("measured_by", KeyError),
    ],
)
def test_missing_or_wrong_evidence_is_refused_with_a_sentence(gate: Any, path: str, value: Any):
    verdict = decide_text_to_video(broken(path, value), None, gate)
    assert verdict.outcome == "reject"
    assert verdict.reasons[0].startswith("the evidence cannot be used: ")
    verdict = decide_text_to_video(model(1), broken(path, value), gate)
    assert verdict.outcome == "reject"


def test_nothing_at_all_is_refused(gate: Any):
    assert decide_text_to_video({}, None, gate).outcome == "reject"
    assert decide_vae({}, None, gate).outcome == "reject"
    assert decide_captioner({}, None, gate).outcome == "reject"


def test_too_few_prompts_decide_nothing(gate: Any):
    verdict = decide_text_to_video(model(prompts=2, rates=dict.fromkeys(FIELDS, 1.0)), None, gate)
    assert "too few prompts" in " ".join(verdict.reasons)
    assert json.loads(json.dumps(verdict.as_json(), allow_nan=False))["outcome"] == "reject"


def test_many_samples_of_few_prompts_do_not_make_it_surer():
    """One prompt's samples stand or fall together; counted as independent they would claim a tight bound."""
    prompts = [f"p{i}" for i in range(8) for _ in range(64)]
    values = np.repeat([1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0], 64)
    bound = lower_bound(values, prompts, 0.95, 2000)
    assert bound < 0.32  # t with 7 degrees of freedom on the eight prompt means: 0.625 - 1.895 * 0.183
    assert lower_bound(values, [str(i) for i in range(len(values))], 0.95, 2000) > 0.55


def test_the_lower_bound_holds_as_often_as_it_claims():
    rng = np.random.default_rng(5)
    held = 0
    for _ in range(300):
        skill = np.repeat(rng.beta(2, 2, 24), 4)
        values = (rng.random(96) < skill).astype(float)
        held += lower_bound(values, [f"p{i}" for i in range(24) for _ in range(4)], 0.95, 400) <= 0.5
    assert held / 300 >= 0.93


def captioner(seed: int = 0, rate: float = 0.95, fields: tuple[str, ...] = tuple(FIELDS)) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    clips = [f"clip-{i}" for i in range(128)]
    correct = {field: draw(rng, np.full(128, rate)) for field in fields}
    return {"model": f"captioner-{seed}", "measured_by": "clips-1", "clips": clips, "correct": correct}


def test_a_captioner_is_judged_by_its_worst_field(gate: Any):
    assert decide_captioner(captioner(), None, gate).outcome == "promote"
    blind = captioner()
    blind["correct"]["shape"] = [0.0] * 128
    assert failing(decide_captioner(blind, None, gate)) == {"field.shape"}
    assert decide_captioner(captioner(fields=()), None, gate).outcome == "reject"
    assert "champion.captions" in failing(decide_captioner(captioner(2, 0.85), captioner(1), gate))
    assert decide_captioner(captioner(2, 0.99), captioner(1, 0.9), gate).outcome == "promote"


def vae(seed: int = 0, psnr: float = 29.0, pca: float = 26.5, rate: float = 0.97) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    correct = {field: draw(rng, np.full(128, rate)) for field in FIELDS}
    clips = [f"clip-{i}" for i in range(128)]
    hard = np.random.default_rng(9).normal(0, 2, 128)
    return {
        "model": f"vae-{seed}",
        "measured_by": "clips-1",
        "clips": clips,
        "psnr": (psnr + hard + rng.normal(0, 0.3, 128)).tolist(),
        "pca_psnr": (pca + hard).tolist(),
        "ssim": (0.9 + rng.normal(0, 0.01, 128)).tolist(),
        "first_frame_bias": np.abs(rng.normal(0, 0.5, 128)).tolist(),
        "correct": correct,
        "checked": {"lookahead": [0.0, 1e-6], "chunks": [2e-6, 1e-6], "seam_psnr": [100.0]},
        "latents": {"mean": rng.normal(0, 0.05, 16).tolist(), "std": (1 + rng.normal(0, 0.05, 16)).tolist()},
    }


def test_a_vae_is_judged_by_psnr_pca_and_reader(gate: Any):
    assert decide_vae(vae(), None, gate).outcome == "promote"
    assert "psnr" in failing(decide_vae(vae(psnr=18.0), None, gate))
    assert "above_pca" in failing(decide_vae(vae(psnr=26.0), None, gate))
    assert "reader.shape" in failing(decide_vae(vae(rate=0.5), None, gate))
    assert "champion.psnr" in failing(decide_vae(vae(2, psnr=27.5), vae(1), gate))
    assert decide_vae(vae(2, psnr=30.0, rate=0.99), vae(1, rate=0.96), gate).outcome == "promote"
    infinite = vae()
    infinite["psnr"][0] = math.inf
    assert decide_vae(infinite, None, gate).outcome == "reject"


@pytest.mark.parametrize(
    ("block", "name", "value", "refused"),
    [
        ("checked", "lookahead", [0.0, 0.2], {"causality"}),
        ("checked", "chunks", [0.1, 0.0], {"chunks"}),
        ("checked", "seam_psnr", [100.0, 38.6], {"tile_seams"}),
        ("first_frame_bias", None, [4.0] * 128, {"first_frame_bias"}),
        ("ssim", None, [0.4] * 128, {"ssim"}),
        ("latents", "mean", [0.0] * 15 + [-0.8], {"latents_mean"}),
        ("latents", "std", [1.0] * 15 + [0.01], {"latents_std"}),
        ("latents", "std", [1.0] * 15 + [3.0], {"latents_std_most"}),
        ("checked", "chunks", [], {"evidence"}),
        ("latents", "std", [1.0], {"evidence"}),
        ("ssim", None, [0.9], {"evidence"}),
    ],
)
def test_a_vae_is_refused_for_what_must_hold_of_any_clip(gate: Any, block: str, name: str | None, value: list[float], refused: set[str]):
    evidence = vae()
    if name is None:
        evidence[block] = value
    else:
        evidence[block][name] = value
    verdict = decide_vae(evidence, None, gate)
    assert failing(verdict) == refused
    assert all(check.name in check.sentence or check.name == "evidence" for check in verdict.checks)


def test_frames_too_small_for_ssim_are_judged_without(gate: Any):
    assert decide_vae(vae() | {"ssim": [None] * 128}, None, gate).outcome == "promote"
