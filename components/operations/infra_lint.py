"""Checks the files of infra/ without Docker or Kubernetes: compose.yaml, the manifests, the Dockerfile; one sentence a fault."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from components.operations.compose_lint import check_compose
from components.operations.kubernetes_lint import check_manifest
from components.store.telemetry import TELEMETRY_OFF

INFRA = Path(__file__).resolve().parent.parent.parent / "infra"
APART = ("rayjob.yaml", "kustomization.yaml")  # a template, and the list itself


def check_infra(folder: Path = INFRA) -> list[str]:
    """Answers every fault of the files in `infra`, each with the file's name in front; nothing when all is well."""
    faults = [f"compose.yaml: {fault}" for document in _documents(folder / "compose.yaml") for fault in check_compose(document)]
    faults += [f"Dockerfile: {fault}" for fault in check_dockerfile((folder / "Dockerfile").read_text())]
    ray = ray_version(folder.parent / "requirements.lock")
    for path in sorted((folder / "kuberay").glob("*.yaml")):
        faults += [f"kuberay/{path.name}: {fault}" for document in _documents(path) for fault in check_manifest(document, ray)]
    return faults + [f"kuberay/{fault}" for fault in check_kustomization(folder / "kuberay")]


def ray_version(lock: Path) -> str | None:
    """Answers the version of Ray that the image gets."""
    found = re.search(r"^ray==(\S+)", lock.read_text(), re.M) if lock.is_file() else None
    return found[1] if found else None


def check_dockerfile(text: str) -> list[str]:
    """Answers what is wrong with a Dockerfile: tags, root, secrets, addresses, versions that the lock does not hold."""
    return list(_dockerfile(text))


def _dockerfile(text: str) -> Iterator[str]:
    lines = _instructions(text)
    arguments = dict(line.partition("=")[::2] for word, line in lines if word == "ARG" and "=" in line)
    stages: set[str] = set()
    users: dict[str, str] = {}
    stage = ""
    for word, line in lines:
        if word == "FROM":
            image, _, name = line.partition(" AS ")
            image = re.sub(r"\$\{?(\w+)\}?", lambda found: arguments.get(found[1], ""), image)
            tag = image.partition("@")[2] or image.rpartition("/")[2].partition(":")[2]
            if image not in stages and (not tag or tag == "latest"):
                yield f"`FROM {image}` is another image tomorrow; hint: name its version"
            stage = name or image
            users[stage] = users.get(image, "root")
            stages.add(stage)
        elif word == "USER":
            users[stage] = line
        elif word == "ADD":
            yield f"`ADD {line}` may fetch from anywhere; hint: COPY"
        elif word == "COPY" and "--from" not in line and {".", "./", "..", "../"} & set(line.split()[:-1]):
            yield f"`COPY {line}` takes whatever lies in the folder; hint: name what is needed"
        elif word in ("ARG", "ENV") and re.search(r"(PASSWORD|SECRET|TOKEN|KEY)\w*=\S", line):
            yield f"`{word} {line}` bakes a secret into the image; hint: a file at run time"
        elif word == "RUN" and re.search(r"(curl|wget)[^|&]*\|\s*(ba)?sh", line):
            yield f"`RUN {line[:60]}` runs what the network answers; hint: a package of a pinned version"
        elif word == "RUN" and re.search(r"pip install", line):
            pinned = (
                "requirements.lock" in line
                or re.search(r"--no-deps (--editable )?\.", line)
                or re.search(r"pip install( --\S+)* \S+==\S+$", line)
            )
            if not pinned:
                yield f"`RUN {line[:60]}` installs what the lock does not hold; hint: --constraint requirements.lock"
        if re.search(r"https?://", line):
            yield f"`{word} {line[:60]}` holds an address; hint: a build argument without a default"
    last = list(users)[-1:]
    for name in {*last, *(name for name in users if name in ("cpu", "gpu"))}:
        if users[name].split(":")[0] in ("root", "0"):
            yield f"the image `{name}` runs as root; hint: USER 10001:10001"
    for name, value in TELEMETRY_OFF.items():
        if f"{name}={value}" not in text:
            yield f"the image phones home; hint: ENV {name}={value}"


def _instructions(text: str) -> list[tuple[str, str]]:
    """Reads a Dockerfile as (instruction, the rest on one line)."""
    joined = re.sub(r"\\\n", " ", "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#")))
    pairs = (line.strip().partition(" ") for line in joined.splitlines() if line.strip())
    return [(word.upper(), " ".join(rest.split())) for word, _, rest in pairs]


def check_kustomization(folder: Path) -> list[str]:
    """Answers which manifests are listed and missing, or there and not listed."""
    listed = {name for document in _documents(folder / "kustomization.yaml") for name in document.get("resources") or []}
    there = {path.name for path in folder.glob("*.yaml")} - set(APART)
    return [
        *(f"kustomization.yaml lists `{name}`, which is not there" for name in sorted(listed - there)),
        *(f"`{name}` is not in kustomization.yaml, so it is never applied" for name in sorted(there - listed)),
    ]


def _documents(path: Path) -> list[dict[str, Any]]:
    """Reads the documents of a YAML file.

    Raises:
        ValueError: the file is not there, or not YAML.
    """
    try:
        return [document for document in yaml.safe_load_all(path.read_text()) if document]
    except yaml.YAMLError as error:
        raise ValueError(f"`{path}` is not YAML: {' '.join(str(error).split())}; hint: `${{VARIABLE:?...}}` stands in quotes") from error
    except FileNotFoundError as error:
        raise ValueError(f"`{path}` is not there; hint: run this in a checkout of Kinora") from error


if __name__ == "__main__":
    found = check_infra(*map(Path, sys.argv[1:2]))
    print("\n".join(found))
    sys.exit(1 if found else 0)
