"""The gate and the registry: the one place where versions are made and aliases move."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from components.evaluate.compare import compare
from components.jobs import measuring
from components.jobs.evidence import evidence_file, read_evidence, write_evidence
from components.jobs.run import Run
from components.models.weights import load_json
from components.operations.freshness import Freshness, model_folder, serving_base, training_key, weights_of
from components.registry import gates, models
from components.registry.lineage import lineage_tags
from components.registry.tracking import Tracker
from components.stages import digest
from components.store.project import Project, write_json
from components.store.readings import read_head

logger = logging.getLogger("kinora")

KINDS: dict[
    models.Kind, tuple[str, Callable[..., gates.Verdict]]
] = {  # the models in the order in which one stands on another, with the stage that trains each
    "captioner": ("train_captioner", gates.decide_captioner),
    "video-vae": ("train_vae", gates.decide_vae),
    "text-to-video": ("train_dit", gates.decide_text_to_video),
}


def promote(run: Run, freshness: Freshness) -> dict[str, Any]:
    """Registers what this run trained and evaluated, and moves `champion` where the gate says so."""
    decided = []
    for at, kind in enumerate(KINDS):
        run.progress(at, len(KINDS), "models judged")
        if (entry := _decide(run, kind)) is not None:
            decided.append(entry)
    run.progress(len(KINDS), len(KINDS), "models judged")
    champion = next((entry for entry in decided if entry["kind"] == "text-to-video"), None)
    promoted = bool(champion and champion["outcome"] in ("promote", "champion"))
    beside = champion.pop("beside_champion", {}) if champion else {}
    write_json(run.project.folder / "evaluations" / "verdicts.json", {"verdicts": decided, "promoted": promoted, **beside})
    return {
        "summary": ", ".join(f"{entry['kind']} {entry['version']}: {_said(entry)}" for entry in decided),
        "verdicts": {entry["kind"]: entry["outcome"] for entry in decided},
        "versions": {entry["kind"]: entry["version"] for entry in decided},
        "show": {"tables": {"verdicts": [{"model": e["model"], "verdict": e["outcome"], "why": "; ".join(e["reasons"])} for e in decided]}},
    }


def _decide(run: Run, kind: models.Kind) -> dict[str, Any] | None:
    stage, judge = KINDS[kind]
    project = run.project
    if serving_base(stage, run.config, project) is not None:
        return None  # the model that is trained further brought its own, and nothing was trained
    weights, folder, record = weights_of(stage, project), model_folder(stage, project), project.record(stage)
    if not weights or folder is None or record is None:
        return None
    evidence = read_evidence(project, kind, weights) or {"model": weights, "measured_by": ""}
    champion = models.find(project, kind, "champion")
    if champion is not None and champion.weights == weights:
        return _entry(kind, champion, "champion", gates.Verdict()) | _sampled_anew(run, champion, folder, evidence)
    theirs = None
    if champion is not None:
        theirs = _evidence_of_champion(run, kind, champion, evidence["measured_by"]) or {"model": champion.weights, "measured_by": ""}
    verdict = judge(evidence, theirs, run.config.gate)
    tags = _tags(run, stage, record) | (models.generate_tag(evidence["generate"]) if "generate" in evidence else {})
    version = models.register(project, kind, folder, _metrics(verdict), tags, record["result"].get("run_id"))
    models.promote(project, kind, version, verdict, champion)
    _log_evidence(project, stage, record, kind, weights)
    return _entry(kind, version, verdict.outcome, verdict) | _beside_champion(run, evidence, theirs)


def _sampled_anew(run: Run, champion: models.Version, folder: Path, evidence: Mapping[str, Any]) -> dict[str, Any]:
    """Answers the news of a champion that was evaluated with other settings of sampling: those that hold the floors are its own now."""
    now = evidence.get("generate")
    if now is None or now == (before := champion.generate or load_json(folder, "dit")["generate"]):
        return {}
    named = ", ".join(f"`generate.{name}` {value}" for name, value in now.items() if before.get(name) != value)
    verdict = gates.decide_text_to_video(evidence, None, run.config.gate)
    if verdict.outcome == "promote":
        models.write_generate(run.project, champion, now)
        return {"reasons": [f"from now on it is sampled with {named}"]}
    said = f"it is sampled as before: with {named} the gate refuses it"
    logger.warning("version %d of `%s` stays champion, and %s (%s)", champion.number, champion.name, said, "; ".join(verdict.reasons))
    return {"reasons": [said, *verdict.reasons]}


def _beside_champion(run: Run, ours: Mapping[str, Any], theirs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Answers what the report shows of the champion beside its challenger, where both were measured sample by sample."""
    if theirs is None or ours["measured_by"] != theirs["measured_by"] or "measured" not in ours or "measured" not in theirs:
        return {}
    settings, champion = run.config.evaluate, theirs["measured"]
    comparison = compare(ours["measured"]["rows"], champion["rows"], settings.bootstrap_samples, settings.seed)
    return {"beside_champion": {"champion_evaluation": champion["evaluation"], "comparison": comparison}}


def _evidence_of_champion(run: Run, kind: models.Kind, champion: models.Version, measured_by: str) -> dict[str, Any] | None:
    """Answers what is known of the champion by the candidate's conditions; it is measured anew where they are others than its own."""
    before = read_evidence(run.project, kind, champion.weights)
    if before is not None and before["measured_by"] == measured_by:
        return before
    conditions = measuring.conditions_of(run)
    if conditions.measured_by != measured_by:
        return before  # the candidate's are gone too; the gate says so
    evidence = measuring.measure_model(run, conditions, kind, models.download(run.project, champion), champion.weights)
    write_evidence(run.project, kind, evidence)
    return evidence


def _metrics(verdict: gates.Verdict) -> dict[str, float]:
    return {check.name.replace("/", "."): check.value for check in verdict.checks if check.value is not None}


def _tags(run: Run, stage: str, record: Mapping[str, Any]) -> dict[str, str]:
    """Answers what the training wrote down of what it read, and the versions of the models it stands on."""
    head = read_head(run.project, stage, training_key(record["maker"], record["rows_digest"]))
    if head is None:  # trained before readings were kept
        return lineage_tags(settings=run.config.model_dump(mode="json"), makers={stage: record["maker"]})
    found = {kind: models.of_weights(run.project, kind, weights) for kind, weights in head["stands_on"].items()}
    return {**head["tags"], **{f"kinora.upstream.{kind}.version": str(version.number) for kind, version in found.items() if version}}


def _log_evidence(project: Project, stage: str, record: Mapping[str, Any], kind: str, weights: str) -> None:
    """Keeps with the training's run in MLflow what was measured of its model, and of a text-to-video model the sheet and videos."""
    path = evidence_file(project, kind, weights)
    files = [path] if path.is_file() else []
    if kind == "text-to-video":
        evaluated = (project.record("evaluate") or {}).get("result", {})
        shown = [evaluated.get("show", {}).get("images", {}).get("samples"), *evaluated.get("videos", [])]
        files += [Path(name) for name in shown if name and Path(name).is_file()]
    if files:
        tracked = Tracker(project).run(stage, digest({"maker": record["maker"], "rows": record["rows_digest"]}))
        for file in files:
            tracked.log_artifact(file, "evaluation")
        tracked.close(None)


def _said(entry: Mapping[str, Any]) -> str:
    """Answers an outcome in a few words; of a champion, what is new about it."""
    news = entry["reasons"][:1] if entry["outcome"] == "champion" else []
    return "; ".join([entry["outcome"], *news])


def _entry(kind: str, version: models.Version, outcome: str, verdict: gates.Verdict) -> dict[str, Any]:
    judged = verdict.as_json() | {"outcome": outcome}
    return {"kind": kind, "model": version.name, "version": version.number, **judged}
