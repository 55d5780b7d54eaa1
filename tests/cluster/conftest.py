import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from components.cluster.session import ray_session

SECRET = "of-the-driver-alone"
SETTINGS = SimpleNamespace(cluster=SimpleNamespace(num_cpus=2, object_store_bytes=128 * 2**20))


@pytest.fixture(scope="session")
def ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A real local Ray for all tests of this folder; answers the root that holds its token."""
    root = tmp_path_factory.mktemp("root")
    os.environ["MLFLOW_TRACKING_PASSWORD"] = SECRET
    with ray_session(SETTINGS, root):
        yield root
    os.environ.pop("MLFLOW_TRACKING_PASSWORD", None)
