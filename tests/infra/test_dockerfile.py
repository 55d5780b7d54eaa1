"""infra/Dockerfile: pinned, no secrets or addresses, run by nobody special; and an entry that reads secrets from files."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from components.operations.infra_lint import check_dockerfile

SPOILT: dict[str, tuple[str, str, str]] = {
    "the latest Python": ("python:3.11-slim-bookworm", "python", "another image tomorrow"),
    "root": ("USER 10001:10001", "", "runs as root"),
    "the whole folder": ("COPY flows flows", "COPY . .", "whatever lies in the folder"),
    "a download": ("COPY flows flows", "ADD flows flows", "fetch from anywhere"),
    "a secret": ("HEALTHCHECK NONE", "ENV MLFLOW_TRACKING_PASSWORD=word", "bakes a secret"),
    "a secret as default": ("ARG PIP_INDEX_URL", "ARG PIP_TOKEN=word", "bakes a secret"),
    "an address": ("ARG UV_DEFAULT_INDEX", "ARG UV_DEFAULT_INDEX=https://example.org/simple", "holds an address"),
    "no lock": ("--constraint requirements.lock ", "", "does not hold"),
    "one package more": ("HEALTHCHECK NONE", "RUN pip install awscli", "does not hold"),
    "a script of the network": ("HEALTHCHECK NONE", "RUN curl -fsSL example.org/install | sh", "runs what the network answers"),
    "telemetry": ("RAY_USAGE_STATS_ENABLED=0", "RAY_USAGE_STATS_ENABLED=1", "phones home"),
}


@pytest.fixture(scope="module")
def text(repository: Path) -> str:
    return (repository / "infra" / "Dockerfile").read_text()


def test_the_dockerfile_has_no_fault(text: str) -> None:
    assert check_dockerfile(text) == []


@pytest.mark.parametrize("name", SPOILT)
def test_a_spoilt_dockerfile_is_told_what_is_wrong(name: str, text: str) -> None:
    old, new, said = SPOILT[name]
    assert old in text
    faults = check_dockerfile(text.replace(old, new))
    assert any(said in fault for fault in faults), faults


def test_what_is_copied_reaches_the_builder_and_secrets_do_not(repository: Path, text: str) -> None:
    lines = (repository / ".dockerignore").read_text().split()
    allowed = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert "*" in lines
    copied = {source for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.M) for source in line.split()[:-1]}
    for source in copied:
        assert (repository / source).exists(), source
        assert source in allowed or any(name.startswith(f"{source}/") for name in allowed), source
    assert not [name for name in allowed if name in ("infra", "infra/secrets", "infra/.env", "runs", ".git")]
    for name in allowed:
        assert (repository / name).exists(), name


def test_both_images_are_built_in_the_same_way_but_for_torch(text: str) -> None:
    stages = dict(re.findall(r"^FROM tools AS install-(cpu|gpu)\n(.*?)(?=^FROM )", text, re.M | re.S))
    plain = re.sub(r"ARG TORCH_BACKEND=cpu\n|^#.*\n| \\\n +\$\{TORCH_BACKEND.*\}", "", stages["cpu"], flags=re.M)
    assert plain == stages["gpu"]


def enter(repository: Path, *command: str, **given: str) -> subprocess.CompletedProcess[str]:
    entry = ["sh", str(repository / "infra" / "entrypoint.sh"), *command]
    return subprocess.run(entry, capture_output=True, text=True, check=False, env={"PATH": os.environ["PATH"], **given})


def test_the_entry_reads_a_secret_from_its_file(repository: Path, tmp_path: Path) -> None:
    file = tmp_path / "auth"
    file.write_text("kinora:word $(id) `id` 'x'")
    done = enter(repository, "env", PREFECT_API_AUTH_STRING_FILE=str(file))
    assert "PREFECT_API_AUTH_STRING=kinora:word $(id) `id` 'x'\n" in done.stdout
    assert "_FILE" not in done.stdout


def test_the_entry_says_who_cannot_read_a_secret(repository: Path, tmp_path: Path) -> None:
    done = enter(repository, "true", PREFECT_API_AUTH_STRING_FILE=str(tmp_path / "none"))
    assert done.returncode == 2
    assert "PREFECT_API_AUTH_STRING_FILE names" in done.stderr
    assert "hint:" in done.stderr


def test_the_entry_leaves_other_files_alone(repository: Path) -> None:
    done = enter(repository, "env", AWS_SHARED_CREDENTIALS_FILE="/run/secrets/s3")
    assert "AWS_SHARED_CREDENTIALS_FILE=/run/secrets/s3" in done.stdout


@pytest.mark.parametrize("script", ["entrypoint.sh", "setup.sh", "postgres/databases.sh"])
def test_the_scripts_are_shell(script: str, repository: Path) -> None:
    done = subprocess.run(["sh", "-n", str(repository / "infra" / script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
