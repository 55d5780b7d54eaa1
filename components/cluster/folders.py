"""Ray's temporary folders: short, each with its owner's name in it, and cleared when that process is gone."""

import json
import os
import shutil
import tempfile
import time
from pathlib import Path

from components.store.servers import process_started, still_lives

PREFIX = "kin-"
OWNER = "owner.json"
LONGEST_TEMP = 30  # bytes; Ray adds about 75 below it and a socket path holds 107


def temp_root() -> Path:
    """Answers where Ray's folders lie, with a path that leaves room for its sockets."""
    place = tempfile.gettempdir()
    return Path(place if len(place.encode()) <= LONGEST_TEMP else "/tmp")


def make_folder() -> Path:
    """Makes a short temporary folder for a Ray, after clearing those of processes that are gone; this process owns it."""
    for old in abandoned_folders():
        remove_folder(old)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=temp_root()))
    give_folder(folder, os.getpid())
    return folder


def give_folder(folder: Path, pid: int) -> None:
    """Makes a process the owner of a folder: it is cleared by whoever comes after that one's end."""
    (folder / OWNER).write_text(json.dumps({"pid": pid, "started": process_started(pid)}))


def abandoned_folders() -> list[Path]:
    """Answers the folders of this user that a Ray left behind when it was killed."""
    return sorted(folder for folder in temp_root().glob(f"{PREFIX}*") if is_abandoned(folder))


def is_abandoned(folder: Path) -> bool:
    """Answers whether a folder is this user's and its owner is gone."""
    try:
        if folder.stat().st_uid != os.getuid():
            return False
        owner = json.loads((folder / OWNER).read_text())
        return not still_lives(int(owner["pid"]), float(owner["started"] or 0.0))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def remove_folder(folder: Path) -> None:
    """Removes a session's folder once its last processes, which may still write their logs, are gone."""
    for _ in range(50):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)
