"""What a video keeps of what it was made with: enough to make it again, and of the machine no more than how it computes."""

import hashlib
import importlib.metadata
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from components.models.precision import precision_of
from components.models.weights import sha256_of

if TYPE_CHECKING:
    from components.generate.ask import Ask, Source

ASKED = ("num_frames", "seconds", "height", "width", "backward", "loop", "rewrite")


def record_of(ask: "Ask") -> dict[str, Any]:
    """Answers what was asked for, null where that was left to the model, and the files with their names and digests, as JSON values."""
    files = [{"use": use, **_file(source), **({} if seconds is None else {"seconds": seconds})} for use, source, seconds in ask.files]
    return {"asked": {name: getattr(ask, name) for name in ASKED}, "files": files}


def computed_by(device: str) -> dict[str, str | None]:
    """Answers Kinora's version, null where it is not installed, and the kind of device and the precision of sampling, as JSON values."""
    try:
        version: str | None = importlib.metadata.version("kinora")
    except importlib.metadata.PackageNotFoundError:  # MLflow serves a model from the code beside it
        version = None
    kind = torch.device(device).type
    return {"kinora": version, "device": kind, "precision": str(precision_of(kind)).removeprefix("torch.")}


def without_folders(notes: Iterable[str], ask: "Ask") -> list[str]:
    """Answers notes with the files that they name by their names alone."""
    named = {f"`{source}`": f"`{Path(source).name}`" for _, source, _ in ask.files if not isinstance(source, bytes)}
    return [re.sub("|".join(map(re.escape, named)), lambda found: named[found[0]], note) if named else note for note in notes]


def _file(source: "Source") -> dict[str, str | None]:
    if isinstance(source, bytes):
        return {"name": None, "sha256": hashlib.sha256(source).hexdigest()}
    return {"name": Path(source).name, "sha256": sha256_of(Path(source))}
