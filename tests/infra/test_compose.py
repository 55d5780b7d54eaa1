"""infra/compose.yaml: by the schema of compose, by rules that no schema has, and what each rule catches in a spoilt copy of the file."""

import copy
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.operations.compose_lint import check_compose

Compose = dict[str, Any]
Spoil = Callable[[Compose], object]

SPOILT: dict[str, tuple[Spoil, str]] = {
    "a port on every interface": (lambda c: service(c, "mlflow", ports=["5000:5000"]), "beyond this machine"),
    "a port of IPv6": (lambda c: service(c, "prefect", ports=["[::]:4200:4200"]), "beyond this machine"),
    "the host's network": (lambda c: service(c, "objects", network_mode="host", networks=None), "shares the host's network"),
    "a password in the open": (lambda c: variable(c, "postgres", "POSTGRES_PASSWORD", "postgres"), "secret in `POSTGRES_PASSWORD`"),
    "a default password": (lambda c: variable(c, "postgres", "POSTGRES_PASSWORD", "${PG:-postgres}"), "secret in `POSTGRES_PASSWORD`"),
    "a password in an address": (lambda c: variable(c, "prefect", "URL", "postgresql://me:word@postgres/x"), "password in the address"),
    "a token in a variable": (lambda c: variable(c, "ray-worker", "RAY_AUTH_TOKEN", "abc"), "secret in `RAY_AUTH_TOKEN`"),
    "no healthcheck": (lambda c: c["services"]["objects"].pop("healthcheck"), "has no healthcheck"),
    "a healthcheck put off": (lambda c: service(c, "worker", healthcheck={"disable": True}), "has no healthcheck"),
    "no restart": (lambda c: c["services"]["prefect"].pop("restart"), "does not come back"),
    "telemetry": (lambda c: c["services"]["mlflow"]["environment"].pop("MLFLOW_DISABLE_TELEMETRY"), "phones home"),
    "telemetry said on": (lambda c: variable(c, "ray-head", "RAY_USAGE_STATS_ENABLED", "1"), "phones home"),
    "Ray with a way out": (lambda c: service(c, "ray-worker", networks=["data", "egress"]), "`ray-worker` has a way out"),
    "a data network with a way out": (lambda c: c["networks"]["data"].pop("internal"), "has a way out"),
    "a published network that masquerades": (lambda c: c["networks"]["published"].pop("driver_opts"), "`ray-head` has a way out"),
    "MLflow with a way out": (lambda c: c["services"]["mlflow"]["networks"].append("egress"), "`mlflow` has a way out"),
    "Ray beside the database": (lambda c: c["services"]["ray-worker"]["networks"].append("database"), "reaches the database"),
    "a network nobody declared": (lambda c: service(c, "worker", networks=["contrl"]), "not declared"),
    "waiting for nobody": (lambda c: c["services"]["worker"]["depends_on"].update(postgress={"condition": "service_healthy"}), "not there"),
    "not waiting for health": (lambda c: service(c, "mlflow", depends_on=["postgres"]), "until `postgres` is healthy"),
    "waiting for an end that never comes": (lambda c: c["services"]["setup"].update(restart="always"), "runs for ever"),
    "MLflow by a name it refuses": (lambda c: reword(c, "mlflow", "mlflow:5000,", ""), "refuses whoever asks for `mlflow:5000`"),
    "MLflow without hosts": (lambda c: drop(c, "mlflow", "--allowed-hosts"), "refuses whoever asks"),
    "MLflow without accounts": (lambda c: drop(c, "mlflow", "--app-name"), "lets anyone write the registry"),
    "Prefect without a password": (lambda c: unset(c, "prefect", "PREFECT_SERVER_API_AUTH_STRING_FILE"), "answers anyone"),
    "Prefect without CSRF": (lambda c: unset(c, "prefect", "PREFECT_SERVER_CSRF_PROTECTION_ENABLED"), "other sites' pages"),
    "the promoter on a Ray node": (
        lambda c: c["services"]["ray-worker"].update(secrets=["ray_auth_token", "mlflow_promoter_password"]),
        "promoter",
    ),
    "no promoter": (lambda c: c["services"]["worker"]["secrets"].remove("mlflow_promoter_password"), "mounted by nobody"),
    "Ray without its token": (lambda c: unset(c, "ray-head", "RAY_AUTH_MODE"), "without its token"),
    "a worker without Ray's token": (lambda c: unset(c, "worker", "RAY_AUTH_TOKEN_PATH"), "without its token"),
    "Ray's client": (lambda c: variable(c, "worker", "RAY_ADDRESS", "ray://ray-gcs:10001"), "Ray's client"),
    "work on the head": (lambda c: reword(c, "ray-head", "--num-cpus=0", "--num-cpus=4"), "work run on Ray's head"),
    "too little shared memory": (lambda c: service(c, "ray-worker", shm_size="64m"), "less shared memory"),
    "root": (lambda c: service(c, "worker", user="0:0"), "runs as root"),
    "the image's own user": (lambda c: c["services"]["postgres"].pop("user"), "runs as root"),
    "root on a network": (lambda c: service(c, "volumes", network_mode=None, networks=["data"]), "runs as root"),
    "capabilities": (lambda c: c["services"]["worker"].pop("cap_drop"), "keeps capabilities"),
    "capabilities added": (lambda c: service(c, "ray-worker", cap_add=["SYS_PTRACE"]), "adds capabilities"),
    "new privileges": (lambda c: c["services"]["prefect"].pop("security_opt"), "gain privileges"),
    "an image that can be written": (lambda c: service(c, "mlflow", read_only=False), "write its own image"),
    "no limits": (lambda c: c["services"]["ray-worker"]["deploy"].pop("resources"), "no limit"),
    "a log without end": (lambda c: service(c, "ray-worker", logging={"driver": "json-file"}), "fills the disk"),
    "the latest image": (lambda c: service(c, "postgres", image="postgres:latest"), "another one tomorrow"),
    "an image without a version": (lambda c: service(c, "objects", image="${OBJECTS_IMAGE:-chrislusf/seaweedfs}"), "another one tomorrow"),
    "a secret nobody declared": (lambda c: c["secrets"].pop("ray_auth_token"), "not declared"),
    "a secret nobody mounts": (lambda c: c["secrets"].update(spare={"file": "./secrets/spare"}), "nobody mounts"),
    "a secret from the environment": (lambda c: c["secrets"].update(s3_admin={"environment": "S3"}), "not a file below infra/secrets"),
    "a secret read and not mounted": (lambda c: c["services"]["mlflow"]["secrets"].remove("s3_mlflow"), "does not mount"),
    "Docker's socket": (lambda c: c["services"]["worker"]["volumes"].append("/var/run/docker.sock:/s"), "Docker's socket"),
    "a volume nobody declared": (lambda c: c["volumes"].pop("runs"), "`runs`, which is not declared"),
}


def service(compose: Compose, name: str, **given: Any) -> None:
    compose["services"][name] = {key: value for key, value in {**compose["services"][name], **given}.items() if value is not None}


def variable(compose: Compose, name: str, key: str, value: str) -> None:
    compose["services"][name]["environment"] = {**compose["services"][name]["environment"], key: value}


def unset(compose: Compose, name: str, key: str) -> None:
    compose["services"][name]["environment"] = {k: v for k, v in compose["services"][name]["environment"].items() if k != key}


def reword(compose: Compose, name: str, old: str, new: str) -> None:
    compose["services"][name]["command"] = [part.replace(old, new) for part in compose["services"][name]["command"]]


def drop(compose: Compose, name: str, start: str) -> None:
    compose["services"][name]["command"] = [part for part in compose["services"][name]["command"] if not part.startswith(start)]


@pytest.fixture(scope="module")
def text(repository: Path) -> str:
    return (repository / "infra" / "compose.yaml").read_text()


@pytest.fixture(scope="module")
def parsed(text: str) -> str:
    return json.dumps(yaml.safe_load(text))


@pytest.fixture
def compose(parsed: str) -> Compose:
    loaded: Compose = json.loads(parsed)  # anchors have become copies, so that one alone can be spoilt
    return loaded


def schema_says(path: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("check-jsonschema")), "--builtin-schema", "vendor.compose-spec", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_file_is_compose_by_its_schema(repository: Path) -> None:
    done = schema_says(repository / "infra" / "compose.yaml")
    assert done.returncode == 0, done.stdout


def test_the_schema_catches_a_misspelt_key(text: str, tmp_path: Path) -> None:
    spoilt = tmp_path / "compose.yaml"
    spoilt.write_text(text.replace("healthcheck:", "healthchek:", 1))
    assert schema_says(spoilt).returncode != 0


def test_the_file_keeps_the_rules_that_no_schema_has(compose: Compose) -> None:
    assert check_compose(compose) == []


@pytest.mark.parametrize("name", SPOILT)
def test_a_spoilt_copy_is_told_what_is_wrong(name: str, compose: Compose) -> None:
    spoil, said = SPOILT[name]
    before = copy.deepcopy(compose)
    spoil(compose)
    assert compose != before
    assert any(said in fault for fault in check_compose(compose)), check_compose(compose)


def test_a_required_variable_without_quotes_is_no_yaml(text: str) -> None:
    bare = re.sub(r'source: "(\$\{KINORA_FOOTAGE:\?[^"]*)"', r"source: \1", text)
    assert bare != text
    with pytest.raises(yaml.YAMLError):
        yaml.safe_load(bare)


def test_every_secret_of_the_file_is_made_by_the_script(repository: Path, compose: Compose, tmp_path: Path) -> None:
    run_make_secrets(repository, tmp_path)
    assert {entry["file"].removeprefix("./secrets/") for entry in compose["secrets"].values()} <= {
        path.name for path in (tmp_path / "secrets").iterdir()
    }


def test_secrets_are_for_their_owner_alone_stay_as_they_are_and_are_not_printed(repository: Path, tmp_path: Path) -> None:
    said = run_make_secrets(repository, tmp_path)
    made = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
    assert {oct(path.stat().st_mode & 0o777) for path in (tmp_path / "secrets").iterdir()} == {"0o600"}
    assert oct((tmp_path / "secrets").stat().st_mode & 0o777) == "0o700"
    (tmp_path / "secrets" / "ray_auth_token").unlink()
    said += run_make_secrets(repository, tmp_path)
    again = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
    assert {name for name in made if made[name] != again[name]} == {"ray_auth_token"}
    assert not [name for name, value in (made | again).items() for word in re.findall(r"[0-9a-f]{16,}", value) if word in said]


def test_what_belongs_together_holds_one_password(repository: Path, tmp_path: Path) -> None:
    run_make_secrets(repository, tmp_path)
    folder = tmp_path / "secrets"
    for name in ("prefect", "mlflow"):
        assert (
            f":{(folder / f'{name}_database_password').read_text()}@postgres:5432/{name}" in (folder / f"{name}_database_url").read_text()
        )
    identities = {entry["name"]: entry for entry in json.loads((folder / "s3_identities.json").read_text())["identities"]}
    for name, entry in identities.items():
        assert entry["credentials"][0]["secretKey"] in (folder / f"s3_{name}").read_text()
    assert all(":kinora" in action for action in identities["kinora"]["actions"])


def test_a_secret_that_others_can_read_is_refused(repository: Path, tmp_path: Path) -> None:
    run_make_secrets(repository, tmp_path)
    (tmp_path / "secrets" / "ray_auth_token").chmod(0o644)
    done = make_secrets(repository, tmp_path)
    assert done.returncode != 0
    assert "readable by others" in done.stderr


def make_secrets(repository: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        str(repository / "infra" / "make_secrets.py"),
        "--folder",
        str(folder / "secrets"),
        "--footage",
        str(folder / "f"),
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def run_make_secrets(repository: Path, folder: Path) -> str:
    done = make_secrets(repository, folder)
    assert done.returncode == 0, done.stderr
    return done.stdout
