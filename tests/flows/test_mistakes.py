"""What a machine, a person or a pipe does to a command is one sentence, and a fault of ours is not dressed up as theirs."""

import errno
import linecache
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from components.cluster import session
from components.operations.ports import PortTakenError, chosen_ports
from components.store import tables
from components.store.project import Project, StageBusyError
from flows import __main__ as entry
from flows.runner import RunSettings, run_flow
from tests.flows.command import REPOSITORY, environment, kinora


@pytest.mark.parametrize(
    ("error", "sentence", "code"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full", 1),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "/data"), "the disk is full", 1),
        (RuntimeError("LanceError(IO): No space left on device (os error 28)"), "the disk is full", 1),
        (RuntimeError("(sqlite3.OperationalError) database or disk is full"), "the disk is full", 1),
        (OSError(errno.EADDRINUSE, "Address already in use"), "a port is taken", 1),
        (StageBusyError("`train_vae` of project `demo` is already running (process 7)"), "`train_vae` of project `demo` is", 2),
        (PermissionError(errno.EACCES, "Permission denied", "/root/runs"), "`/root/runs` may not be", 1),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "x.mp4"), "`x.mp4`: No such file or directory", 1),
    ],
)
def test_what_a_machine_does_to_a_run_is_one_sentence_too(error: Exception, sentence: str, code: int) -> None:
    said, answered = entry.explain(error)
    assert said is not None
    assert said.startswith(sentence)
    assert answered == code


def test_whoever_knows_which_port_is_taken_is_not_talked_over() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortTakenError) as raised:
            chosen_ports({"--prefect-port": port})
    assert (entry.explain(raised.value)[0] or "").startswith(f"port {port} is taken by `")


@pytest.mark.parametrize(
    ("error", "verb", "hint"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "run", "free some space, then the same command resumes where it was"),
        (OSError(errno.ENOSPC, "No space left on device"), "generate", "free some space, then run the same command again"),
        (PermissionError(errno.EACCES, "Permission denied", "a"), "run", "`--set root=FOLDER` moves all runs elsewhere"),
        (PermissionError(errno.EACCES, "Permission denied", "a"), "generate", "name another file, or give yourself its rights"),
    ],
)
def test_a_hint_is_of_the_verb_that_was_called(error: OSError, verb: str, hint: str) -> None:
    said, _ = entry.explain(error, verb)
    assert (said or "").partition("; hint: ")[2] == hint


def test_a_full_disk_is_recognised_below_other_errors() -> None:
    outer = RuntimeError("the flow crashed")
    outer.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert (entry.explain(outer)[0] or "").startswith("the disk is full")


@pytest.mark.parametrize("broken", [lambda: int("x"), lambda: {}["x"]])
def test_a_fault_of_our_own_is_not_dressed_up_as_a_mistake_of_the_person(broken: Callable[[], object]) -> None:
    with pytest.raises((ValueError, KeyError)) as raised:
        broken()
    assert entry.explain(raised.value) == (None, 1)


@pytest.mark.parametrize(
    ("place", "code"), [("components/new.py", 2), ("flows/new.py", 2), (".venv/lib/library.py", 1), ("tests/new.py", 1)]
)
def test_only_what_the_code_of_kinora_raises_is_its_sentence(
    repository: Path, monkeypatch: pytest.MonkeyPatch, place: str, code: int
) -> None:
    """A library may lie in the repository too, in its virtual environment, and speaks for itself."""
    file, line = str(repository / place), "raise ValueError('a sentence')\n"
    monkeypatch.setitem(linecache.cache, file, (len(line), None, [line], file))
    with pytest.raises(ValueError) as raised:
        exec(compile(line, file, "exec"))
    assert entry.explain(raised.value) == ("a sentence" if code == 2 else None, code)


class Stranger(BaseHTTPRequestHandler):
    """Answers as a server does that wants another password, or as one that is no Prefect."""

    def do_GET(self) -> None:
        self.send_response(401 if self.path.startswith("/api/") else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_GET

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def stranger() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Stranger)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("http://127.0.0.1:9/api", "no Prefect server at http://127.0.0.1:9/api; hint: `kinora up` starts one, and PREFECT_API_URL says"),
        ("STRANGER/api", "refuses this password; hint: PREFECT_API_AUTH_STRING is `user:password`"),
        ("STRANGER/other", "is no Prefect server, or not well (it says 404); hint: the address ends in `/api`"),
    ],
)
def test_a_run_asks_a_prefect_that_is_named_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stranger: str, address: str, sentence: str
) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    address = address.replace("STRANGER", stranger)
    monkeypatch.setenv("PREFECT_API_URL", address)
    monkeypatch.setenv("KINORA_CONFIG", str(REPOSITORY / "pipelines.yaml"))
    settings, before = RunSettings("demo", None, None, "test", (f"root={tmp_path}",)), session._current
    with temporary_settings({PREFECT_API_URL: address}), pytest.raises(ValueError) as raised:
        run_flow("footage_to_model", settings)
    said, code = entry.explain(raised.value)
    assert sentence in (said or "")
    assert code == 2
    assert session._current is before, "no Ray was started for nothing"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_below_stdout_is_one_sentence(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "flows", "show", "settings"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, cwd=tmp_path, env=environment(), stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: the disk is full\nhint: free some space")


def test_a_full_disk_stops_a_run_with_one_sentence(finished: Path) -> None:
    """The first file that the run writes finds no space; what was there stays whole."""
    keys = tables.clips(Project(finished / "runs", "films")).keys()
    script = (
        "import errno, sys; from components.store import project\n"
        "def full(path, value): raise OSError(errno.ENOSPC, 'No space left on device', str(path))\n"
        "project.write_json = full\n"
        "from flows.__main__ import main; main(sys.argv[1:])"
    )
    arguments = ["run", "--profile", "test", "--project", "films", "--set", "dit.steps=3"]
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=finished, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "error: the disk is full\nhint: free some space" in done.stderr
    assert "Traceback" not in done.stderr
    assert tables.clips(Project(finished / "runs", "films")).keys() == keys


def test_an_unwritable_root_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = kinora(tmp_path, "run", "--profile", "test", "--set", f"root={tmp_path / 'file'}", timeout=120)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: `")
    assert "Traceback" not in done.stderr


def test_ctrl_c_leaves_with_130_and_says_how_to_go_on(tmp_path: Path) -> None:
    script = (
        "import sys, time; from components.operations import plan\n"
        "def slow(*a, **k): print('planning', flush=True); time.sleep(60)\n"
        "plan.plan = slow\n"
        "from flows.__main__ import main; main(['run'])"
    )
    started = subprocess.Popen(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert started.stdout is not None
    assert started.stdout.readline() == "planning\n"
    time.sleep(0.2)
    started.send_signal(signal.SIGINT)
    _, err = started.communicate(timeout=30)
    assert (started.returncode, err) == (130, "\ninterrupted; the same command resumes where it was\n")


def test_a_reader_that_leaves_a_pipe_is_no_error(tmp_path: Path) -> None:
    command = f"{sys.executable} -m flows show settings | head -1"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
    assert done.stdout.startswith("root:")
    assert "Traceback" not in done.stderr
