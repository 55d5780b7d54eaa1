"""What every test stands on: the person's home untouched, no telemetry, no downloads, no unexpected error in the log."""

import logging
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["DO_NOT_TRACK"] = "1"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
for _address in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "RAY_ADDRESS", "KINORA_CONFIG"):
    os.environ.pop(_address, None)
os.environ["HOME"] = tempfile.mkdtemp(prefix="kinora-home-")
os.environ["PREFECT_HOME"] = os.path.join(os.environ["HOME"], "prefect")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's `make test &`: each command that a test starts would ignore Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)


LONGEST = ("test_footage_to_model", "test_kills", "test_jobs_api", "test_deployments", "test_champion", "test_servers", "test_elastic")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest files first, so that all others run beside them."""
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


class _Errors(logging.Handler):
    def __init__(self) -> None:
        super().__init__(level=logging.ERROR)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture(autouse=True)
def no_unexpected_error_is_logged(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test that logged an ERROR, unless it is marked `logs_errors`."""
    handler = _Errors()
    root = logging.getLogger()
    root.addHandler(handler)
    yield
    root.removeHandler(handler)
    if handler.records and request.node.get_closest_marker("logs_errors") is None:
        pytest.fail("logged an error: " + "; ".join(record.getMessage() for record in handler.records))


@pytest.fixture(autouse=True)
def the_log_is_left_as_it_was() -> Iterator[None]:
    """Takes back what a command run in this process did to Kinora's own log."""
    logger = logging.getLogger("kinora")
    handlers, logger.propagate, logger.disabled = list(logger.handlers), True, False
    yield
    logger.handlers[:], logger.propagate, logger.disabled = handlers, True, False


@pytest.fixture(scope="session")
def repository() -> Path:
    """The folder that holds pipelines.yaml."""
    return Path(__file__).resolve().parent.parent
