"""Real footage for tests: a folder beside the checkout, or KINORA_FOOTAGE; tests that need it are skipped without it."""

import json
import os
from pathlib import Path

import pytest

FOLDER = Path(os.environ.get("KINORA_FOOTAGE") or Path(__file__).resolve().parent.parent.parent / "shared" / "footage")
needs_footage = pytest.mark.skipif(
    not (FOLDER / "manifest.csv").is_file(), reason=f"no footage in {FOLDER}; KINORA_FOOTAGE names its folder"
)


def clip(name: str) -> Path:
    """Answers a file of the footage by its path below the folder."""
    return FOLDER / name


def truth(name: str) -> dict:
    """Reads one of the truth files: cuts or reference."""
    path = FOLDER / f"{name}.json"
    return {key: value for key, value in json.loads(path.read_text()).items() if not key.startswith("_")} if path.is_file() else {}
