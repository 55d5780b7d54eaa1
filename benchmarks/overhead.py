"""How much of a whole run is orchestration? All that is not a stage's own work: Prefect, Ray, each Ray Train, imports, commits, exports.

Run: python -m benchmarks.overhead [--profile laptop] [--set key=value] [--keep FOLDER] [--quick]

A real `kinora run` in a folder of its own. A stage's own work begins when its first row or step begins and ends with its last one, by
the clock that its record keeps; all other wall time is overhead, exports, commits and the report among it, and is shown where it fell.
Then the flow runs once more as a schedule runs it, in a process of its own with Prefect's server to start and everything fresh, and its
skips are read back from Prefect's database. The last line is one JSON object.
"""

import argparse
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.operations import running
from components.stages import STAGES, TRAIN_STAGES
from components.store.project import Project

REPOSITORY = Path(__file__).resolve().parent.parent
OVERHEAD_BAR, SKIPS_BAR = 150.0, 40.0
SCHEDULED = "import json, sys; from flows.footage_to_model import footage_to_model; footage_to_model(**json.loads(sys.argv[1]))"


@dataclass(frozen=True)
class Part:
    """A piece of a run's wall time that no row and no step was worked on in."""

    where: str
    seconds: float


def run(command: list[str], folder: Path) -> tuple[float, float]:
    """Runs a command to its end and answers when it began, since the epoch, and how many seconds it took."""
    variables = {"KINORA_CONFIG": str(REPOSITORY / "pipelines.yaml"), "PYTHONPATH": str(REPOSITORY)}
    variables["PREFECT_HOME"] = str(folder / "runs" / "prefect")
    began = time.time()
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env={**os.environ, **variables}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"`{' '.join(command[:4])}` ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return began, time.time() - began


def parts_of(project: Project, began: float, seconds: float) -> list[Part]:
    """Cuts all that is not work out of a run's wall time, in order."""
    parts, at = [], began
    for name in STAGES:
        said = running.read(running.stage_file(project, name))
        spent = (project.record(name) or {})["spent"]
        first = spent["work_started_at"] or said["ended_at"]  # none where there is nothing to train
        last = first + spent["work_seconds"]
        before = "the command, Prefect's server and its first flow" if name == "ingest" else f"between stages, before {name}"
        parts.append(Part(before, said["began_at"] - at))
        parts.append(Part(f"{name}: until its first row or step", first - said["began_at"]))
        parts.append(Part(f"{name}: after its last row or step", said["ended_at"] - last))
        at = said["ended_at"]
    parts.append(Part("the report, and the end of Ray and Prefect", began + seconds - at))
    return parts


def skipped(folder: Path) -> list[str]:
    """Answers the tasks that Prefect's database remembers as skipped."""
    with closing(sqlite3.connect(f"file:{folder / 'runs' / 'prefect' / 'prefect.db'}?mode=ro", uri=True)) as database:
        found = database.execute("select name from task_run where state_name = 'Skipped'").fetchall()
    return [name.rpartition("-")[0] for (name,) in found]  # what follows is Prefect's own


def figure(value: Any, bar: Any, holds: bool) -> dict[str, Any]:
    return {"value": value, "bar": bar, "holds": holds}


def measure(folder: Path, profile: str, overrides: list[str]) -> dict[str, Any]:
    project = Project(folder / "runs", "demo")
    settings = [word for override in overrides for word in ("--set", override)]
    began, seconds = run(["-m", "flows", "run", "--profile", profile, *settings], folder)
    parts = parts_of(project, began, seconds)
    records = {stage: project.record(stage) or {} for stage in STAGES}
    work = {stage: record["spent"]["work_seconds"] for stage, record in records.items()}
    overhead = seconds - sum(work.values())
    print(f"whole run {seconds:.1f} s, work {sum(work.values()):.1f} s, overhead {overhead:.1f} s")
    for stage, own in work.items():
        print(f"  {stage:16} {records[stage]['seconds']:7.1f} s, of it work {own:7.1f} s")
    print("overhead by place:")
    for part in parts:
        print(f"  {part.seconds:7.1f} s  {part.where}")
    parameters = {"project": "demo", "source": None, "manifest": None, "profile": profile, "overrides": overrides}
    _, again = run(["-c", SCHEDULED, json.dumps(parameters)], folder)
    skips = skipped(folder)
    print(f"a scheduled run with nothing to do: {again:.1f} s, {len(skips)} skips recorded")
    started = [stage for stage in TRAIN_STAGES if any((project.folder / "checkpoints" / stage).glob("*/starts.jsonl"))]
    return {
        "overhead_seconds": figure(round(overhead, 1), OVERHEAD_BAR, overhead <= OVERHEAD_BAR),
        "nothing_to_do_seconds": figure(round(again, 1), SKIPS_BAR, again <= SKIPS_BAR),
        "skips_recorded": figure(len(skips), len(STAGES), sorted(skips) == sorted(STAGES)),
        "trainings_that_a_ray_train_worker_began": figure(len(started), len(TRAIN_STAGES), len(started) == len(TRAIN_STAGES)),
        "whole_run_seconds": figure(round(seconds, 1), None, True),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="laptop")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--keep", metavar="FOLDER", help="an empty folder to run in, kept afterwards")
    parser.add_argument("--quick", action="store_true", help="profile `test`: shows that it runs, and nearly what the overhead is")
    args = parser.parse_args()
    profile = "test" if args.quick else args.profile
    if args.keep:
        folder = Path(args.keep).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        found = measure(folder, profile, args.overrides)
    else:
        with tempfile.TemporaryDirectory(prefix="ov-") as place:
            found = measure(Path(place), profile, args.overrides)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
