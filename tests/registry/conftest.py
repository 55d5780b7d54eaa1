from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from components.models.weights import save_folder
from components.store.project import Project


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One root, and so one SQLite file, for all tests of this folder: to make its tables takes seconds."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def project(root: Path, request: pytest.FixtureRequest) -> Project:
    """A project of the test's own."""
    return Project(root, f"p-{abs(hash(request.node.nodeid)) % 10**10}")


@pytest.fixture
def weights(tmp_path: Path) -> Callable[[float], Path]:
    """Makes folders of weights that differ in one number."""

    def make(value: float) -> Path:
        folder = tmp_path / f"weights-{value}"
        save_folder(folder, {"dit": {"w": torch.full((4,), value)}}, {"dit": {"depth": 1}})
        return folder

    return make
