"""An MLflow server with basic-auth, its users made as compose makes them: the trainer writes runs, the promoter alone the registry."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from components.registry.gates import Check, Verdict
from components.registry.models import RegistryRefusedError, find, list_versions, promote, register, rollback
from components.registry.tracking import Tracker, client_of
from components.store.project import Project
from tests.flows.serving import free_port, serving

PASSWORDS = {"admin": "of-the-admin-0123456789", "trainer": "of-the-trainer-0123456789", "promoter": "of-the-promoter-0123456789"}
YES = Verdict([Check("psnr", 30.0, 29.0, 22.0, True, "psnr: 30.000, needs 22.000")])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("auth")
    port = free_port()
    (folder / "auth.ini").write_text(
        "[mlflow]\ndefault_permission = READ\nadmin_username = admin\n"
        f"database_uri = sqlite:///{folder / 'auth.db'}\nadmin_password = {PASSWORDS['admin']}\n"
        "authorization_function = components.registry.authorize:authenticate\n"
    )
    command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder / 'm.db'}", "--artifacts-destination", str(folder / "files")]
    variables = {
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "of-the-tests",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    with serving(command, folder, variables, f"http://127.0.0.1:{port}/health"):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def act_as(server: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)

    def act(name: str) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", name)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORDS[name])

    return act


@pytest.fixture(scope="module")
def password_files(server: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The users, made by the command that compose runs; answers the files with their passwords."""
    folder = tmp_path_factory.mktemp("secrets")
    files = {name: folder / name for name in PASSWORDS}
    for name, path in files.items():
        path.write_text(PASSWORDS[name] + "\n")
        path.chmod(0o600)
    variables = {
        "MLFLOW_TRACKING_URI": server,
        "MLFLOW_TRACKING_USERNAME": "admin",
        "MLFLOW_TRACKING_PASSWORD": PASSWORDS["admin"],
        "MLFLOW_TRAINER_PASSWORD_FILE": str(files["trainer"]),
        "MLFLOW_PROMOTER_PASSWORD_FILE": str(files["promoter"]),
    }
    said = []
    for _ in range(2):
        command = [sys.executable, "-m", "components.registry.accounts"]
        done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    assert "user trainer" in said[0]
    assert "MANAGE on every registered_model for kinora-promoter" in said[0]
    assert said[1] == "all users and roles are there\n"
    assert not any(password in said[0] for password in PASSWORDS.values())
    return files


@pytest.mark.long
def test_the_promoter_alone_writes_the_registry(
    act_as: Callable[[str], None],
    password_files: dict[str, Path],
    project: Project,
    weights: Callable[[float], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mlflow.exceptions import MlflowException

    act_as("trainer")
    run = Tracker(project).run("train_vae", "k")
    run.log_params({"vae": {"steps": 3}})
    run.log_metrics([(1, {"loss": 1.0})])
    run.close()
    assert client_of(project).get_run(run.run_id).data.metrics == {"loss": 1.0}
    with pytest.raises(RegistryRefusedError, match=r"does not let `trainer` write the registry; hint: `KINORA_PROMOTER_USERNAME`"):
        register(project, "video-vae", weights(1.0), {}, {}, run_id=run.run_id)
    with pytest.raises(MlflowException, match="403"):
        client_of(project).create_registered_model(f"{project.name}-text-to-video")  # who makes one may manage it

    monkeypatch.setenv("KINORA_PROMOTER_USERNAME", "promoter")
    monkeypatch.setenv("KINORA_PROMOTER_PASSWORD_FILE", str(password_files["promoter"]))
    first = register(project, "video-vae", weights(1.0), {}, {}, run_id=run.run_id)
    promote(project, "video-vae", first, YES, None)
    second = register(project, "video-vae", weights(2.0), {}, {})
    promote(project, "video-vae", second, YES, find(project, "video-vae", "champion"))
    assert os.environ["MLFLOW_TRACKING_USERNAME"] == "trainer"

    monkeypatch.delenv("KINORA_PROMOTER_USERNAME")
    monkeypatch.delenv("KINORA_PROMOTER_PASSWORD_FILE")
    client = client_of(project)
    for write in (
        lambda: client.set_registered_model_alias(first.name, "champion", "1"),
        lambda: client.delete_registered_model_alias(first.name, "champion"),
        lambda: client.set_model_version_tag(first.name, "1", "verdict", "promote"),
        lambda: client.create_model_version(first.name, "models:/m-1"),
        lambda: client.delete_model_version(first.name, "1"),
        lambda: client.rename_registered_model(first.name, "mine"),
    ):
        with pytest.raises(MlflowException, match="403"):
            write()
    with pytest.raises(RegistryRefusedError):
        rollback(project, "video-vae")
    assert {alias: version.number for version in list_versions(project, "video-vae") for alias in version.aliases} == {
        "champion": 2,
        "previous-champion": 1,
    }


@pytest.mark.long
def test_a_wrong_password_is_one_sentence(act_as: Callable[[str], None], project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    act_as("trainer")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong")
    with pytest.raises(RegistryRefusedError, match="does not let `trainer` in; hint: `MLFLOW_TRACKING_USERNAME`"):
        list_versions(project, "video-vae")
