"""What the doctor says of programs that only some ways of running need: Docker for the servers of `infra`, kubectl for Kubernetes."""

import os
import shutil
import subprocess
from collections.abc import Iterator

from components.operations.check import Check
from components.sections import Config

ANSWER_SECONDS = 10


def tools(config: Config) -> Iterator[Check]:
    """Looks for Docker with its compose, which nothing but `infra/compose.yaml` needs, and for kubectl where stages run by it."""
    yield _docker()
    if config.cluster.stages_in == "kubernetes":
        yield _kubectl()


def _docker() -> Check:
    if shutil.which("docker") is None:
        return Check("docker", "ok", "not here; only the servers of `infra/compose.yaml` need it, `kinora up` starts them without")
    for command, lacks, hint in (
        (["docker", "compose", "version"], "it has no `compose`", "install Docker's compose plugin"),
        (["docker", "info"], "its daemon does not answer", "start the daemon, or join the group `docker`"),
    ):
        if not _runs(command):
            return Check("docker", "warn", lacks, f"{hint}; `kinora up` starts the servers without Docker")
    return Check("docker", "ok", "its daemon answers, with compose")


def _kubectl() -> Check:
    if shutil.which("kubectl") is None:
        return Check(
            "kubectl", "fail", "not here, and `cluster.stages_in` is kubernetes", "install kubectl, or `--set cluster.stages_in=job`"
        )
    if not _runs(["kubectl", "get", "rayjobs", "--namespace", os.environ.get("KINORA_KUBERNETES_NAMESPACE", "kinora")]):
        return Check(
            "kubectl", "fail", "it cannot list RayJobs", "`kubectl get rayjobs` says why: an address, a right, or KubeRay is missing"
        )
    return Check("kubectl", "ok", "it lists RayJobs")


def _runs(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=ANSWER_SECONDS, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
