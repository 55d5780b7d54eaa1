"""Imports point down, as the contracts of `.importlinter` say."""

import configparser
from pathlib import Path

from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports


def test_imports_point_down(repository: Path) -> None:
    assert lint_imports(config_filename=str(repository / ".importlinter"), no_cache=True) == EXIT_STATUS_SUCCESS


def test_every_component_has_its_layer(repository: Path) -> None:
    contracts = configparser.ConfigParser()
    contracts.read(repository / ".importlinter")
    listed = set(contracts["importlinter:contract:layers"]["layers"].replace("|", " ").split())
    folder = repository / "components"
    there = {path.stem for path in folder.glob("*.py") if path.stem != "__init__"}
    there |= {path.parent.name for path in folder.glob("*/__init__.py")}
    assert listed == {"flows"} | {f"components.{name}" for name in there}
