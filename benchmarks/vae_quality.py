"""How good does the video VAE become in 2, 10 and 30 minutes, beside diffusers' `AutoencoderKLWan` of the same compression and size?

Run: python -m benchmarks.vae_quality [--budgets 2,10,30] [--only ours,wan] [--results FILE] [--checkpoint FOLDER] [--quick]

Both start from random weights and learn from the same real clips of 17 frames by the same losses, batch by batch until the time is up; the
learning rate falls to zero by the time that has passed. Time is CPU time a thread, so what else runs counts little. Two configurations run
side by side, each in a process of its own with half of the CPUs, so what disturbs one disturbs the other. PSNR is measured on clips of
other files, and measuring does not count. Wan has its usual AdamW and, beside it, our Muon; ours also goes without the linear start. Where
a configuration has several learning rates, all are tried at the smallest budget and the best serves the larger ones.

Each result is a line of the results file as soon as it is measured, and what stands there is not measured again: a run can be stopped,
continued, and split by `--only`. The last line is one JSON object.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.vae_peers import RECIPES, Recipe, mean_psnr, million_parameters, real_clips, train
from components.models.vae import save_vae

BAR_DB, BAR_MINUTES = 2.0, 30
QUICK_SECONDS = 4.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budgets", default="2,10,30", help="minutes, with commas")
    parser.add_argument("--only", default=",".join(RECIPES), help=f"of {', '.join(RECIPES)}")
    parser.add_argument("--results", type=Path, help="what is there is not measured again")
    parser.add_argument("--checkpoint", type=Path, help="folder for ours of the largest budget, which `vae_speed` takes")
    parser.add_argument("--quick", action="store_true", help="two configurations, a few clips, some seconds each, one learning rate")
    parser.add_argument("--threads", type=int, default=max(1, (os.cpu_count() or 1) // 2), help="of each")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    budgets = [QUICK_SECONDS / 60] if args.quick else sorted(float(value) for value in args.budgets.split(","))
    chosen = args.only.split(",")[: 2 if args.quick else None]
    if unknown := [name for name in chosen if name not in RECIPES]:
        raise SystemExit(f"`{unknown[0]}` is no configuration; hint: one of {', '.join(RECIPES)}")
    with tempfile.TemporaryDirectory() as folder:
        results = args.results or Path(folder) / "results.jsonl"
        results.parent.mkdir(parents=True, exist_ok=True)
        if len(chosen) == 1:
            measure_one(chosen[0], budgets, results, args)
        else:
            for pair in zip(chosen[::2], [*chosen[1::2], None], strict=False):
                side_by_side([name for name in pair if name is not None], results, args)
        print(json.dumps(figures(read(results), budgets)))


def side_by_side(names: list[str], results: Path, args: argparse.Namespace) -> None:
    """Measures configurations at once, each by a process of this script."""
    options = ["--budgets", args.budgets, "--results", str(results), "--threads", str(args.threads), *(["--quick"] if args.quick else [])]
    options += ["--checkpoint", str(args.checkpoint)] if args.checkpoint else []
    command = [sys.executable, "-m", "benchmarks.vae_quality", *options]
    running = [subprocess.Popen([*command, "--only", name], stdout=subprocess.PIPE, text=True) for name in names]
    try:
        tellers = [threading.Thread(target=_tell, args=(process,)) for process in running]
        for teller in tellers:
            teller.start()
        for teller in tellers:
            teller.join()
        if any(process.wait() for process in running):
            raise SystemExit(f"one of {', '.join(names)} failed; hint: its lines above say why, and the same command goes on")
    finally:
        for process in running:
            process.kill()


def _tell(process: "subprocess.Popen[str]") -> None:
    """Passes on what a process says, but for the figures at its end."""
    assert process.stdout is not None
    for line in process.stdout:
        if not line.startswith("{"):
            print(line, end="", flush=True)


def measure_one(name: str, budgets: list[float], results: Path, args: argparse.Namespace) -> None:
    """Measures one configuration in this process, and says each result."""
    clips, held_out = real_clips(per_file=2, files=4) if args.quick else real_clips()
    held_out = held_out[:1] if args.quick else held_out
    print(f"{name}: {len(clips)} clips to learn from, {len(held_out)} of other files to measure on; {args.threads} threads", flush=True)
    for row in measure(name, RECIPES[name], budgets, clips, held_out, results, args):
        rate, reached = row["learning_rate"], f"{row['psnr']:.2f} dB, {row['steps']} steps"
        print(f"{name}, {row['minutes']:.3g} minutes, learning rate {rate}: {reached}", flush=True)


def measure(
    name: str, recipe: Recipe, budgets: list[float], clips: list[Tensor], held_out: list[Tensor], results: Path, args: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Yields a row for each budget and learning rate, and writes those that are not yet in the results."""
    rates = recipe.learning_rates[:1] if args.quick else recipe.learning_rates
    for minutes in budgets:
        found = []
        for rate in rates:
            key: dict[str, Any] = {"configuration": name, "minutes": minutes, "learning_rate": rate}
            row = next((row for row in read(results) if key.items() <= row.items()), None)
            if row is None:
                trained = train(recipe, rate, clips, 60 * minutes)
                row = key | {"psnr": round(mean_psnr(trained.model, held_out), 3), "steps": trained.steps}
                row |= {"seconds": round(trained.seconds, 1), "million_parameters": round(million_parameters(trained.model), 3)}
                row |= {"threads": args.threads}
                if args.checkpoint and name == "ours" and minutes == budgets[-1]:
                    save_vae(args.checkpoint, trained.model, {"measured": row})
                with results.open("a") as lines:
                    lines.write(json.dumps(row) + "\n")
            found.append(row)
            yield row
        rates = (max(found, key=lambda row: row["psnr"])["learning_rate"],)


def read(results: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in results.read_text().splitlines()] if results.is_file() else []


def figures(rows: list[dict[str, Any]], budgets: list[float]) -> dict[str, Any]:
    """Answers the best PSNR of each configuration and budget, and how far ours is above Wan at the largest."""
    best: dict[tuple[str, float], float] = {}
    for row in rows:
        key = row["configuration"], row["minutes"]
        best[key] = max(row["psnr"], best.get(key, -1.0))
    told = {
        f"psnr, {name}, {minutes:.3g} minutes": {"value": best[name, minutes], "bar": None, "holds": None}
        for name in RECIPES
        for minutes in budgets
        if (name, minutes) in best
    }
    if ("ours", budgets[-1]) in best and ("wan", budgets[-1]) in best:
        above = round(best["ours", budgets[-1]] - best["wan", budgets[-1]], 2)
        judged = budgets[-1] >= BAR_MINUTES  # before that ours is little more than its linear start
        told["psnr of ours above wan, largest budget"] = {
            "value": above,
            "bar": BAR_DB if judged else None,
            "holds": above >= BAR_DB if judged else None,
        }
    return told


if __name__ == "__main__":
    main()
