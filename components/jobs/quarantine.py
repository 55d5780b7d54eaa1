"""What a training put aside goes into the table of clips: which step was skipped for a clip, and why."""

from pathlib import Path

from components.store import tables
from components.store.filters import UNHARMED, among
from components.store.project import Project
from components.train.quarantine import NAME, read_quarantine

CLIPS_AT_ONCE = 256


def put_aside(project: Project, stage: str, checkpoints: Path) -> int:
    """Writes the column `quarantine` of the clips that a training accused, and answers how many they are.

    Trainings that begin later leave them out; this one, should it go on after a kill, reads its own version of the table. Whatever
    was written first stays, and asked again it writes nothing.
    """
    accused = read_quarantine(checkpoints / NAME)
    if not accused:
        return 0
    clips, names = tables.clips(project), sorted(accused)
    for at in range(0, len(names), CLIPS_AT_ONCE):
        there = clips.keys(f"{among('clip_id', names[at : at + CLIPS_AT_ONCE])} AND {UNHARMED}")
        clips.update([{"clip_id": name, "quarantine": f"{stage}, {accused[name]}"} for name in there])
    return len(accused)
