"""Do unseen combinations come out as the prompt says, after so many minutes of training, and beside diffusers' Wan with the same budget?

Run: python -m benchmarks.following [--root runs] [--project demo] [--minutes 30] [--only NAMES] [--set K=V] [--results FILE] [--quick]

NAMES are of `ours,wan`, which is what is measured unless it is said otherwise, and `wan-at-our-rate`. All learn from the cached latents and
text embeddings of a finished project: ours as `kinora run train_dit` trains it, diffusers' `WanTransformer3DModel` of as many parameters by
its usual recipe (AdamW at 1e-4, logit-normal timesteps, velocities weighed alike, patches of 1x2x2), or at the learning rate of ours, which
suits so small a model. The number of steps is what fits into the minutes at the pace of the first steps. What they generate is judged
by the reader of the synthetic world; the ceiling is what it reads off VAE reconstructions of held-out clips. Each result is a line of the
results file as soon as it is measured, and is not measured again. How long the project's captioner and VAE were trained stands beside
them. The last line is one JSON object.
"""

import argparse
import json
import tempfile
import time
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.dit_seeds import QUICK, following, made_by
from components.caption.upsample import build_style
from components.config import load_config
from components.evaluate.fidelity import read_accuracy
from components.generate.generator import Generator
from components.models.pixels import to_frames
from components.models.tiles import decode_latents
from components.sections import Config
from components.store.filters import TRAINING
from components.store.project import Project
from components.store.tables import clips
from components.train.checkpoint import Checkpoints
from components.train.context import TrainContext, read_metrics
from components.train.dit_batches import read_encoded
from components.train.dit_job import Exported, build, notes_of, train
from components.world.reader import read

BARS = {"colour": 0.95, "motion": 0.95, "shape": 0.75, "camera": 0.85}  # of unseen combinations; motion: of the ceiling
FEW = [*QUICK, "dit.steps=6"]
PACED_STEPS, PACED_WARMUP = 30, 5
WAN = ["dit.clip_loss_weight=0", "dit.timestep_mean=0", "dit.weight_decay=0.001"]
PEERS = {"wan": [*WAN, "dit.learning_rate=0.0001"], "wan-at-our-rate": WAN}
CEILING_CLIPS = 256


class Wan(nn.Module):
    """Diffusers' transformer, asked as ours is; text behind the mask is zero to it, as to Wan."""

    def __init__(self, depth: int, heads: int, ffn: int, channels: int, text_width: int) -> None:
        super().__init__()
        self.inner = import_module("diffusers").WanTransformer3DModel(
            num_attention_heads=heads,
            attention_head_dim=64,
            in_channels=channels,
            out_channels=channels,
            text_dim=text_width,
            ffn_dim=ffn,
            num_layers=depth,
        )

    def forward(
        self,
        noisy: Tensor,
        t: Tensor,
        text_embeds: Tensor,
        text_mask: Tensor | None,
        latents_fps: Tensor | float,
        step_cache: None = None,
        kept_text: object = None,
    ) -> Tensor:
        told = text_embeds if text_mask is None else text_embeds * text_mask[..., None]
        timestep = 1000.0 * t.view(len(noisy), -1)[:, 0]
        velocity: Tensor = self.inner(noisy, timestep, told, return_dict=False)[0]
        return velocity


def wan_of(parameters: int, channels: int, text_width: int) -> Wan:
    """Answers Wan's transformer of about so many parameters, 8 deep or less, its feed-forwards as wide as usual."""
    best: tuple[float, tuple[int, int, int]] | None = None
    for depth in (4, 6, 8):
        for heads in range(2, 17):
            ffn = round(heads * 64 * 8960 / 1536 / 16) * 16
            with torch.device("meta"):
                count = sum(p.numel() for p in Wan(depth, heads, ffn, channels, text_width).parameters())
            apart = abs(count - parameters)
            if best is None or apart < best[0]:
                best = apart, (depth, heads, ffn)
    assert best is not None
    return Wan(*best[1], channels, text_width)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="runs")
    parser.add_argument("--project", default="demo")
    parser.add_argument("--profile", default="laptop")
    parser.add_argument("--minutes", type=float, default=30.0, help="of training, each")
    parser.add_argument("--only", default="ours,wan")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--results", type=Path, help="what is there is not measured again")
    parser.add_argument("--quick", action="store_true", help="a few steps: shows that it runs, not what it reaches")
    args = parser.parse_args()
    if unknown := set(args.only.split(",")) - {"ours", *PEERS}:
        parser.error(f"--only names {', '.join(sorted(unknown))}; there are ours, {', '.join(PEERS)}")
    config = load_config(args.profile, [*args.overrides, *(FEW if args.quick else [])])
    torch.set_num_threads(config.cluster.threads)
    project = Project(Path(args.root), args.project)
    with tempfile.TemporaryDirectory() as folder:
        results = args.results or Path(folder) / "results.jsonl"
        for name in args.only.split(","):
            if name not in read_results(results):
                row = measure(name, config, args, project, Path(folder))
                with results.open("a") as lines:
                    lines.write(json.dumps(row) + "\n")
            row = read_results(results)[name]
            print(f"{name}: {row['million_parameters']:.1f} M parameters, {row['steps']} steps in {row['minutes']:.1f} minutes")
            for group, fields in row["following"].items():
                said = ", ".join(f"{field} {got['value']:.3f} ({got['low']:.2f} to {got['high']:.2f})" for field, got in fields.items())
                print(f"  {group} combinations: {said}", flush=True)
        print(json.dumps(figures(read_results(results)) | minutes_before(project)))


def measure(name: str, config: Config, args: argparse.Namespace, project: Project, folder: Path) -> dict[str, Any]:
    """Trains one of them for its minutes, and answers what it follows."""
    if name in PEERS:
        config = load_config(args.profile, [*args.overrides, *PEERS[name], *(FEW if args.quick else [])])
    encoded = read_encoded(project)
    captions = [row["caption"] for row in clips(project).read(["caption"], f"{TRAINING} AND caption IS NOT NULL")]
    parts = {"video-vae": made_by("train_vae", project), "text-encoder": made_by("train_captioner", project)}
    exported = Exported(notes_of(config, encoded, parts), build_style(captions), parts)

    def trained(steps: int, into: Path) -> nn.Module:
        settings = config.dit.model_copy(update={"steps": steps, "max_epochs": 10**6, "report_every": min(config.dit.report_every, steps)})
        chosen = config.model_copy(update={"dit": settings})
        ours = build(chosen, exported)
        model: nn.Module = ours
        if name in PEERS:
            torch.manual_seed(config.dit.seed)
            only_text = settings.tasks.model_copy(update={task: float(task == "text") for task in dict(settings.tasks)})
            chosen = chosen.model_copy(update={"dit": settings.model_copy(update={"tasks": only_text, "image_share": 0.0})})
            model = wan_of(sum(p.numel() for p in ours.parameters()), ours.latent_channels, ours.text_width)
        context = TrainContext.local(into, threads=torch.get_num_threads())
        return train(chosen, encoded, exported, Checkpoints(into / "checkpoints"), context, model=model)

    steps = config.dit.steps if args.quick else round(60 * args.minutes / pace(trained, folder / f"{name}-pace"))
    began = time.perf_counter()
    model = trained(steps, folder / name)
    minutes = (time.perf_counter() - began) / 60
    if name == "ours":
        exported.write(folder / "model", model)
        generator = Generator.load(folder / "model")
    else:
        exported.write(folder / "whole", build(config, exported))
        generator = replace(Generator.load(folder / "whole"), model=cast(Any, model))
    return {
        "configuration": name,
        "steps": steps,
        "minutes": round(minutes, 2),
        "million_parameters": sum(p.numel() for p in model.parameters()) / 1e6,
        "loss": read_metrics(folder / name / "metrics.jsonl")[-1][1]["loss"],
        "following": following(config, generator),
        "ceiling": ceiling(project, generator, config.world.preset, 32 if args.quick else CEILING_CLIPS),
    }


def pace(trained: Any, folder: Path) -> float:
    """Answers the seconds of a step, after the first ones."""
    trained(PACED_WARMUP, folder / "warm")
    began = time.perf_counter()
    trained(PACED_STEPS, folder / "paced")
    return (time.perf_counter() - began) / PACED_STEPS


def ceiling(project: Project, generator: Generator, preset: str, count: int) -> dict[str, float]:
    """Answers what the reader reads off reconstructions of held-out clips."""
    table = clips(project)
    rows = table.read(["clip_id", "truth"], "split != 'train' AND latents IS NOT NULL AND truth IS NOT NULL")[:count]
    latents = table.read_tensor("latents", [row["clip_id"] for row in rows])
    with torch.inference_mode():
        frames = [to_frames(decode_latents(generator.vae, torch.from_numpy(one.astype(np.float32))[None]))[0].numpy() for one in latents]
    found = read_accuracy(frames, [json.loads(row["truth"])["fields"] for row in rows], partial(read, preset=preset))
    assert found is not None
    return {field: share["value"] for field, share in found.items()}


def read_results(path: Path) -> dict[str, dict[str, Any]]:
    return {row["configuration"]: row for row in map(json.loads, path.read_text().splitlines())} if path.is_file() else {}


def minutes_before(project: Project) -> dict[str, dict[str, Any]]:
    """Answers how long the project's own captioner and VAE were trained, which both transformers stand on."""
    stages = {"captioner": "train_captioner", "VAE": "train_vae"}
    records = {part: project.record(stage) for part, stage in stages.items()}
    return {
        f"{part}, minutes of training": {"value": round(record["seconds"] / 60, 2), "bar": None, "holds": None}
        for part, record in records.items()
        if record
    }


def figures(rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    told: dict[str, dict[str, Any]] = {}
    for name, row in rows.items():
        for field, bar in BARS.items():
            said = "direction" if field == "motion" else field
            got, top = row["following"]["unseen"][field], row["ceiling"][field]
            value, interval = got["value"], [round(got[end], 4) for end in ("low", "high")]
            told[f"{name}, unseen: {said}"] = {"value": round(value, 4), "interval": interval, "bar": None, "holds": None}
            if name == "ours":
                asked = bar * top if field == "motion" else bar
                told[f"{name}, unseen: {said}"] |= {"bar": round(asked, 4), "holds": value >= asked}
            told.setdefault(f"ceiling: {said}", {"value": round(top, 4), "bar": None, "holds": None})
        told[f"{name}, minutes of training"] = {"value": row["minutes"], "bar": None, "holds": None}
    return told


if __name__ == "__main__":
    main()
