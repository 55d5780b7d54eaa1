"""How far does a model's following depend on the seed of its training? Three trainings on the latents of a finished project.

Run: python -m benchmarks.dit_seeds [--root runs] [--project demo] [--profile laptop] [--set dit.steps=N] [--quick]
The last line is one JSON object. A finished project is one whose `encode` stage has run (`kinora run`).
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from components.caption.upsample import build_style
from components.config import load_config
from components.evaluate.intervals import Share, share
from components.evaluate.suite import make_prompts
from components.generate.generator import Generator
from components.jobs.figures import BARS
from components.operations.freshness import model_folder
from components.sections import Config
from components.store.filters import TRAINING
from components.store.project import Project
from components.store.tables import clips
from components.train.checkpoint import Checkpoints
from components.train.context import TrainContext
from components.train.dit_batches import Encoded, read_encoded
from components.train.dit_job import Exported, notes_of, train
from components.world.reader import read

QUICK = [
    "dit.steps=20",
    "dit.warmup_steps=2",
    "generate.num_inference_steps=4",
    "evaluate.num_seen_prompts=8",
    "evaluate.num_unseen_prompts=8",
]


def following(config: Config, generator: Generator) -> dict[str, dict[str, Share]]:
    """Answers the share of right fields by group, judged by the reader."""
    settings = config.evaluate
    prompts = make_prompts(config.world.preset, settings.num_seen_prompts, settings.num_unseen_prompts, settings.seed)
    samples = generator.generate([prompt.text for prompt in prompts], [prompt.seed for prompt in prompts])
    right: dict[str, dict[str, list[bool]]] = {}
    for prompt, sample in zip(prompts, samples, strict=True):
        told = read(sample.frames, config.world.preset)
        for field, value in (prompt.truth or {}).items():
            right.setdefault(prompt.group, {}).setdefault(field, []).append(told[field] == value)
    texts = {group: [prompt.text for prompt in prompts if prompt.group == group] for group in right}
    return {group: {field: share(values, texts[group]) for field, values in fields.items()} for group, fields in right.items()}


def measure(config: Config, project: Project, seed: int, folder: Path) -> dict[str, Any]:
    """Trains one model from a seed and answers what it follows, and the seconds of it."""
    config = config.model_copy(update={"dit": config.dit.model_copy(update={"seed": seed})})
    encoded = read_encoded(project)
    began, cpu = time.perf_counter(), time.process_time()
    model = trained(config, project, encoded, folder)
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
    began = time.perf_counter()
    found = following(config, Generator.load(model))
    return {
        "seed": seed,
        "train_seconds": round(seconds, 1),
        "train_cpu_seconds": round(cpu_seconds, 1),
        "sample_seconds": round(time.perf_counter() - began, 1),
        "following": found,
    }


def trained(config: Config, project: Project, encoded: Encoded, folder: Path) -> Path:
    """Trains a model on encoded clips and answers the folder that generates."""
    captions = [row["caption"] for row in clips(project).read(["caption"], f"{TRAINING} AND caption IS NOT NULL")]
    parts = {"video-vae": made_by("train_vae", project), "text-encoder": made_by("train_captioner", project)}
    exported = Exported(notes_of(config, encoded, parts), build_style(captions), parts)
    context = TrainContext.local(folder, threads=torch.get_num_threads())
    exported.write(folder / "model", train(config, encoded, exported, Checkpoints(folder / "checkpoints"), context))
    return folder / "model"


def lowest(results: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Answers the lowest share over the trainings of each field, beside the bar of `make demo`."""
    figures = {}
    for group, field in (("unseen", "colour"), ("unseen", "motion"), ("unseen", "shape"), ("seen", "shape")):
        values = [result["following"][group][field]["value"] for result in results]
        bar = BARS[group, field]
        name = f"{group}_{'direction' if field == 'motion' else field}_lowest_of_{len(values)}"
        figures[name] = {"value": round(min(values), 4), "bar": bar, "holds": min(values) >= bar}
    seconds = max(result["train_seconds"] for result in results)
    return {**figures, "train_seconds_longest": {"value": seconds, "bar": None, "holds": None}}


def made_by(stage: str, project: Project) -> Path:
    folder = model_folder(stage, project)
    if folder is None:
        raise SystemExit(
            f"project `{project.name}` in `{project.root}` has not finished `{stage}`; hint: `kinora run --project {project.name}` first"
        )
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="runs")
    parser.add_argument("--project", default="demo")
    parser.add_argument("--profile", default="laptop")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="two seeds, a few steps: shows that it runs, not what it reaches")
    args = parser.parse_args()
    config = load_config(args.profile, [*args.overrides, *(QUICK if args.quick else [])])
    torch.set_num_threads(config.cluster.threads)
    project = Project(Path(args.root), args.project)
    results = []
    for seed in range(2 if args.quick else args.seeds):
        with tempfile.TemporaryDirectory() as folder:
            result = measure(config, project, seed, Path(folder))
        results.append(result)
        print(f"seed {seed}: trained in {result['train_seconds']} s, sampled in {result['sample_seconds']} s")
        for group, fields in result["following"].items():
            line = ", ".join(f"{field} {found['value']:.3f} [{found['low']:.2f}, {found['high']:.2f}]" for field, found in fields.items())
            print(f"  {group} ({next(iter(fields.values()))['count']} prompts): {line}")
    print(json.dumps(lowest(results)))


if __name__ == "__main__":
    main()
