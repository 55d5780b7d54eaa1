"""Does every kill end where an undisturbed run ends, and how long until the work goes on?

Run: python -m benchmarks.faults [--only workers|runs|jobs|nodes|zombies] [--quick]

Kills, three times each at different moments: the train worker of a run (in each of its three trainings), the process of a whole
run, the driver of its jobs in a Ray cluster, a Ray node under a training of two workers, and a scheduled run together with its
serving process. The first three compare tables, captions, weights and aliases with one undisturbed run of profile `test`, bit for
bit; the nodes compare losses, within 1e-4, since one worker adds up in another order than two; the last is over when Prefect's
server has marked the run.
`--quick` kills one train worker of a tiny training. Needs the packages of the tests. The last line is one JSON object.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import httpx
import psutil
import torch

from components.cluster.session import ray_session
from components.cluster.training import fit
from components.models.weights import digest_folder
from components.operations.freshness import model_folder
from components.registry.models import Kind, list_versions
from components.store.project import Project
from components.store.tables import clips, videos
from components.train.checkpoint import Checkpoints
from components.train.context import TrainContext, read_metrics
from tests.cluster.entries import train
from tests.cluster.nodes import cluster, kill_raylet
from tests.cluster.shared import Training, losses_alone
from tests.flows.command import start
from tests.flows.serving import free_port, serving
from tests.flows.test_deployments import PATIENT, Place, start_serving

WORKER_SECONDS, NODE_SECONDS, ZOMBIE_SECONDS = 30.0, 60.0, 120.0
TRAININGS = ("train_captioner", "train_vae", "train_dit")
KINDS: tuple[Kind, ...] = get_args(Kind)
LONG = [f"{section}.{name}" for section in ("captioner", "vae", "dit") for name in ("steps=240", "report_every=1", "checkpoint_every=40")]
RUN = ("run", "--profile", "test", *(word for setting in (*LONG, "dit.sample_every=120") for word in ("--set", setting)))
NODE_STEPS, NODE_MOMENTS = 16, (3, 6, 10)
ZOMBIE_MOMENTS = (2.0, 12.0, 22.0)  # seconds into the 30 between two beats of a run's heart
PATIENCE_SECONDS = 900
PARTS = ("workers", "runs", "jobs", "nodes", "zombies")


def outcome(project: Project) -> dict[str, Any]:
    """What has to be equal: rows with their captions, films, weights, and who is champion."""
    rows = clips(project).digest(["caption", "caption_by", "split", "keep", "latents_by", "text_embeds_by"])
    folders = {stage: model_folder(stage, project) for stage in TRAININGS}
    return {
        "clips": rows,
        "videos": videos(project).digest(["status", "num_clips"]),
        "weights": {stage: digest_folder(folder) for stage, folder in folders.items() if folder is not None},
        "aliases": {kind: {alias: v.weights for v in list_versions(project, kind) for alias in v.aliases} for kind in KINDS},
    }


@contextmanager
def running(folder: Path, *more: str, **variables: str) -> Iterator["subprocess.Popen[str]"]:
    """Runs the whole run in a process group that does not outlive the block."""
    process = start(folder, *RUN, *more, **variables)
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(moment: Callable[[], Any], process: "subprocess.Popen[str]", folder: Path) -> Any:
    """Answers what a moment answers as soon as that is true."""
    until = time.monotonic() + PATIENCE_SECONDS
    while not (found := moment()):
        if process.poll() is not None or time.monotonic() > until:
            raise RuntimeError("the moment never came: " + (folder / "kinora.log").read_text()[-3000:])
        time.sleep(0.02)
    return found


def undisturbed(folder: Path) -> Project:
    """Answers the project of a run that nothing disturbs."""
    folder.mkdir(exist_ok=True)
    with running(folder) as process:
        if process.wait() != 0:
            raise RuntimeError("the run failed: " + (folder / "kinora.log").read_text()[-3000:])
    return Project(folder / "runs", "demo")


def metrics_of(project: Project, stage: str) -> Path | None:
    return next((project.folder / "checkpoints" / stage).glob("*/metrics.jsonl"), None)


def has_checkpoint(project: Project, stage: str) -> bool:
    return any((project.folder / "checkpoints" / stage).glob("*/step_*"))


def some_clips(project: Project) -> bool:
    return (project.folder / "tables" / "clips.lance" / "_versions").is_dir() and clips(project).count() > 0


def kill_runs(folder: Path) -> dict[str, Any]:
    """Kills a run while it ingests, while it trains the VAE and while it trains the transformer; the same command ends it."""
    folder.mkdir()
    project = Project(folder / "runs", "demo")
    moments: list[Callable[[], bool]] = [
        lambda: some_clips(project),
        lambda: has_checkpoint(project, "train_vae"),
        lambda: has_checkpoint(project, "train_dit"),
    ]
    for moment in moments:
        with running(folder) as process:
            wait_for(moment, process, folder)
    return outcome(undisturbed(folder))


def kill_workers(folder: Path) -> tuple[dict[str, Any], list[float]]:
    """Kills the train worker of each training of one run; answers its outcome and the seconds to each first new step."""
    folder.mkdir()
    project, seconds = Project(folder / "runs", "demo"), []
    with running(folder) as process:
        for stage in TRAININGS:
            wait_for(lambda stage=stage: has_checkpoint(project, stage), process, folder)  # type: ignore[misc]
            train_worker(process.pid).kill()
            killed = time.monotonic()
            reached = last_step(project, stage)
            wait_for(lambda stage=stage, reached=reached: last_step(project, stage) > reached, process, folder)  # type: ignore[misc]
            seconds.append(time.monotonic() - killed)
            print(f"{stage}: its worker was killed after step {reached}, the next step came {seconds[-1]:.1f} s later", flush=True)
        if process.wait() != 0:
            raise RuntimeError("the run failed: " + (folder / "kinora.log").read_text()[-3000:])
    return outcome(project), seconds


def kill_jobs(folder: Path) -> dict[str, Any]:
    """Kills the driver of a run's jobs while it ingests and in two trainings; another job goes on, or the same command does."""
    folder.mkdir()
    project, as_job = Project(folder / "runs", "demo"), ("--set", "cluster.stages_in=job")
    moments: list[tuple[str, Callable[[], bool]]] = [
        ("ingest", lambda: some_clips(project)),
        ("train_vae", lambda: has_checkpoint(project, "train_vae")),
        ("train_dit", lambda: has_checkpoint(project, "train_dit")),
    ]
    with cluster(folder, head_cpus=2) as ray:
        place = ray.secured | {"RAY_ADDRESS": ray.jobs_api}
        with running(folder, *as_job, **place) as process:
            for stage, moment in moments:
                wait_for(moment, process, folder)
                drivers = job_drivers(stage, folder)
                if not drivers:
                    raise RuntimeError(f"`{stage}` had ended before the driver of its job could be killed")
                for driver in drivers:
                    driver.kill()
                print(f"{stage}: the driver of its job was killed", flush=True)
            ended = process.wait()
        if ended != 0:
            with running(folder, *as_job, **place) as process:
                if process.wait() != 0:
                    raise RuntimeError("the run failed: " + (folder / "kinora.log").read_text()[-3000:])
    return outcome(project)


def job_drivers(stage: str, folder: Path) -> list[psutil.Process]:
    """Answers the processes that run a stage of this folder's project as a job."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "components.jobs" in words and stage in words and str(folder) in words[-1]:
            found.append(process)
    return found


def last_step(project: Project, stage: str) -> int:
    file = metrics_of(project, stage)
    return max((step for step, _ in read_metrics(file)), default=0) if file else 0


def train_worker(pid: int) -> psutil.Process:
    """Answers the process that trains, below the one of a run."""
    for process in psutil.Process(pid).children(recursive=True):
        if "TrainWorker" in " ".join(process.cmdline()):
            return process
    raise RuntimeError("no train worker below the run")


def lose_nodes(folder: Path) -> tuple[bool, list[float]]:
    """Kills a node under a training three times; answers whether all losses are the undisturbed ones, and the seconds."""
    folder.mkdir()
    expected, equal, seconds = losses_alone(folder / "alone", NODE_STEPS), True, []
    with cluster(folder) as ray:
        for moment in NODE_MOMENTS:
            place = folder / str(moment)
            place.mkdir()
            node = ray.add_node()
            with Training(ray, place, NODE_STEPS, [(moment, 2, "lost")]) as training:
                training.wait_for_step(moment, 240)
                killed = time.monotonic()
                kill_raylet(node)
                (place / "lost").touch()
                training.wait_for_step(moment + 1, 240)
                seconds.append(time.monotonic() - killed)
                training.wait_for_end(240)
            apart = max(abs(training.losses[step] - loss) for step, loss in expected.items())
            equal = equal and training.sizes == ["2", "1"] and list(training.losses) == list(expected) and apart <= 1e-4
            print(f"a node was killed after step {moment}: {seconds[-1]:.1f} s to the next, losses differ by {apart:.2g}", flush=True)
    return equal, seconds


def leave_zombies(folder: Path) -> list[float]:
    """Kills a scheduled run and its serving process three times; answers the seconds until Prefect's server has marked it."""
    (folder / "hand").mkdir(parents=True)
    port, seconds = free_port(), []
    place = Place(folder, f"http://127.0.0.1:{port}/api", [])
    command = [str(Path(sys.executable).with_name("prefect")), "server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui"]
    quiet = {"PREFECT_HOME": str(folder / "prefect"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    (place.hand / "wait").touch()
    (folder / "webhook").touch(mode=0o600)
    (folder / "webhook").write_text("http://127.0.0.1:9/\n")  # nobody listens: who is told of the crash is not asked here
    with serving(command, folder, quiet, f"{place.api}/health"):
        for number, moment in enumerate(ZOMBIE_MOMENTS):
            name = f"zombie-{number}"
            place.write(PATIENT | {"name": name, "retries": 0})
            place.deploy()
            entry = {"entrypoint": "tests.flows.waiting.waiting"}
            httpx.patch(f"{place.api}/deployments/{place.deployment(f'caption/{name}')['id']}", json=entry, timeout=60).raise_for_status()
            process = start_serving(place)
            try:
                run = place.start(f"caption/{name}")
                place.held_by(run)
                time.sleep(moment)
            finally:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            killed = time.monotonic()
            place.state(run, "CRASHED", within=300)
            seconds.append(time.monotonic() - killed)
            print(f"a run and its serving process were killed: marked {seconds[-1]:.1f} s later", flush=True)
    return seconds


def quick(folder: Path) -> tuple[bool, list[float]]:
    """Kills the worker of a tiny training once."""
    steps, killed_at = 12, 8
    came: list[float] = []

    def on_metrics(step: int, metrics: dict[str, float]) -> None:
        if step >= killed_at and not came:
            came.append(time.time())

    with ray_session(SimpleNamespace(cluster=SimpleNamespace(num_cpus=2, object_store_bytes=128 * 2**20)), folder):
        fit(
            "tests.cluster.entries:train",
            {"folder": str(folder), "steps": steps, "kill_at": killed_at},
            name="quick",
            storage=folder / "ray-train",
            num_workers=1,
            min_workers=1,
            max_failures=2,
            cpus_per_worker=2,
            threads=1,
            use_gpu=False,
            metrics_file=folder / "metrics.jsonl",
            on_metrics=on_metrics,
        )
    (folder / "alone").mkdir()
    torch.set_num_threads(1)
    train({"folder": str(folder / "alone"), "steps": steps}, TrainContext.local(folder / "alone"))
    found, expected = (Checkpoints(place / "checkpoints").newest() for place in (folder, folder / "alone"))
    assert found is not None
    assert expected is not None
    equal = all(torch.equal(found[1][name], expected[1][name]) for name in expected[1])
    return equal, [came[0] - (folder / "killed").stat().st_mtime]


def equality(holds: bool) -> dict[str, Any]:
    return {"value": holds, "bar": True, "holds": holds}


def recovery(seconds: list[float], bar: float) -> dict[str, Any]:
    """The median, and whether the slowest kept the bar."""
    each = [round(value, 1) for value in seconds]
    return {"value": round(statistics.median(seconds), 1), "each": each, "bar": bar, "holds": max(seconds) <= bar}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one kill of the train worker of a tiny training")
    parser.add_argument("--only", choices=PARTS, action="append", help="one kind of kill; may be given again")
    args = parser.parse_args()
    parts: Sequence[str] = args.only or PARTS
    figures: dict[str, dict[str, Any]] = {}

    def note(name: str, figure: dict[str, Any]) -> None:
        figures[name] = figure
        print(f"{name}: {figure['value']} (bar {figure['bar']}) {'holds' if figure['holds'] else 'FAILS'}", flush=True)

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if args.quick:
            equal, seconds = quick(folder)
            note("worker_kill_equal", equality(equal))
            note("worker_kill_seconds", recovery(seconds, WORKER_SECONDS))
            parts = ()
        alike = set(parts) & {"workers", "runs", "jobs"}
        expected = outcome(undisturbed(folder / "undisturbed")) if alike else {}
        if "workers" in parts:
            found, seconds = kill_workers(folder / "workers")
            note("worker_kills_equal", equality(found == expected))
            note("worker_kill_seconds", recovery(seconds, WORKER_SECONDS))
        if "runs" in parts:
            note("run_kills_equal", equality(kill_runs(folder / "killed") == expected))
        if "jobs" in parts:
            note("job_kills_equal", equality(kill_jobs(folder / "jobs") == expected))
        if "nodes" in parts:
            equal, seconds = lose_nodes(folder / "nodes")
            note("node_kills_equal", equality(equal))
            note("node_kill_seconds", recovery(seconds, NODE_SECONDS))
        if "zombies" in parts:
            note("zombie_seconds", recovery(leave_zombies(folder / "zombies"), ZOMBIE_SECONDS))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
