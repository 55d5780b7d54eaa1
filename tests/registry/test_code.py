"""A registered model carries the code that it runs: complete, and no more."""

import os
import subprocess
import sys
from pathlib import Path

from components.registry.code import copy_code, needed

IMPORT_ALL = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
print(*{module.__file__ for name, module in sys.modules.items() if name.startswith("components")}, sep="\\n")
"""


def test_the_copy_imports_without_the_rest_of_the_package(tmp_path: Path) -> None:
    copied = copy_code(tmp_path / "code")
    files = {path.relative_to(copied) for path in copied.rglob("*") if path.is_file()}
    assert files == set(needed())
    names = ["components." + ".".join(path.with_suffix("").parts) for path in files if path.name != "__init__.py"]
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, *names],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(copied.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert {Path(line) for line in done.stdout.split()} == {copied / path for path in files}


def test_what_a_model_never_runs_is_not_carried() -> None:
    parts = {path.parts[0] for path in needed()}
    assert not parts & {"cluster", "registry", "store", "train", "jobs", "operations", "report", "ingest", "curate", "evaluate"}
    assert {"generate", "encode", "models", "media", "openclip"} <= parts
