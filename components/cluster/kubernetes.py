"""A command as a RayJob of Kubernetes, on a Ray cluster of its own that goes when the job is done; spoken to by `kubectl`."""

import base64
import hashlib
import json
import os
import re
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from components.cluster.following import AwayError, Ended, Job, follow_by
from components.cluster.jobs_api import Listed
from components.cluster.session import REPOSITORY, RayUnavailableError

KLOG = re.compile(r"[EWI]\d{4} ")  # begins a line of kubectl's own log, beside what it says to a person
TEMPLATE = REPOSITORY / "infra" / "kuberay" / "rayjob.yaml"
NAMESPACE = "KINORA_KUBERNETES_NAMESPACE"
KUBECTL_SECONDS = 60.0
OVER = ("Complete", "Failed", "ValidationFailed")
GONE = "NotFound"
LAST_LOG_TRIES = 10  # of a job that is over; one whose pod never began has none to the end
NOTES = "kinora/"  # what the annotations of our RayJobs begin with


class KubernetesRefusedError(ValueError):
    """`kubectl` is missing, or Kubernetes does not take the job; the message says which and what to do."""


def job_name(name: str, stage: str) -> str:
    """Answers a name that Kubernetes and KubeRay take, 47 letters at most, for all tries of one piece of work."""
    return f"kinora-{stage.replace('_', '-')}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def submit(name: str, module: str, stage: str, spec: str, metadata: Mapping[str, str], template: Path = TEMPLATE) -> Job:
    """Creates the next try of `name`, or answers the try that still runs.

    Args:
        module: what `python -m` runs, with the stage and the spec; the spec goes in letters that no shell reads otherwise.
        metadata: becomes annotations of the RayJob.

    Raises:
        KubernetesRefusedError: there is no `kubectl`, no template, or the job is refused.
        RayUnavailableError: Kubernetes does not answer.
    """
    attempt = 1
    while True:
        job_id = f"{name}-{attempt}"
        found = _get(job_id)
        if found is None:
            command = f"python -m {module} {stage} {base64.urlsafe_b64encode(spec.encode()).decode()}"
            made = _kubectl("create", "--filename", "-", given=json.dumps(manifest(job_id, command, metadata, template)))
            if made.returncode and "AlreadyExists" in made.stderr:
                continue  # another flow was quicker
            if made.returncode:
                raise _explained(made.stderr)
            return Job(job_id, attached=False)
        if not _is_over(found):
            return Job(job_id, attached=True)
        attempt += 1


def manifest(job_id: str, command: str, metadata: Mapping[str, str], template: Path) -> dict[str, Any]:
    """Answers the RayJob of a template with a name, a command and annotations of its own.

    Raises:
        KubernetesRefusedError: the template is missing or is no RayJob.
    """
    try:
        job = yaml.safe_load(template.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise KubernetesRefusedError(
            f"`{template}` cannot be read ({_one_line(str(error))}); hint: it is the template of each RayJob"
        ) from error
    if not isinstance(job, dict) or job.get("kind") != "RayJob":
        raise KubernetesRefusedError(f"`{template}` is no RayJob; hint: start from the repository's infra/kuberay/rayjob.yaml")
    described = {key: value for key, value in (job.get("metadata") or {}).items() if key != "generateName"}
    notes = (described.get("annotations") or {}) | {f"{NOTES}{key}": value for key, value in metadata.items()}
    job["metadata"] = described | {"name": job_id, "annotations": notes}
    job["spec"] = job["spec"] | {"entrypoint": command}
    return job


def follow(job: Job, on_line: Callable[[str], None], watch: Callable[[], None]) -> Ended:
    """Follows a RayJob to its end by its state and the log of the pod that handed it over, which tails the driver's."""
    tries = LAST_LOG_TRIES

    def look() -> tuple[Ended | None, str]:
        nonlocal tries
        try:
            found = _get(job.id)
            log = _kubectl("logs", f"job/{job.id}", "--tail=-1")  # none before the pod is there
        except (RayUnavailableError, KubernetesRefusedError) as error:
            raise AwayError(_one_line(str(error))) from error
        if found is None:
            return Ended("STOPPED", "its RayJob was deleted"), ""
        if not _is_over(found):
            return None, log.stdout
        if log.returncode and GONE not in log.stderr and tries:  # its last line is what became of the stage
            tries -= 1
            raise AwayError(_one_line(log.stderr))
        status = found.get("status") or {}
        said = status.get("message") or status.get("reason") or ""
        return Ended(status.get("jobStatus") or "FAILED", said), log.stdout

    return follow_by(look, job.id, on_line, watch)


def stop(job_id: str) -> bool:
    """Deletes a RayJob and with it its cluster, and answers whether Kubernetes took that; one that is gone is left alone."""
    try:
        return _kubectl("delete", "rayjob", job_id, "--ignore-not-found", "--wait=false").returncode == 0
    except (RayUnavailableError, KubernetesRefusedError):
        return False


def jobs_of_ours() -> list[Listed]:
    """Answers all RayJobs that Kinora submitted.

    Raises:
        KubernetesRefusedError: there is no `kubectl`, or it may not list them.
        RayUnavailableError: Kubernetes does not answer.
    """
    done = _kubectl("get", "rayjobs", "--output", "json")
    if done.returncode:
        raise _explained(done.stderr)
    listed = []
    for found in json.loads(done.stdout)["items"]:
        notes = (found["metadata"].get("annotations") or {}).items()
        metadata = {key.removeprefix(NOTES): value for key, value in notes if key.startswith(NOTES)}
        if metadata:
            listed.append(Listed(found["metadata"]["name"], not _is_over(found), metadata))
    return listed


def _get(job_id: str) -> dict[str, Any] | None:
    done = _kubectl("get", "rayjob", job_id, "--output", "json")
    if done.returncode == 0:
        found: dict[str, Any] = json.loads(done.stdout)
        return found
    if GONE in done.stderr:
        return None
    raise _explained(done.stderr)


def _is_over(found: Mapping[str, Any]) -> bool:
    return (found.get("status") or {}).get("jobDeploymentStatus") in OVER


def _kubectl(*arguments: str, given: str | None = None) -> "subprocess.CompletedProcess[str]":
    command = ["kubectl", "--namespace", os.environ.get(NAMESPACE, "kinora"), *arguments]
    try:
        return subprocess.run(command, input=given, capture_output=True, text=True, timeout=KUBECTL_SECONDS, check=False)
    except FileNotFoundError as error:
        raise KubernetesRefusedError("there is no `kubectl` on the PATH; hint: install it, or `--set cluster.stages_in=job`") from error
    except subprocess.TimeoutExpired as error:
        raise RayUnavailableError(
            "Kubernetes did not answer within a minute; hint: `kubectl cluster-info` says where it is looked for"
        ) from error


def _explained(said: str) -> Exception:
    line = _one_line("\n".join(line for line in said.splitlines() if not KLOG.match(line)) or said)
    if any(word in line.lower() for word in ("refused", "unable to connect", "timeout", "timed out", "no such host")):
        return RayUnavailableError(f"Kubernetes does not answer ({line}); hint: `kubectl cluster-info` says where it is looked for")
    return KubernetesRefusedError(
        f"Kubernetes does not take the job ({line}); hint: `kubectl auth can-i create rayjobs`, and infra/README.md"
    )


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]
