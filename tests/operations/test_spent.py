"""What a stage costs is the CPU time of its whole tree of processes, those that ended among them, and what it leaves on the disk."""

import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from components.cluster import session
from components.cluster.reserved import hold, reserved_seconds
from components.operations.spent import Meter, TreeTime, folder_bytes

BURN = "import time\nwhile time.process_time() < float({seconds}): pass\n"


def burn(seconds: float) -> list[str]:
    return [sys.executable, "-c", BURN.format(seconds=seconds)]


def parent_of(*children: list[str]) -> list[str]:
    """The command of a process that starts others and waits for them."""
    return [sys.executable, "-c", f"import subprocess; [c.wait() for c in [subprocess.Popen(a) for a in {list(children)!r}]]"]


def test_a_tree_of_processes_costs_what_all_of_them_burnt() -> None:
    """Bounds are the system's own account: rusage of children that were waited for, which the tree's sum must equal."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    tree, own = TreeTime(), time.process_time()
    running = subprocess.Popen(parent_of(burn(0.6), burn(0.3)))
    while running.poll() is None:
        tree.sample()
        time.sleep(0.05)
    seconds = tree.sample() - (time.process_time() - own)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    truth = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert truth >= 0.9
    assert seconds == pytest.approx(truth, abs=0.1)


def test_a_process_that_lived_and_ended_between_two_looks_counts() -> None:
    tree = TreeTime()
    subprocess.run(burn(0.4), check=True)
    assert tree.sample() >= 0.35  # the system counts in hundredths, and a Ray of other tests may end a process meanwhile


def test_a_process_that_nobody_waited_for_counts_as_far_as_it_was_seen() -> None:
    """Its parent ends first and leaves it to the system, as Ray's helpers do."""
    tree = TreeTime()
    orphan = f"import subprocess, sys, time; subprocess.Popen({burn(0.4)!r}); time.sleep(1.0)"
    running = subprocess.Popen([sys.executable, "-c", orphan])
    while running.poll() is None:
        tree.sample()
        time.sleep(0.05)
    assert tree.sample() >= 0.35


def test_what_was_burnt_before_is_not_charged() -> None:
    subprocess.run(burn(0.3), check=True)
    assert TreeTime().sample() < 0.2


def test_a_meter_counts_what_a_folder_grew_by(tmp_path: Path) -> None:
    (tmp_path / "before").write_bytes(b"x" * 5000)
    meter = Meter((tmp_path, tmp_path / "absent"))
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "file").write_bytes(b"x" * 1234)
    spent = meter.spent()
    assert (spent.num_bytes, spent.reserved, spent.gpu_seconds) == (1234, False, 0.0)
    (tmp_path / "before").unlink()
    assert meter.spent().num_bytes == 0
    assert folder_bytes([tmp_path]) == 1234


def test_what_is_held_of_a_cluster_counts_from_when_it_is_held_until_it_is_given_back(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(session, "_current", None)  # tests of another file may have left theirs up in this process
    cores, cards = reserved_seconds()
    meter, began = Meter((tmp_path,)), time.monotonic()
    release = hold(8.0, 2.0)
    until = time.monotonic() + 0.05
    while time.monotonic() < until:
        pass
    release()
    held = time.monotonic() - began
    then = reserved_seconds()
    assert 8 * 0.05 <= then[0] - cores <= 8 * held
    assert 2 * 0.05 <= then[1] - cards <= 2 * held
    assert reserved_seconds() == then
    spent = meter.spent()
    assert spent.reserved  # there is no Ray of this process's own
    assert spent.core_seconds >= then[0] - cores
