"""The clips that a training skipped a step for: a line a step in a file beside its metrics. Stdlib only."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

NAME = "quarantined.jsonl"
MAX_SKIPPED_ON_END = 20  # so many skipped steps on end tell of the weights, not of the clips


class QuarantineFile:
    """A JSON line a skipped step, each step once: a resumed training drops the lines of steps that it is going to take again."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def begin(self, step: int) -> None:
        """Notes that a training goes on after so many steps."""
        lines = _lines(self.path)
        kept = [line for line in lines if line[0] <= step]
        if len(kept) < len(lines):
            beside = self.path.with_name(f".{self.path.name}.{os.getpid()}")
            beside.write_text("".join(map(_written, kept)))
            os.replace(beside, self.path)

    def append(self, step: int, reason: str, clip_ids: Sequence[str]) -> None:
        """Writes down a step that was skipped, why, and its clips; a line that a kill cut before it is taken out."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        torn = self.path.is_file() and not self.path.read_bytes().endswith(b"\n")
        with self.path.open("a") as handle:
            handle.write(("\n" if torn else "") + _written((step, reason, tuple(clip_ids))))


def read_quarantine(path: Path) -> dict[str, str]:
    """Answers why a clip is to be put aside, by its id: the first step that was skipped for it.

    Where a training gave up after too many skipped steps on end, the weights were at fault, so those steps accuse no clip.
    """
    lines = {line[0]: line for line in _lines(path)}
    steps = sorted(lines)
    found: dict[str, str] = {}
    for at, step in enumerate(steps):
        first, last = at, at
        while first and steps[first - 1] == steps[first] - 1:
            first -= 1
        while last + 1 < len(steps) and steps[last + 1] == steps[last] + 1:
            last += 1
        if last - first + 1 < MAX_SKIPPED_ON_END:
            for clip_id in lines[step][2]:
                found.setdefault(clip_id, f"step {step}: {lines[step][1]}")
    return found


def _written(line: tuple[int, str, tuple[str, ...]]) -> str:
    step, reason, clip_ids = line
    return json.dumps({"step": step, "reason": reason, "clip_ids": list(clip_ids)}) + "\n"


def _lines(path: Path) -> list[tuple[int, str, tuple[str, ...]]]:
    """Answers step, reason and clips of the whole lines of a file; one that a kill cut is left out."""
    try:
        text = Path(path).read_text()
    except FileNotFoundError:
        return []
    found = []
    for line in text.splitlines():
        try:
            read = json.loads(line)
            found.append((int(read["step"]), str(read["reason"]), tuple(map(str, read["clip_ids"]))))
        except (ValueError, KeyError, TypeError):
            continue
    return found
