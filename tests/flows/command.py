"""Runs the `kinora` command as a person does: in its own process, in an empty folder."""

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent


def environment(**extra: str) -> dict[str, str]:
    """The environment of a person's shell, with the settings file of this repository."""
    return {**os.environ, "KINORA_CONFIG": str(REPOSITORY / "pipelines.yaml"), "PYTHONPATH": str(REPOSITORY), **extra}


def kinora(folder: Path, *arguments: str, timeout: float = 900, **extra: str) -> subprocess.CompletedProcess[str]:
    """Runs one command to its end and answers its exit code and what it printed."""
    return subprocess.run(
        [sys.executable, "-m", "flows", *arguments],
        cwd=folder,
        env=environment(**extra),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def start(folder: Path, *arguments: str, **extra: str) -> "subprocess.Popen[str]":
    """Starts one command in a process group of its own, so that a test can kill it."""
    log = (folder / "kinora.log").open("a")
    return subprocess.Popen(
        [sys.executable, "-m", "flows", *arguments],
        cwd=folder,
        env=environment(**extra),
        stdout=log,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
