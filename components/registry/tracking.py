"""What a run tells MLflow: parameters, metrics by step, files and tags; a tracker that is away stops nothing.

Everything is first written to a journal in the project, then sent, in order. What could not be sent stays and is sent by the next
call that finds the tracker again, in this process or a later one.
"""

import contextlib
import json
import logging
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from components.store.project import Project
from components.store.servers import live_servers
from components.store.telemetry import TELEMETRY_OFF

logger = logging.getLogger("kinora")

RUN_KEY = "kinora.run_key"
SEND_EVERY_SECONDS = 2.0
TRY_AGAIN_SECONDS, LONGEST_PAUSE_SECONDS = 30.0, 600.0
MOST_METRICS, MOST_PARAMETERS, MOST_TAGS = 1000, 100, 100  # of one request of MLflow's
LONGEST_VALUE, LONGEST_PARAMETER, LONGEST_DIGEST = 5000, 6000, 36
QUIET = TELEMETRY_OFF | {
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}


def tracking_uri(project: Project) -> str:
    """Answers where runs and models are kept: MLFLOW_TRACKING_URI, else the root's SQLite file."""
    return os.environ.get("MLFLOW_TRACKING_URI") or project.tracking_uri


def client_of(project: Project) -> Any:
    """Answers MLflow's client for the project; MLflow keeps quiet and sends no telemetry."""
    for key, value in QUIET.items():
        os.environ.setdefault(key, value)
    uri = tracking_uri(project)
    if uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    import mlflow

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return mlflow.MlflowClient(tracking_uri=uri, registry_uri=os.environ.get("MLFLOW_REGISTRY_URI") or uri)


def open_ahead(project: Project) -> None:
    """Opens the root's own file of records, which imports MLflow and makes the file; records elsewhere are left for whoever needs them."""
    if tracking_uri(project).startswith("sqlite:"):
        with contextlib.suppress(Exception):  # whoever needs it says what is wrong
            client_of(project).get_experiment_by_name(project.name)


def experiment_of(project: Project, client: Any) -> str:
    """Answers the id of the project's experiment, made on first use; on this machine its files lie below the root."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(project.name)
    if found is not None:
        if found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)
    place = (project.artifacts / project.name).as_uri() if _is_here(project) else None
    try:
        return str(client.create_experiment(project.name, artifact_location=place))
    except MlflowException:  # another process made it in between
        found = client.get_experiment_by_name(project.name)
        if found is None:
            raise
        return str(found.experiment_id)


def _is_here(project: Project) -> bool:
    """Answers whether records are kept below the root: in its SQLite file, or by the server that `kinora up` started over it."""
    uri = tracking_uri(project)
    ours = live_servers(project.root).get("mlflow")
    return uri.startswith("sqlite:") or (ours is not None and ours.address == uri)


class Tracker:
    """The runs of one project."""

    def __init__(self, project: Project) -> None:
        self.project = project

    def run(self, stage: str, key: str) -> "Run":
        """Answers the run of a stage and its key: the one that exists already, or a new one; a resumed stage goes on in its own."""
        return Run(self.project, stage, key)

    def send_left_over(self) -> None:
        """Sends what earlier calls could not."""
        for journal in sorted((self.project.folder / "tracking").glob("*.jsonl")):
            stage, _, key = journal.stem.partition(".")
            self.run(stage, key).close(None)


class Run:
    """One run: every call returns at once and raises nothing that the tracker causes."""

    def __init__(self, project: Project, stage: str, key: str) -> None:
        self.project, self.stage, self.key = project, stage, key
        self._journal = project.folder / "tracking" / f"{stage}.{key[:16]}.jsonl"
        self._waiting: list[dict[str, Any]] = self._left_over()
        self._sent_until: dict[str, int] = {}
        self._client: Any = None
        self._run_id: str | None = None
        self._next_try = 0.0
        self._pause = TRY_AGAIN_SECONDS
        self._warned = False

    @property
    def run_id(self) -> str | None:
        """MLflow's id of this run; None while the tracker is away."""
        if self._run_id is None:
            self._send(force=True)
        return self._run_id

    def log_params(self, settings: Mapping[str, Any]) -> None:
        """Keeps settings, flattened to `section.key`."""
        self._add({"parameters": {name: str(value)[:LONGEST_PARAMETER] for name, value in flattened(settings).items()}})

    def log_metrics(self, lines: Iterable[tuple[int, Mapping[str, float]]]) -> None:
        """Keeps metrics by step; a step that this run already has is not kept again."""
        now = int(time.time() * 1000)
        lines = [(int(step), {name: float(value) for name, value in metrics.items()}) for step, metrics in lines]
        if lines:
            self._add({"metrics": lines, "at": now})

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Keeps a file, or a whole folder, below `folder` of the run's files; it must stay in its place until it is sent."""
        self._add({"file": str(Path(path).resolve()), "folder": folder})

    def log_dataset(self, name: str, digest: str, source: Mapping[str, Any], profile: Mapping[str, Any], context: str) -> None:
        """Keeps what the run read as MLflow's dataset input; `context` is what it was read for."""
        self._add({"dataset": {"name": name, "digest": digest, "source": dict(source), "profile": dict(profile), "context": context}})

    def tag(self, tags: Mapping[str, Any]) -> None:
        """Keeps tags, lineage among them."""
        self._add({"tags": {name: str(value)[:LONGEST_VALUE] for name, value in tags.items()}})

    def close(self, status: str | None = "FINISHED") -> None:
        """Sends all that waits and ends the run as FINISHED, FAILED or KILLED; None leaves its status."""
        if status is not None:
            self._add({"status": status})
        self._send(force=True)

    def _add(self, entry: dict[str, Any]) -> None:
        self._waiting.append(entry)
        self._journal.parent.mkdir(parents=True, exist_ok=True)
        with self._journal.open("a") as handle:
            handle.write(json.dumps(entry) + "\n")
        self._send()

    def _left_over(self) -> list[dict[str, Any]]:
        found = []
        with contextlib.suppress(FileNotFoundError):
            for line in self._journal.read_text().splitlines():
                with contextlib.suppress(json.JSONDecodeError):  # a line cut by a kill
                    found.append(json.loads(line))
        return found

    def _send(self, force: bool = False) -> None:
        now = time.monotonic()
        if now < self._next_try and not force:
            return
        try:
            self._connect()
            while self._waiting:
                together = 1
                while "metrics" in self._waiting[0] and together < len(self._waiting) and "metrics" in self._waiting[together]:
                    together += 1
                self._deliver(_joined(self._waiting[:together]))
                del self._waiting[:together]
        except Exception as error:  # whatever a tracker, its network or its disk answers, the run goes on
            self._client, self._run_id = None, None
            self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS) if self._warned else TRY_AGAIN_SECONDS
            self._next_try = time.monotonic() + self._pause
            if not self._warned:
                logger.warning(
                    "MLflow at `%s` is away (%s); the run goes on and its records are sent when it is back",
                    tracking_uri(self.project),
                    " ".join(str(error).split())[:200],
                )
            self._warned = True
            self._keep_waiting()
            return
        self._warned = False
        self._next_try = time.monotonic() + SEND_EVERY_SECONDS
        self._journal.unlink(missing_ok=True)

    def _keep_waiting(self) -> None:
        beside = self._journal.with_name(f".{self._journal.name}.{os.getpid()}")
        beside.write_text("".join(json.dumps(entry) + "\n" for entry in self._waiting))
        os.replace(beside, self._journal)

    def _connect(self) -> None:
        if self._run_id is not None:
            return
        self._client = client_of(self.project)
        experiment = experiment_of(self.project, self._client)
        name = f"{self.stage}:{self.key[:16]}"
        found = self._client.search_runs([experiment], f"tags.`{RUN_KEY}` = '{name}'", max_results=1, order_by=["attributes.start_time"])
        if found:
            self._run_id = found[0].info.run_id
        else:
            tags = {RUN_KEY: name, "kinora.stage": self.stage, "kinora.project": self.project.name}
            self._run_id = self._client.create_run(experiment, tags=tags, run_name=f"{self.stage}-{self.key[:8]}").info.run_id

    def _deliver(self, entry: Mapping[str, Any]) -> None:
        match entry:
            case {"parameters": parameters}:
                self._deliver_parameters(parameters)
            case {"metrics": lines, "at": at}:
                self._deliver_metrics(lines, at)
            case {"file": path, "folder": folder}:
                self._deliver_file(Path(path), folder)
            case {"tags": tags}:
                from mlflow.entities import RunTag

                for some in _slices([RunTag(name, value) for name, value in tags.items()], MOST_TAGS):
                    self._client.log_batch(self._run_id, tags=some)
            case {"dataset": dataset}:
                self._deliver_dataset(dataset)
            case {"status": status}:
                self._client.set_terminated(self._run_id, status=status)

    def _deliver_dataset(self, dataset: Mapping[str, Any]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        read = Dataset(
            name=dataset["name"],
            digest=dataset["digest"][:LONGEST_DIGEST],
            source_type="lance",
            source=json.dumps(dataset["source"]),
            profile=json.dumps(dataset["profile"]),
        )
        self._client.log_inputs(self._run_id, [DatasetInput(read, [InputTag("mlflow.data.context", dataset["context"])])])

    def _deliver_parameters(self, parameters: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        has = self._client.get_run(self._run_id).data.params  # MLflow refuses another value for a name it has
        new = [Param(name, value) for name, value in parameters.items() if name not in has]
        for some in _slices(new, MOST_PARAMETERS):
            self._client.log_batch(self._run_id, params=some)

    def _deliver_metrics(self, lines: Iterable[tuple[int, Mapping[str, float]]], at: int) -> None:
        from mlflow.entities import Metric

        new = []
        for step, metrics in lines:
            for name, value in metrics.items():
                if step > self._last_step(name):
                    new.append(Metric(name, value, at, step))
                    self._sent_until[name] = step
        try:
            for some in _slices(new, MOST_METRICS):
                self._client.log_batch(self._run_id, metrics=some)
        except BaseException:
            self._sent_until.clear()  # asked again, since some of them may have arrived
            raise

    def _last_step(self, name: str) -> int:
        if name not in self._sent_until:
            history = self._client.get_metric_history(self._run_id, name)
            self._sent_until[name] = max((metric.step for metric in history), default=-1)
        return self._sent_until[name]

    def _deliver_file(self, path: Path, folder: str | None) -> None:
        if path.is_dir():
            self._client.log_artifacts(self._run_id, str(path), folder)
        elif path.is_file():
            self._client.log_artifact(self._run_id, str(path), folder)
        else:
            logger.warning("`%s` is gone, so MLflow does not get it", path)


def flattened(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Answers nested settings as one level, `section.key`."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            flat |= flattened(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _joined(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Makes one entry of neighbouring metrics, so that many short lines are one request."""
    if len(entries) == 1:
        return entries[0]
    return {"metrics": [line for entry in entries for line in entry["metrics"]], "at": entries[-1]["at"]}


def _slices(values: list[Any], length: int) -> Iterable[list[Any]]:
    return (values[start : start + length] for start in range(0, len(values), length))
