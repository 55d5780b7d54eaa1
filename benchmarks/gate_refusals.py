"""Does the gate refuse what it must? Real trainings gone wrong on the latents of a finished project, judged as a run judges its own.

Run: python -m benchmarks.gate_refusals [--root runs] [--project demo] [--profile laptop] [--set dit.steps=N] [--quick]

Judged are: the project's own model; one of a single step; one trained for as long on captions dealt out to other clips; and the
project's own with every sample frozen at its middle frame. The last line is one JSON object. A finished project is one whose
`evaluate` stage has run (`kinora run`).
"""

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.dit_seeds import QUICK, trained
from components.config import load_config
from components.evaluate.degradations import freeze
from components.evaluate.suite import score_samples
from components.jobs import measuring
from components.jobs.run import Run, unseen
from components.operations.freshness import model_folder, weights_of
from components.registry.gates import Verdict, decide_text_to_video
from components.store.project import Project
from components.train.dit_batches import read_encoded


def judged(run: Run, conditions: measuring.Conditions, name: str, found: measuring.Found) -> Verdict:
    """Passes samples through the gate as the first model of a project."""
    evaluation = measuring.evaluation_of(run, conditions, found, None)
    verdict = decide_text_to_video(measuring.evidence_of_samples(conditions, name, found, evaluation), None, run.config.gate)
    print(f"{name}: {verdict.outcome}")
    for reason in verdict.reasons:
        print(f"  {reason}")
    return verdict


def frozen(run: Run, conditions: measuring.Conditions, found: measuring.Found) -> measuring.Found:
    """Shows of every sample its middle frame alone, and measures that."""
    frames = [freeze(entry["frames"]) for entry in found]
    settings = run.config.evaluate
    rows = score_samples(
        frames,
        conditions.prompts,
        conditions.reader,
        fps=run.config.clip.fps,
        min_motion=settings.min_motion,
        sharp_at=conditions.sharp_at,
    )
    return [{**entry, "frames": clip, "row": row} for entry, clip, row in zip(found, frames, rows, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="runs")
    parser.add_argument("--project", default="demo")
    parser.add_argument("--profile", default="laptop")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--quick", action="store_true", help="a few steps and samples: shows that it runs, not what it reaches")
    args = parser.parse_args()
    config = load_config(args.profile, [*args.overrides, *(QUICK if args.quick else []), "encode.num_actors=0"])
    torch.set_num_threads(config.cluster.threads)
    project = Project(Path(args.root), args.project)
    run = Run(config, project, None, None, unseen)
    own = model_folder("train_dit", project)
    if own is None:
        raise SystemExit(f"project `{args.project}` in `{args.root}` has no model yet; hint: `kinora run --project {args.project}` first")
    conditions = measuring.conditions_of(run)
    encoded = read_encoded(project)
    dealt = np.random.default_rng(0).permutation(len(encoded.text_embeds))
    shuffled = replace(encoded, text_embeds=[encoded.text_embeds[i] for i in dealt])
    once = config.model_copy(update={"dit": config.dit.model_copy(update={"steps": 1})})
    outcomes: dict[str, str] = {}
    found = measuring.sample(run, conditions, own)
    outcomes["own"] = judged(run, conditions, weights_of("train_dit", project), found).outcome
    outcomes["frozen"] = judged(run, conditions, "frozen", frozen(run, conditions, found)).outcome
    for name, settings, data in (("untrained", once, encoded), ("shuffled", config, shuffled)):
        with tempfile.TemporaryDirectory() as folder:
            model = trained(settings, project, data, Path(folder))
            outcomes[name] = judged(run, conditions, name, measuring.sample(run, conditions, model)).outcome
    figures: dict[str, Any] = {"own_promoted": {"value": outcomes["own"] == "promote", "bar": True, "holds": outcomes["own"] == "promote"}}
    for name in ("frozen", "untrained", "shuffled"):
        refused = outcomes[name] == "reject"
        figures[f"{name}_refused"] = {"value": refused, "bar": True, "holds": refused}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
