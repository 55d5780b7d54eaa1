import logging
import time
from pathlib import Path

import pytest

from components.cluster.beside import Beside

ENTRY = "tests.cluster.stages:write_and_wait"


def until(what, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
def test_work_beside_a_training_is_niced_alone_and_ends_with_it(ray: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    beside = Beside()
    assert not beside.is_busy()
    beside.start("sampling", ENTRY, str(tmp_path / "short"), "0")
    until(lambda: not beside.is_busy())
    assert (tmp_path / "short").read_text() == "threads 1"
    beside.start("sampling", ENTRY, str(tmp_path / "long"), "600")
    until((tmp_path / "long").exists)
    assert beside.is_busy()
    beside.close()
    assert not beside.is_busy()
    beside.start("sampling after step 7", ENTRY, str(tmp_path / "no folder" / "here"), "0")
    with caplog.at_level(logging.WARNING, logger="kinora"):
        until(lambda: not beside.is_busy())
    assert "sampling after step 7 failed: " in caplog.text
    assert "no folder" in caplog.text
