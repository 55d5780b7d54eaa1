"""Where a model comes from, as tags: the rows and makers it read, its settings, its code and the models it stands on."""

import contextlib
import importlib.metadata
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.stages import digest

PREFIX = "kinora."
REPOSITORY = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True)
class TableRead:
    """A table as a stage read it: version and tag to replay it, number and digest of the rows."""

    version: int
    rows: int
    rows_digest: str


def lineage_tags(
    *,
    settings: Mapping[str, Any],
    tables: Mapping[str, TableRead] | None = None,
    makers: Mapping[str, str] | None = None,
    upstream: Mapping[str, Any] | None = None,
    repository: Path = REPOSITORY,
) -> dict[str, str]:
    """Answers the tags of a model version or run, all below `kinora.`.

    Args:
        settings: the resolved settings of the run; their digest is the tag.
        tables: what was read, by table name.
        makers: makers of the columns that were read, by stage or column.
        upstream: versions or digests of the models it stands on: `captioner`, `video-vae`.
    """
    tags = {"settings": digest(settings), **_code(repository)}
    for name, read in (tables or {}).items():
        tags |= {f"table.{name}.version": str(read.version), f"table.{name}.rows": str(read.rows), f"table.{name}.digest": read.rows_digest}
    tags |= {f"maker.{name}": maker for name, maker in (makers or {}).items()}
    tags |= {f"upstream.{name}": str(version) for name, version in (upstream or {}).items()}
    return {f"{PREFIX}{name}": value for name, value in tags.items()}


def _code(repository: Path) -> dict[str, str]:
    tags = {}
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        tags["code.version"] = importlib.metadata.version("kinora")
    if (repository / ".git").exists():
        commit = _git(repository, "rev-parse", "HEAD")
        if commit:
            tags["code.commit"] = commit
            tags["code.changed"] = str(bool(_git(repository, "status", "--porcelain", "--untracked-files=no"))).lower()
    return tags


def _git(repository: Path, *command: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(repository), *command], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
