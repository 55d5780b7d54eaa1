"""Runs a flow from the command line: starts what it needs side by side, then says what became of it."""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from components.config import load_config
from components.registry import tracking
from components.store.project import Project, project_of
from flows import embedded

LATER = ("components.store.schema", "components.cluster.lone_worker")  # what stages import sooner or later, for seconds


@dataclass(frozen=True)
class RunSettings:
    """What the command line said: everything that a flow takes as its typed parameters."""

    project: str | None
    source: str | None
    manifest: str | None
    profile: str | None
    overrides: tuple[str, ...]

    def parameters(self) -> dict[str, Any]:
        return {
            "project": self.project,
            "source": self.source,
            "manifest": self.manifest,
            "profile": self.profile,
            "overrides": list(self.overrides),
        }


def run_flow(name: str, settings: RunSettings) -> Sequence[Any]:
    """Runs a flow in this process, which is the Ray driver, and answers the outcomes of its stages.

    Raises:
        NoServerError: PREFECT_API_URL names a server that does not answer, or that wants another password.
        RayUnavailableError, ClusterRefusedError: RAY_ADDRESS names a cluster that does not answer, or that wants another token.
    """
    from components.cluster.session import ray_session, start_ray, stop_ray

    config = load_config(settings.profile, settings.overrides)
    if os.environ.get("PREFECT_API_URL"):  # asked first: a Ray that starts takes its time to stop
        from flows.server import server

        with server():
            pass
    embedded.start()  # where a caller has not yet
    if config.cluster.stages_in == "process":
        start_ray(config, Path(config.root))  # Ray starts while Prefect is imported and its server starts
    try:
        if config.cluster.stages_in == "process" and os.environ.get("RAY_ADDRESS"):
            with ray_session(config, Path(config.root)):
                pass  # a cluster that does not let us in says so before a server of Prefect's starts
        if config.cluster.stages_in == "job":
            from flows.jobs import ray_cluster

            ray_cluster(Path(config.root))  # likewise
        flow: Callable[..., Sequence[Any]] = getattr(import_module(f"flows.{name}"), name)
        with embedded.used(
            lambda: _import_ahead(Project(Path(config.root), project_of(settings.project, settings.source), config.cluster.storage))
        ):
            return flow(**settings.parameters())
    finally:
        stop_ray()


def _import_ahead(project: Project) -> None:
    """Imports what the stages will need; a server of Prefect's own starts meanwhile on another core."""
    tracking.open_ahead(project)
    for module in LATER:
        with suppress(ImportError):  # whoever needs it says so
            import_module(module)
