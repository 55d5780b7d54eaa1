"""The three trainings: each one Ray Train job whose metrics the driver carries to MLflow and to whoever watches.

A training never touches the registry; `promote` does.
"""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from components.caption.captioner import choose
from components.caption.upsample import build_style
from components.cluster.training import fit
from components.jobs.finetune import KIND, address_of, base_of
from components.jobs.goodput import StepsTaken
from components.jobs.quarantine import put_aside
from components.jobs.run import Run
from components.models.weights import DamagedFolderError, digest_folder, verify_folder
from components.operations.freshness import Freshness, check_encoded, serving_folder, serving_weights, text_encoder_folder
from components.operations.history import clips_of_steps, planned_steps
from components.operations.readings import dataset_of, note_weights, pin_reading
from components.registry.tracking import Run as TrackedRun
from components.registry.tracking import Tracker
from components.store import mirror, tables
from components.store.checkpoints import follow, newest_finished, storage_of
from components.store.filters import CAPTIONED, TRAINING
from components.store.project import Project
from components.store.storage import StorageAwayError
from components.train.context import read_metrics, read_starts

ENTRIES = {
    "train_captioner": "components.train.captioner_job:run",
    "train_vae": "components.train.vae_job:run",
    "take_vae": "components.jobs.pretrained_vae:run",  # of train_vae too, where the settings name a pretrained one
    "train_dit": "components.train.dit_job:run",
}
STANDS_ON = {"video-vae": "train_vae", "captioner": "train_captioner"}


def train_captioner(run: Run, freshness: Freshness) -> dict[str, Any]:
    """Trains the OpenCLIP CoCa captioner, takes a pretrained one, or builds a text encoder alone where too little is labelled."""
    choice = choose(run.config.captioner, freshness.rows)
    settings = run.config.model_dump(mode="json")
    pinned, read = pin_reading(run.project, freshness, settings, {}, reads_clips=choice.mode != "pretrained")
    return _train(run, pinned, freshness, read, {"mode": choice.mode}) | {"mode": choice.mode, "why": choice.why}


def train_vae(run: Run, freshness: Freshness) -> dict[str, Any]:
    """Trains the causal video VAE, or takes a pretrained one, as it is or to train it further."""
    _require_clips(run)
    settings = run.config.vae
    pinned, read = pin_reading(run.project, freshness, run.config.model_dump(mode="json"), {})
    if settings.pretrained is None:
        return _train(run, pinned, freshness, read, {})
    folder = Path(settings.pretrained)
    source = str(folder.resolve()) if folder.is_dir() else settings.pretrained  # a worker may run in another folder
    mode = "train" if settings.finetune else "pretrained"
    return _train(run, pinned, freshness, read, {"source": source, "mode": mode}, entry=ENTRIES["take_vae"])


def train_dit(run: Run, freshness: Freshness) -> dict[str, Any]:
    """Trains the diffusion transformer, and exports it with the VAE and the text encoder it was trained against."""
    _require_clips(run)
    check_encoded(run.config, run.project)
    parts = {
        "video_vae": str(serving_folder("train_vae", run.config, run.project)),
        "text_encoder": str(text_encoder_folder(run.config, run.project)),
    }
    weights = {kind: serving_weights(stage, run.config, run.project) for kind, stage in STANDS_ON.items()}
    base = base_of(run, freshness)
    if base is not None:
        weights[KIND] = digest_folder(base)
    pinned, read = pin_reading(run.project, freshness, run.config.model_dump(mode="json"), weights, base=address_of(run, base))
    style = build_style([row["caption"] for row in tables.clips(pinned).read(["caption"], CAPTIONED)])  # which are let go of here
    return _train(run, pinned, freshness, read, {**parts, "style": style, "base": str(base) if base else None})


def _train(
    run: Run, project: Project, freshness: Freshness, read: Mapping[str, Any], extra: Mapping[str, Any], entry: str | None = None
) -> dict[str, Any]:
    config, stage = run.config, freshness.stage
    checkpoints, export = project.checkpoints(stage, freshness.key), project.model(stage, freshness.key)
    metrics_file, sheet = checkpoints / "metrics.jsonl", project.sheet(f"{stage}.png")
    steps = planned_steps(config, stage, clips_of_steps(project, stage, freshness.rows))
    starts = len(read_starts(metrics_file))
    tracked = Tracker(project).run(stage, freshness.key)
    tracked.log_params(config.model_dump(mode="json"))
    tracked.tag(read["tags"])
    if dataset := dataset_of(read):
        tracked.log_dataset(**dataset)
    if not _is_whole(export):
        payload = {
            "config": config.model_dump(mode="json"),
            "root": str(project.root.resolve()),
            "project": project.name,
            "clips_version": project.clips_version,
            "clips_lifted": list(project.clips_lifted),
            "checkpoints": str(checkpoints.resolve()),
            "export": str(export.resolve()),
            "sheet": str(sheet.resolve()),
            **extra,
        }

        samples = _NewFiles(checkpoints / "samples", tracked)

        def on_metrics(step: int, metrics: Mapping[str, float]) -> None:
            tracked.log_metrics([(step, metrics)])
            samples.send()
            run.progress(min(step, steps), steps, _said(metrics))

        cluster = config.cluster
        try:
            fit(
                entry or ENTRIES[stage],
                payload,
                name=f"{stage}-{freshness.key[:16]}",
                storage=project.folder / "ray-train",
                num_workers=cluster.num_workers,
                min_workers=cluster.fewest_workers,
                max_failures=cluster.max_failures,
                cpus_per_worker=cluster.cpus_per_worker,
                threads=cluster.threads,
                use_gpu=cluster.use_gpu,
                sharded=cluster.sharded,
                together=config.dit.context_parallel if stage == "train_dit" else 1,
                metrics_file=metrics_file,
                on_metrics=on_metrics,
                follow=_follower(project, checkpoints),
                newest=partial(newest_finished, replace(project, root=project.root.resolve()), checkpoints.resolve()),
            )
        except Exception:
            with contextlib.suppress(OSError, StorageAwayError):  # the next attempt writes it too
                put_aside(run.project, stage, checkpoints)
            raise
        mirror.pull(project)
        samples.send()
    aside = put_aside(run.project, stage, checkpoints)
    metrics = read_metrics(metrics_file)
    last = {name: value for _, values in metrics for name, value in values.items()}
    if sheet.is_file():
        tracked.log_artifact(sheet, "samples")
    tracked.close()
    weights = digest_folder(export)
    note_weights(project, stage, freshness.key, weights, tracked.run_id)
    pictures = {"reconstructions": str(sheet)} if sheet.is_file() else {}
    return {
        "summary": (_said(last) or "exported") + (f"; {aside} clip{'' if aside == 1 else 's'} put into quarantine" if aside else ""),
        "amount": f"{steps} steps" if extra.get("mode", "train") == "train" else "",
        "weights": weights,
        "metrics": str(metrics_file),
        "steps": asdict(StepsTaken.of(metrics_file, starts, steps)),
        "last": last,
        "run_id": tracked.run_id,
        "show": {"images": pictures} if pictures else {},
    }


def _follower(project: Project, checkpoints: Path) -> Callable[[], None] | None:
    """Answers what brings the metrics and samples of a worker on another machine, through the storage that both know."""
    if project.storage is None:
        return None
    storage = storage_of(project, checkpoints)

    def bring() -> None:
        with contextlib.suppress(StorageAwayError):  # what is missing now comes with the next look
            follow(storage, checkpoints)

    return bring


class _NewFiles:
    """Sends the pictures and videos that a training leaves in a folder to its run in MLflow, each once, as they come."""

    def __init__(self, folder: Path, tracked: TrackedRun) -> None:
        self.folder, self.tracked = folder, tracked
        self.sent: set[Path] = set()

    def send(self) -> None:
        for path in sorted(set(self.folder.glob("step_*")) - self.sent):
            self.tracked.log_artifact(path, "samples")
            self.sent.add(path)


def _require_clips(run: Run) -> None:
    """Refuses to train on nothing.

    Raises:
        ValueError: no clip is in the training split.
    """
    if tables.clips(run.project).count(TRAINING) == 0:
        raise ValueError("no clip is left to train on; hint: `kinora show funnel` says why clips were dropped")


def _is_whole(folder: Path) -> bool:
    try:
        verify_folder(folder)
    except DamagedFolderError:
        return False
    return True


def _said(metrics: Mapping[str, float]) -> str:
    wanted = [name for name in metrics if name == "val_loss" or name.startswith(("loss", "val_psnr", "val_all", "psnr"))][:3]
    return ", ".join(f"{name} {metrics[name]:.4g}" for name in wanted)
