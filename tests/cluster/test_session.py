import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import psutil
import pytest

from components.cluster import folders, session
from components.cluster.jobs_api import open_client
from components.cluster.session import RayUnavailableError, ray_session, start_ray, stop_ray, token_file
from components.store.servers import process_started
from tests.cluster.conftest import SECRET, SETTINGS
from tests.cluster.faltering import faltering_head


def where_ray_lives() -> Path:
    import ray

    return Path(ray._private.worker._global_node.temp_dir)


def test_a_second_session_shares_the_first(ray: Path, tmp_path: Path):
    import ray as library

    address = library.get_runtime_context().gcs_address
    with ray_session(SETTINGS, tmp_path):
        assert library.get_runtime_context().gcs_address == address
    assert library.is_initialized()
    start_ray(SETTINGS, tmp_path)
    stop_ray()
    assert library.is_initialized()


def test_a_session_outlives_the_thread_that_asked_for_it(ray: Path):
    """Ray's processes die with the thread that started them; the first thread to ask may be a short one."""
    import ray as library

    thread = threading.Thread(target=start_ray, args=(SETTINGS, ray))
    thread.start()
    thread.join()
    assert library.get(library.put(1)) == 1
    stop_ray()
    assert library.is_initialized()


def test_the_token_is_for_its_owner_alone_and_stays(ray: Path, tmp_path: Path):
    assert stat.S_IMODE((ray / "ray" / "token").stat().st_mode) == 0o600
    first = token_file(tmp_path).read_text()
    assert len(first) == 64
    (tmp_path / "ray" / "token").chmod(0o644)
    assert token_file(tmp_path).read_text() == first
    assert stat.S_IMODE(token_file(tmp_path).stat().st_mode) == 0o600


def test_the_temporary_folder_is_short_and_ray_asks_for_the_token(ray: Path):
    """Ray's services listen on all interfaces; who has no token gets no answer."""
    assert len(str(where_ray_lives())) < folders.LONGEST_TEMP
    import ray as library

    address = library.get_runtime_context().gcs_address
    stranger = f"import ray, logging; ray.init(address={address!r}, logging_level=logging.CRITICAL); print('in')"
    wrong = ray / "wrong"
    wrong.write_text("0" * 64)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_AUTH")}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(wrong), "RAY_gcs_rpc_server_connect_timeout_s": "1"}
    done = subprocess.run([sys.executable, "-c", stranger], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "in" not in done.stdout.split()

    ours = "import sys; from components.cluster.session import ray_session\nwith ray_session(None, sys.argv[1]): print('in')"
    environment |= {"RAY_ADDRESS": address, "PYTHONPATH": str(session.REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", ours, str(ray)], env=environment, capture_output=True, text=True, timeout=120)
    assert "does not take this token; hint: name the file" in done.stderr
    assert "Unauthenticated" not in done.stderr.partition("Traceback")[0]  # Ray's own lines, one a second
    assert done.stdout == ""


def test_workers_do_not_see_the_secrets_of_the_driver(ray: Path):
    import ray as library

    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == SECRET
    seen = library.get(library.remote(lambda: dict(os.environ)).options(num_cpus=0).remote())
    assert SECRET not in seen.values()
    assert (ray / "ray" / "token").read_text() not in seen.values()


def test_a_client_of_the_jobs_api_leaves_a_driver_its_token(ray: Path, monkeypatch: pytest.MonkeyPatch):
    import ray as library

    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name)
    with faltering_head() as address:
        open_client(address)
    assert library.cluster_resources()["CPU"] == 2  # else the head sends this process away, and Ray ends it
    assert library.get(library.remote(lambda: 3).options(num_cpus=0).remote()) == 3


def test_folders_of_dead_processes_are_cleared_and_those_of_living_ones_stay(monkeypatch: pytest.MonkeyPatch):
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="k") as place:
        monkeypatch.setattr(tempfile, "tempdir", place)
        dead = subprocess.Popen([sys.executable, "-c", "pass"])
        dead.wait()
        mine = {"pid": os.getpid(), "started": psutil.Process().create_time()}
        owners = {"kin-dead": {"pid": dead.pid, "started": 1.0}, "kin-reused": mine | {"started": 1.0}, "kin-mine": mine, "kin-other": None}
        owners["kin-mine-by-a-clock-that-was-set"] = mine | {"started": mine["started"] - 2.0}
        for name, owner in owners.items():
            (Path(place) / name / "logs").mkdir(parents=True)
            if owner:
                (Path(place) / name / "owner.json").write_text(json.dumps(owner))
        new = session._new_folder()
        assert {path.name for path in Path(place).iterdir()} == {"kin-mine", "kin-mine-by-a-clock-that-was-set", "kin-other", new.name}


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:9", r"no Ray answers at RAY_ADDRESS `127.0.0.1:9` \(.*\); hint: unset RAY_ADDRESS"),
        ("ray://127.0.0.1:10001", r"hint: .* or give the head's own address"),
        ("http://127.0.0.1:8265", r"hint: `--set cluster.stages_in=job`"),
    ],
)
def test_a_cluster_that_does_not_answer_is_one_sentence(monkeypatch: pytest.MonkeyPatch, address: str, said: str):
    with pytest.raises(RayUnavailableError, match=said):
        session._check_address(address)


ALONE = """
import os, sys, time
from pathlib import Path
from types import SimpleNamespace
from components.cluster.session import ray_session
from components.cluster.rows import map_batches
from tests.cluster.stages import Double

with ray_session(SimpleNamespace(cluster=SimpleNamespace(num_cpus=2, object_store_bytes=128 * 2**20)), Path(sys.argv[1])):
    import ray
    print(ray._private.worker._global_node.temp_dir, flush=True)
    for _, result in map_batches(Double, (2, sys.argv[1]), [{"value": 1}, {"value": 2}], num_actors=1, cpus_per_actor=1):
        print(result["pid"], flush=True)
    if sys.argv[2] == "stay":
        time.sleep(600)
"""


def processes_of(folder: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if folder in " ".join(process.cmdline()):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


@pytest.mark.slow
def test_a_session_that_ends_leaves_no_process_no_folder_and_no_word(tmp_path: Path, repository: Path):
    (tmp_path / "home").mkdir()
    environment = os.environ | {"HOME": str(tmp_path / "home"), "PYTHONPATH": str(repository)}
    done = subprocess.run([sys.executable, "-c", ALONE, str(tmp_path), "go"], env=environment, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    folder, pid, _ = done.stdout.split()
    assert not Path(folder).exists()
    assert processes_of(folder) == []
    assert process_started(int(pid)) is None
    assert list((tmp_path / "home").iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "ray"]


@pytest.mark.long
def test_a_killed_driver_takes_ray_along(tmp_path: Path, repository: Path):
    environment = os.environ | {"PYTHONPATH": str(repository)}
    driver = subprocess.Popen([sys.executable, "-c", ALONE, str(tmp_path), "stay"], env=environment, stdout=subprocess.PIPE, text=True)
    folder, pid = Path(driver.stdout.readline().strip()), int(driver.stdout.readline())
    family = psutil.Process(driver.pid).children(recursive=True)
    assert pid in {process.pid for process in family}
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    _, alive = psutil.wait_procs(family, timeout=30)
    assert {process.name() for process in alive} <= {"ray::DashboardAgent", "ray::RuntimeEnvAgent"}  # they try for a minute to say why
    _, alive = psutil.wait_procs(alive, timeout=150)
    assert alive == []
    assert processes_of(str(folder)) == []
    assert folder.exists()
    assert folders.is_abandoned(folder)
    folders.remove_folder(folder)
