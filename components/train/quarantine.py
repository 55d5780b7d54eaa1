"""The clips that a training skipped a step for: a line a step in a file beside its metrics. Stdlib only."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

NAME = "quarantined.jsonl"
Line = tuple[int, str | None, tuple[str, ...], bool]  # step, why it was skipped, its clips, whether it was surely for them


class QuarantineFile:
    """A JSON line a step, each step once: a resumed training drops the lines of steps that it is going to take again."""

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

    def append(self, step: int, reason: str | None, clip_ids: Sequence[str], sure: bool = False) -> None:
        """Writes down a step that was skipped, why, and its clips; without a reason, the first one that was taken after such.

        Args:
            sure: it was the clips whatever comes after.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        torn = self.path.is_file() and not self.path.read_bytes().endswith(b"\n")
        with self.path.open("a") as handle:
            handle.write(("\n" if torn else "") + _written((step, reason, tuple(clip_ids), sure)))


def read_quarantine(path: Path) -> dict[str, str]:
    """Answers why a clip is to be put aside, by its id: the first step that was skipped for it.

    A clip is accused once a step was taken after those that were skipped: where none could be, the weights were at fault. One that a step
    was surely skipped for is accused by that alone.
    """
    lines = sorted(_lines(path), key=lambda line: line[0])
    last = max((at for at, line in enumerate(lines) if line[1] is None), default=-1)  # that was taken after some were skipped
    found: dict[str, str] = {}
    for at, (step, reason, clip_ids, sure) in enumerate(lines):
        for clip_id in clip_ids if sure or at < last else ():
            found.setdefault(clip_id, f"step {step}: {reason}")
    return found


def _written(line: Line) -> str:
    step, reason, clip_ids, sure = line
    return json.dumps({"step": step, "reason": reason, "clip_ids": list(clip_ids)} | ({"sure": True} if sure else {})) + "\n"


def _lines(path: Path) -> list[Line]:
    """Answers the whole lines of a file; one that a kill cut is left out."""
    try:
        text = Path(path).read_text()
    except FileNotFoundError:
        return []
    found: list[Line] = []
    for line in text.splitlines():
        try:
            read = json.loads(line)
            reason = None if read["reason"] is None else str(read["reason"])
            found.append((int(read["step"]), reason, tuple(map(str, read["clip_ids"])), read.get("sure") is True))
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
    return found
