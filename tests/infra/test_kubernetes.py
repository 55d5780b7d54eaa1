"""infra/kuberay: by Kubernetes' own schemas, by the rules of KubeRay's operator, and what each rule catches in a spoilt copy."""

import copy
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from components.operations.infra_lint import check_infra, check_kustomization, ray_version
from components.operations.kubernetes_lint import check_manifest, pods

Manifest = dict[str, Any]
Spoil = Callable[[Manifest], object]
FOLDER = Path(__file__).resolve().parent.parent.parent / "infra" / "kuberay"
NEWEST = "1.37"
RAYS = ("RayCluster", "RayJob")

CLUSTER_SPOILT: dict[str, tuple[Spoil, str]] = {
    "a misspelt field": (lambda c: c["spec"].update(workerGroupSpec=c["spec"].pop("workerGroupSpecs")), "did you mean `workerGroupSpecs`?"),
    "a misspelt field of a group": (lambda c: group(c).update(maxReplica=group(c).pop("maxReplicas")), "did you mean `maxReplicas`?"),
    "no maxReplicas": (lambda c: group(c).pop("maxReplicas"), "has no maxReplicas"),
    "replicas out of order": (lambda c: group(c).update(replicas=9), "are not in order"),
    "two groups of one name": (lambda c: group(c, 1).update(groupName="cpu"), "one name"),
    "no token": (lambda c: c["spec"].pop("authOptions"), "anyone who reaches it"),
    "a token and no version": (lambda c: c["spec"].pop("rayVersion"), "needs rayVersion"),
    "a token before its time": (lambda c: c["spec"].update(rayVersion="2.51.1"), "needs rayVersion"),
    "another version than the image": (lambda c: c["spec"].update(rayVersion="2.59.0"), "one version everywhere"),
    "two kinds of token": (lambda c: c["spec"]["authOptions"].update(enableK8sTokenAuth=True), "exclude each other"),
    "work on the head": (lambda c: c["spec"]["headGroupSpec"].update(rayStartParams={}), "may run on the head"),
    "a number that is no text": (lambda c: group(c).update(rayStartParams={"num-cpus": 8}), "are text"),
    "fault tolerance twice": (lambda c: c["spec"].update(gcsFaultToleranceOptions={}) or annotate(c, "ray.io/ft-enabled"), "ft-enabled"),
    "Redis beside its field": (lambda c: c["spec"].update(gcsFaultToleranceOptions={}) or env(head(c), "REDIS_PASSWORD"), "REDIS_PASSWORD"),
    "Redis without its field": (lambda c: env(head(c), "RAY_REDIS_ADDRESS"), "needs gcsFaultToleranceOptions"),
    "a suspended group that scales": (lambda c: group(c).update(suspend=True), "cannot be suspended"),
    "a restart under autoscaler v2": (lambda c: spec(c).update(restartPolicy="Always"), "Never"),
    "autoscaler v2 twice": (lambda c: env(head(c), "RAY_enable_autoscaler_v2", "1"), "twice"),
    "a gated network policy": (lambda c: c["spec"].update(networkPolicy={"mode": "DenyAll"}), "RayClusterNetworkPolicy"),
    "resources twice": (lambda c: group(c).update(rayStartParams={"num-cpus": "1"}, resources={"CPU": "1"}), "resources twice"),
    "a name too long": (lambda c: c["metadata"].update(name="k" * 54), "at most 53"),
    "a capital in the name": (lambda c: c["metadata"].update(name="Kinora"), "at most 53"),
    "a token that jobs see": (lambda c: worker(c).pop("env"), "shows its token to every job"),
    "little shared memory": (lambda c: unmount(worker(c), "/dev/shm"), "64 MB of shared memory"),
    "shared memory alone": (lambda c: volume(c, "shared-mem", {"medium": "Memory", "sizeLimit": "24Gi"}), "no memory beside"),
    "spilling into the image": (lambda c: unmount(worker(c), "/tmp/ray"), "spills objects"),
    "spilling over the node": (lambda c: volume(c, "ray-logs", {}), "may fill the node"),
    "no time to save": (lambda c: spec(c).update(terminationGracePeriodSeconds=30), "seconds to save"),
    "root": (lambda c: spec(c)["securityContext"].pop("runAsNonRoot"), "may run as root"),
    "no seccomp": (lambda c: spec(c)["securityContext"].pop("seccompProfile"), "without seccomp"),
    "privileges": (lambda c: worker(c)["securityContext"].update(capabilities={}), "keeps privileges"),
    "an image that can be written": (lambda c: worker(c)["securityContext"].pop("readOnlyRootFilesystem"), "may write its own image"),
    "the latest image": (lambda c: worker(c).update(image="kinora"), "another one tomorrow"),
    "no readiness probe": (lambda c: worker(c).pop("readinessProbe"), "no readinessProbe"),
    "no liveness probe": (lambda c: head(c).pop("livenessProbe"), "no livenessProbe"),
    "no resources": (lambda c: worker(c).pop("resources"), "says not what it needs"),
    "a secret in the open": (lambda c: env(worker(c), "MLFLOW_TRACKING_PASSWORD", "word"), "secret in `MLFLOW_TRACKING_PASSWORD`"),
    "a secret for all": (lambda c: secret(c, "s3").update(defaultMode=0o644), "others may read"),
    "the promoter on a node": (lambda c: secret(c, "mlflow").update(secretName="kinora-mlflow-promoter"), "reach Ray's jobs"),
    "a volume that is not there": (lambda c: spec(c)["volumes"].pop(0), "which the pod does not have"),
    "a folder of the node": (lambda c: spec(c)["volumes"].append({"name": "h", "hostPath": {"path": "/"}}), "folder of the node"),
    "a GPU out of reach": (lambda c: spec(c, 1).pop("tolerations"), "never lands beside one"),
    "GPUs by halves": (lambda c: worker(c, 1)["resources"]["requests"].update({"nvidia.com/gpu": "2"}), "differ from limits"),
}
JOB_SPOILT: dict[str, tuple[Spoil, str]] = {
    "nothing to run": (lambda j: j["spec"].pop("entrypoint"), "no entrypoint"),
    "no cluster": (lambda j: j["spec"].pop("rayClusterSpec"), "one of rayClusterSpec and clusterSelector"),
    "two clusters": (lambda j: j["spec"].update(clusterSelector={"ray.io/cluster": "kinora"}), "one of rayClusterSpec and clusterSelector"),
    "a cluster that stays": (lambda j: j["spec"].update(shutdownAfterJobFinishes=False), "stay and cost"),
    "a time to live without an end": (lambda j: j["spec"].update(shutdownAfterJobFinishes=False), "ttlSecondsAfterFinished needs"),
    "suspended without an end": (lambda j: j["spec"].update(suspend=True, shutdownAfterJobFinishes=False), "suspend needs"),
    "deletion rules beside it": (lambda j: j["spec"].update(deletionStrategy={"deletionRules": [{}]}), "deletionRules"),
    "tokens of Kubernetes": (lambda j: cluster(j).update(authOptions={"mode": "token", "enableK8sTokenAuth": True}), "cannot use tokens"),
    "an unknown mode": (lambda j: j["spec"].update(submissionMode="K8Job"), "is not a submissionMode"),
    "a sidecar with a submitter": (lambda j: j["spec"].update(submissionMode="SidecarMode"), "no submitter of its own"),
    "retries of an interactive job": (lambda j: j["spec"].update(submissionMode="InteractiveMode", backoffLimit=1), "InteractiveMode"),
    "no deadline at all": (lambda j: j["spec"].update(preRunningDeadlineSeconds=0), "above 0"),
    "too many groups": (lambda j: cluster(j).update(workerGroupSpecs=cluster(j)["workerGroupSpecs"] * 9), "Kueue"),
    "a name too long": (lambda j: j["metadata"].update(name="j" * 48), "at most 47"),
    "a privileged submitter": (lambda j: submitter(j).pop("securityContext"), "keeps privileges"),
    "no token in its cluster": (lambda j: cluster(j).pop("authOptions"), "anyone who reaches it"),
}


def cluster(manifest: Manifest) -> Manifest:
    found: Manifest = manifest["spec"].get("rayClusterSpec") or manifest["spec"]
    return found


def group(manifest: Manifest, number: int = 0) -> Manifest:
    found: Manifest = cluster(manifest)["workerGroupSpecs"][number]
    return found


def spec(manifest: Manifest, number: int = 0) -> Manifest:
    found: Manifest = group(manifest, number)["template"]["spec"]
    return found


def worker(manifest: Manifest, number: int = 0) -> Manifest:
    found: Manifest = spec(manifest, number)["containers"][0]
    return found


def head(manifest: Manifest) -> Manifest:
    found: Manifest = cluster(manifest)["headGroupSpec"]["template"]["spec"]["containers"][0]
    return found


def submitter(manifest: Manifest) -> Manifest:
    found: Manifest = manifest["spec"]["submitterPodTemplate"]["spec"]["containers"][0]
    return found


def secret(manifest: Manifest, name: str) -> Manifest:
    found: Manifest = next(volume["secret"] for volume in spec(manifest)["volumes"] if volume["name"] == name)
    return found


def volume(manifest: Manifest, name: str, empty: Manifest) -> None:
    next(volume for volume in spec(manifest)["volumes"] if volume["name"] == name)["emptyDir"] = empty


def env(container: Manifest, name: str, value: str = "there") -> None:
    container.setdefault("env", []).append({"name": name, "value": value})


def unmount(container: Manifest, path: str) -> None:
    container["volumeMounts"] = [mount for mount in container["volumeMounts"] if mount["mountPath"] != path]


def annotate(manifest: Manifest, name: str) -> None:
    manifest["metadata"]["annotations"] = {name: "true"}


def load(name: str) -> list[Manifest]:
    """Anchors become copies, so that one place alone can be spoilt."""
    documents: list[Manifest] = json.loads(parsed(name))
    return documents


@cache
def parsed(name: str) -> str:
    return json.dumps(list(yaml.safe_load_all((FOLDER / name).read_text())))


MANIFESTS = [
    (path.name, document) for path in sorted(FOLDER.glob("*.yaml")) if path.name != "kustomization.yaml" for document in load(path.name)
]


def as_deployment(pod: Manifest) -> Manifest:
    """Puts a pod's spec where Kubernetes' own schema looks at it."""
    template = {"metadata": {"labels": {"app": "x"}}, "spec": {**pod, "restartPolicy": "Always"}}
    body = {"selector": {"matchLabels": {"app": "x"}}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x"}, "spec": body}


@pytest.mark.parametrize(
    ("file", "document"), MANIFESTS, ids=[f"{name}-{found['kind']}-{place}" for place, (name, found) in enumerate(MANIFESTS)]
)
def test_a_manifest_is_what_kubernetes_takes(file: str, document: Manifest) -> None:
    if document["kind"] not in RAYS:
        kubernetes_validate.validate(document, NEWEST, strict=True)
    for _, pod, _ in pods(document):
        kubernetes_validate.validate(as_deployment(pod), NEWEST, strict=True)
    assert check_manifest(document, ray_version(FOLDER.parent.parent / "requirements.lock")) == []


def test_kubernetes_schema_catches_a_misspelt_probe() -> None:
    spoilt = load("raycluster.yaml")[0]
    worker(spoilt)["livenesProbe"] = worker(spoilt).pop("livenessProbe")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(as_deployment(spec(spoilt)), NEWEST, strict=True)


@pytest.mark.parametrize("name", CLUSTER_SPOILT)
def test_a_spoilt_cluster_is_told_what_is_wrong(name: str) -> None:
    said(load("raycluster.yaml")[0], *CLUSTER_SPOILT[name])


@pytest.mark.parametrize("name", JOB_SPOILT)
def test_a_spoilt_job_is_told_what_is_wrong(name: str) -> None:
    said(load("rayjob.yaml")[0], *JOB_SPOILT[name])


def test_a_privileged_container_before_the_others_is_told() -> None:
    spoilt = next(document for document in load("worker.yaml") if document["kind"] == "Deployment")
    spoilt["spec"]["template"]["spec"]["initContainers"][0].pop("securityContext")
    assert any("`kubectl` keeps privileges" in fault for fault in check_manifest(spoilt))


def test_ray_nodes_are_not_told_of_a_prefect_that_they_cannot_reach() -> None:
    spoil = lambda document: document["data"].update(PREFECT_API_URL="http://prefect:4200/api")  # noqa: E731
    said(load("settings.yaml")[0], spoil, "for the worker alone")


def said(manifest: Manifest, spoil: Spoil, sentence: str) -> None:
    before = copy.deepcopy(manifest)
    spoil(manifest)
    assert manifest != before
    faults = check_manifest(manifest, "2.60.0")
    assert any(sentence in fault for fault in faults), faults


def test_the_job_runs_on_the_pods_of_the_standing_cluster() -> None:
    standing, ephemeral = load("raycluster.yaml")[0]["spec"], load("rayjob.yaml")[0]["spec"]["rayClusterSpec"]
    assert ephemeral["headGroupSpec"] == standing["headGroupSpec"]
    assert [group["template"] for group in ephemeral["workerGroupSpecs"]] == [group["template"] for group in standing["workerGroupSpecs"]]


def test_every_manifest_is_applied_and_every_secret_and_claim_is_known(repository: Path) -> None:
    assert check_kustomization(FOLDER) == []
    readme = (repository / "infra" / "README.md").read_text()
    claims = {document["metadata"]["name"] for _, document in MANIFESTS if document["kind"] == "PersistentVolumeClaim"}
    for _, document in MANIFESTS:
        for _, pod, _ in pods(document):
            for found in pod["volumes"]:
                assert found.get("persistentVolumeClaim", {}).get("claimName") in {None, *claims}
                assert found.get("secret", {}).get("secretName", "") in readme


@pytest.mark.parametrize("change", ["a file nobody lists", "a file that is not there"])
def test_a_list_that_differs_from_the_folder_is_told(change: str, tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "kuberay")
    if change == "a file nobody lists":
        (tmp_path / "kuberay" / "more.yaml").write_text("{}")
    else:
        (tmp_path / "kuberay" / "network.yaml").unlink()
    assert len(check_kustomization(tmp_path / "kuberay")) == 1


def test_the_whole_folder_has_no_fault() -> None:
    assert check_infra() == []


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not here")
def test_kustomize_gives_each_pod_the_image_of_its_group() -> None:
    done = subprocess.run(["kubectl", "kustomize", str(FOLDER)], capture_output=True, text=True, check=True)
    built = {(document["kind"], document["metadata"]["name"]): document for document in yaml.safe_load_all(done.stdout)}
    assert all(document["metadata"].get("namespace", "kinora") == "kinora" for document in built.values())
    groups = built["RayCluster", "kinora"]["spec"]["workerGroupSpecs"]
    assert [group["template"]["spec"]["containers"][0]["image"] for group in groups] == ["kinora:0.1.0", "kinora-gpu:0.1.0"]


@pytest.mark.skipif("KINORA_KUBERAY_CRD_DIR" not in os.environ, reason="KINORA_KUBERAY_CRD_DIR names no folder of KubeRay's CRDs")
@pytest.mark.parametrize("file", ["raycluster.yaml", "rayjob.yaml"])
def test_the_crd_of_kuberay_takes_the_manifest(file: str) -> None:
    import jsonschema

    manifest = load(file)[0]
    definition = Path(os.environ["KINORA_KUBERAY_CRD_DIR"]) / f"ray.io_{manifest['kind'].lower()}s.yaml"
    versions = yaml.load(definition.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))["spec"]["versions"]
    schema = next(version["schema"]["openAPIV3Schema"] for version in versions if version["name"] == "v1")
    jsonschema.validate(manifest, strict(schema))
    spoilt = copy.deepcopy(manifest)
    spoilt["spec"]["unknown"] = 1
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(spoilt, strict(schema))


def strict(schema: Any) -> Any:
    """Refuses what a CRD does not name, and reads its either-number-or-text fields."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string") is True:
        return {"type": ["integer", "string"]}
    closed = {key: strict(value) for key, value in schema.items()}
    if isinstance(closed.get("properties"), dict) and "type" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        closed.setdefault("additionalProperties", False)
    return closed
