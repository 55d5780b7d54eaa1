"""Runs a flow from the command line: starts what it needs side by side, then says what became of it."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

FLOWS = (
    "footage_to_model",
    "ingest",
    "train_captioner",
    "caption",
    "train_vae",
    "encode",
    "train_dit",
    "evaluate",
    "promote",
)


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
    """Runs one of FLOWS in this process, which is the Ray driver, and answers the outcomes of its stages."""
    warm = threading.Thread(target=_start_ray, args=(settings,), daemon=True)
    warm.start()  # Ray starts while Prefect's server does
    flow: Callable[..., Sequence[Any]] = getattr(import_module(f"flows.{name}"), name)
    warm.join()
    return flow(**settings.parameters())


def _start_ray(settings: RunSettings) -> None:
    from components.cluster.session import start
    from components.config import load_config

    config = load_config(settings.profile, settings.overrides)
    start(config, Path(config.root))
