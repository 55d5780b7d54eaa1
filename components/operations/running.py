"""What a run is doing, written where anybody can look: a small file of the run and one of each stage, replaced once a second at most.

Each names its process, so that whoever reads can tell a run that works from one that was killed.
"""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from components.operations import alive
from components.store.project import Project, write_json
from components.store.secret_names import without_password

EVERY_SECONDS = 1.0
QUIET_SECONDS = 10.0  # a stage that has nothing new to say is known to live by this
SILENT_SECONDS = 60.0  # without a word of a process on another machine, it is taken for dead
RUNNING, DONE, SKIPPED, FAILED, KILLED = "running", "done", "skipped", "failed", "killed"
LONGEST = 500  # characters of an error

_outermost = threading.Lock()


def run_file(project: Project) -> Path:
    return project.folder / "running" / "run.json"


def stage_file(project: Project, stage: str) -> Path:
    return project.folder / "running" / f"{stage}.json"


def read(path: Path) -> dict[str, Any]:
    """Answers what a file of a run or stage says, with `state` as it is now: one whose process is gone was killed. Empty without one."""
    try:
        said = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    if not isinstance(said, dict) or "state" not in said:
        return {}
    if said["state"] == RUNNING:
        living = alive.lives(said)
        if living is False or (living is None and time.time() - said.get("beat_at", 0.0) > SILENT_SECONDS):
            said["state"] = KILLED
    return said


def sentence(error: BaseException) -> str:
    """Answers an error as one line; its class where it has no words."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    return without_password(" ".join(str(error).split()))[:LONGEST] or type(error).__name__


class Heartbeat:
    """The file of one stage: written now and then by a thread of its own, so that a stage need not think of it."""

    def __init__(self, path: Path, said: Mapping[str, Any], each_second: Callable[[], dict[str, Any]]) -> None:
        now = time.time()
        self.path = path
        self.said: dict[str, Any] = {**alive.here(), "state": RUNNING, "began_at": now, "beat_at": now, **said}
        self._each_second = each_second
        self._changed, self._stop = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._write()
        self._thread.start()

    def say(self, **news: Any) -> None:
        """Keeps news for the next beat."""
        with self._lock:
            self.said |= news
        self._changed.set()

    def end(self, state: str, **news: Any) -> None:
        """Writes the last word."""
        self._stop.set()
        self._thread.join()
        with self._lock:
            self.said |= {"state": state, "ended_at": time.time(), **news}
        self._write()

    def _beat(self) -> None:
        written = time.monotonic()
        while not self._stop.wait(EVERY_SECONDS):
            news = self._each_second()
            if self._changed.is_set() or time.monotonic() - written >= QUIET_SECONDS:
                self._changed.clear()
                self.say_quietly(news)
                self._write()
                written = time.monotonic()

    def say_quietly(self, news: Mapping[str, Any]) -> None:
        """Keeps news that alone are not worth a beat."""
        with self._lock:
            self.said |= news

    def _write(self) -> None:
        with self._lock:
            said = {**self.said, "beat_at": time.time()}
        with contextlib.suppress(OSError):  # a full disk ends a stage where it writes what it makes, with a sentence
            write_json(self.path, said)


def note_skip(project: Project, stage: str, why: str) -> None:
    """Writes that a stage of this run was fresh."""
    write_json(stage_file(project, stage), {**alive.here(), "state": SKIPPED, "why": why, "began_at": time.time()})


@contextlib.contextmanager
def announced_run(project: Project, flow: str, stages: Sequence[str], **links: Any) -> Iterator[None]:
    """Says for as long as the block lasts that this process runs a flow of a project, and at its end how it went.

    Of blocks within one another the outermost counts.

    Args:
        links: what leads a person on, JSON values: the flow run and where its server is.
    """
    if not _outermost.acquire(blocking=False):
        yield
        return
    path, now = run_file(project), time.time()
    said = {**alive.here(), "state": RUNNING, "flow": flow, "stages": list(stages), "began_at": now, "beat_at": now, **links}
    heartbeat = Heartbeat(path, said, dict)
    try:
        yield
        heartbeat.end(DONE)
    except BaseException as error:
        heartbeat.end(FAILED, error=sentence(error))
        raise
    finally:
        _outermost.release()
