"""What no schema says of infra/kuberay: the rules of KubeRay's operator, and what pods of ours may not do; one sentence a fault."""

import difflib
import re
from collections.abc import Iterator
from typing import Any

from components.operations.compose_lint import NO_SECRET, SECRET_NAME

Document = dict[str, Any]

GROUP = "labels rayStartParams resources template"
FIELDS = {  # of KubeRay 1.7
    "spec": (
        "activeDeadlineSeconds backoffLimit clusterSelector deletionStrategy entrypoint entrypointNumCpus entrypointNumGpus "
        "entrypointResources jobId managedBy metadata preRunningDeadlineSeconds rayClusterSpec runtimeEnvYAML "
        "shutdownAfterJobFinishes submissionMode submitterConfig submitterPodTemplate suspend ttlSecondsAfterFinished"
    ),
    "the cluster": (
        "authOptions autoscalerOptions enableInTreeAutoscaling gcsFaultToleranceOptions headGroupSpec headServiceAnnotations "
        "historyServerOptions managedBy networkPolicy rayVersion suspend tlsOptions upgradeStrategy workerGroupSpecs"
    ),
    "headGroupSpec": f"{GROUP} enableIngress headService ingressOptions serviceType",
    "worker group": f"{GROUP} groupName idleTimeoutSeconds maxReplicas minReplicas numOfHosts priority replicas scaleStrategy suspend",
    "autoscalerOptions": (
        "args command env envFrom idleTimeoutSeconds image imagePullPolicy resources securityContext upscalingMode version volumeMounts"
    ),
    "authOptions": "enableK8sTokenAuth mode secretName",
}
SUBMISSION_MODES = ("K8sJob", "HTTP", "Sidecar", "Interactive")
LONGEST_NAME = {"RayCluster": 53, "RayJob": 47}
GENERATED = 5  # letters that Kubernetes puts behind generateName
TOKENS_SINCE = (2, 52)
DRAIN_SECONDS = 120  # that Ray Train gives a training to save when its node is taken
MOST_GROUPS = 17  # that Kueue admits in one RayJob
NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
PROMOTER = "kinora-mlflow-promoter"
GPU = "nvidia.com/gpu"
UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def check_manifest(document: Document, ray: str | None = None) -> list[str]:
    """Answers every fault of one Kubernetes object, in words.

    Args:
        document: the object.
        ray: the version of Ray in the image, which a cluster must name.
    """
    kind, metadata = document.get("kind", ""), document.get("metadata") or {}
    faults = list(_rays_rules(document, ray)) if kind in LONGEST_NAME else []
    if kind == "ConfigMap" and "PREFECT_API_URL" in (document.get("data") or {}):
        faults.append("PREFECT_API_URL is for the worker alone, since Ray's nodes do not reach Prefect; hint: `env` in worker.yaml")
    faults += [f"{where}: {fault}" for where, pod, role in pods(document) for fault in _pod(pod, role)]
    return [f"{kind} `{metadata.get('name') or metadata.get('generateName')}`: {fault}" for fault in faults]


def pods(document: Document) -> Iterator[tuple[str, Document, str]]:
    """Yields the pods that an object makes: where each stands, its spec, and whether it is a head, a worker, a submitter or another."""
    spec = document.get("spec") or {}
    kind = document.get("kind")
    if kind in ("Deployment", "StatefulSet", "Job"):
        yield "the pod", _spec(spec), "other"
    if kind not in LONGEST_NAME:
        return
    if spec.get("submitterPodTemplate"):
        yield "the submitter", spec["submitterPodTemplate"].get("spec") or {}, "submitter"
    cluster = spec.get("rayClusterSpec") or {} if kind == "RayJob" else spec
    if cluster:
        yield "the head", _spec(cluster.get("headGroupSpec") or {}), "head"
    for group in cluster.get("workerGroupSpecs") or []:
        yield f"the group `{group.get('groupName')}`", _spec(group), "worker"


def _spec(owner: Document) -> Document:
    spec: Document = (owner.get("template") or {}).get("spec") or {}
    return spec


def _rays_rules(document: Document, ray: str | None) -> Iterator[str]:
    kind, metadata, spec = document["kind"], document.get("metadata") or {}, document.get("spec") or {}
    name = metadata.get("name") or f"{metadata.get('generateName', '')}{'x' * GENERATED}"
    if not NAME.fullmatch(name) or len(name) > LONGEST_NAME[kind]:
        yield f"its name is not one of at most {LONGEST_NAME[kind]} small letters, digits and dashes, a letter first"
    if kind == "RayJob":
        yield from _job(spec)
    cluster = spec.get("rayClusterSpec") if kind == "RayJob" else spec
    if cluster:
        yield from _cluster(cluster, metadata.get("annotations") or {}, ray)


def _job(spec: Document) -> Iterator[str]:
    yield from _unknown(spec, "spec")
    cluster, selected = spec.get("rayClusterSpec"), bool(spec.get("clusterSelector"))
    mode = spec.get("submissionMode", "K8sJob")
    if bool(cluster) == selected:
        yield "one of rayClusterSpec and clusterSelector has to be there, and one alone"
    if not spec.get("entrypoint"):
        yield "it has no entrypoint, so it would run nothing"
    if mode not in (*SUBMISSION_MODES, *(f"{known}Mode" for known in SUBMISSION_MODES)):
        yield f"`{mode}` is not a submissionMode; the modes are {', '.join(f'{known}Mode' for known in SUBMISSION_MODES)}"
    if spec.get("suspend") and (selected or not spec.get("shutdownAfterJobFinishes")):
        yield "suspend needs shutdownAfterJobFinishes and a cluster of its own"
    if spec.get("ttlSecondsAfterFinished") and not spec.get("shutdownAfterJobFinishes"):
        yield "ttlSecondsAfterFinished needs shutdownAfterJobFinishes"
    if (spec.get("deletionStrategy") or {}).get("deletionRules") and (
        spec.get("shutdownAfterJobFinishes") or spec.get("ttlSecondsAfterFinished")
    ):
        yield "deletionRules go with neither shutdownAfterJobFinishes nor ttlSecondsAfterFinished"
    if spec.get("backoffLimit", 0) and (selected or mode.startswith("Interactive")):
        yield "backoffLimit goes with neither clusterSelector nor InteractiveMode"
    if mode.startswith("Sidecar") and (selected or spec.get("submitterPodTemplate") or spec.get("submitterConfig")):
        yield "SidecarMode goes with no clusterSelector and no submitter of its own"
    for field in ("activeDeadlineSeconds", "preRunningDeadlineSeconds"):
        if spec.get(field, 1) <= 0:
            yield f"{field} has to be above 0"
    if cluster and not spec.get("shutdownAfterJobFinishes"):
        yield "its cluster would stay and cost when the job is over; hint: shutdownAfterJobFinishes: true"
    if cluster and (cluster.get("authOptions") or {}).get("enableK8sTokenAuth"):
        yield "a RayJob cannot use tokens of Kubernetes; hint: authOptions.secretName"
    if cluster and len(cluster.get("workerGroupSpecs") or []) > MOST_GROUPS:
        yield f"Kueue admits no more than {MOST_GROUPS} worker groups"


def _cluster(spec: Document, annotations: Document, ray: str | None) -> Iterator[str]:
    head, groups = spec.get("headGroupSpec") or {}, spec.get("workerGroupSpecs") or []
    autoscaler = spec.get("autoscalerOptions") or {}
    scales = bool(spec.get("enableInTreeAutoscaling"))
    yield from _unknown(spec, "the cluster")
    yield from _unknown(head, "headGroupSpec")
    yield from _unknown(autoscaler, "autoscalerOptions")
    yield from _unknown(spec.get("authOptions") or {}, "authOptions")
    yield from _token(spec, ray)
    yield from _fault_tolerance(spec, head, annotations)
    if (head.get("rayStartParams") or {}).get("num-cpus") != "0":
        yield 'work may run on the head, and the cluster dies with it; hint: rayStartParams: {num-cpus: "0"}'
    if spec.get("networkPolicy"):
        yield "the field networkPolicy waits behind KubeRay's gate RayClusterNetworkPolicy; hint: plain NetworkPolicy objects"
    if not groups:
        yield "it has no workerGroupSpecs, so nothing can run"
    names = [group.get("groupName") for group in groups]
    if len(set(names)) < len(names):
        yield "two worker groups have one name"
    for group in groups:
        yield from _group(group, scales, autoscaler)
    for params, where in [(head, "the head"), *((group, f"`{group.get('groupName')}`") for group in groups)]:
        given = params.get("rayStartParams") or {}
        if any(not isinstance(value, str) for value in given.values()):
            yield f"rayStartParams of {where} are text; hint: put their numbers in quotes"
        if params.get("resources") and {"num-cpus", "num-gpus", "memory", "resources"} & set(given):
            yield f"{where} names resources twice, in rayStartParams and in resources"
    if not scales and _variable(head, "RAY_enable_autoscaler_v2") in ("1", "true"):
        yield "autoscaler v2 without enableInTreeAutoscaling: true"
    if scales and autoscaler.get("version") and _variable(head, "RAY_enable_autoscaler_v2") is not None:
        yield "autoscalerOptions.version and RAY_enable_autoscaler_v2 say the same thing twice; hint: the former"
    if scales and autoscaler.get("version") == "v2":
        for owner in (head, *groups):
            if _spec(owner).get("restartPolicy", "Never") != "Never":
                yield "with autoscaler v2 the restartPolicy of every pod is Never"


def _token(spec: Document, ray: str | None) -> Iterator[str]:
    auth, version = spec.get("authOptions") or {}, str(spec.get("rayVersion", ""))
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if auth.get("mode") != "token":
        yield "anyone who reaches it may run code in it; hint: authOptions: {mode: token, secretName: ...}"
    elif numbers < TOKENS_SINCE:
        yield f'a token needs rayVersion of at least 2.52, not `{version}`; hint: rayVersion: "{ray or "2.60.0"}"'
    if auth.get("secretName") and auth.get("enableK8sTokenAuth"):
        yield "secretName and enableK8sTokenAuth exclude each other"
    if ray and version and version != ray:
        yield f"rayVersion is {version} and the image has Ray {ray}; hint: one version everywhere"


def _fault_tolerance(spec: Document, head: Document, annotations: Document) -> Iterator[str]:
    options = spec.get("gcsFaultToleranceOptions")
    if options is None:
        if _variable(head, "RAY_REDIS_ADDRESS") is not None:
            yield "RAY_REDIS_ADDRESS needs gcsFaultToleranceOptions"
        return
    if annotations.get("ray.io/ft-enabled"):
        yield "ray.io/ft-enabled and gcsFaultToleranceOptions exclude each other; hint: the latter"
    for name in ("RAY_REDIS_ADDRESS", "REDIS_PASSWORD", "REDIS_USERNAME"):
        if _variable(head, name) is not None:
            yield f"{name} does not go with gcsFaultToleranceOptions, which has a field for it"


def _group(group: Document, scales: bool, autoscaler: Document) -> Iterator[str]:
    name = f"the group `{group.get('groupName')}`"
    yield from _unknown(group, "worker group")
    low, now, high = group.get("minReplicas"), group.get("replicas", 0), group.get("maxReplicas")
    if low is None or high is None:
        yield f"{name} has no {'minReplicas' if low is None else 'maxReplicas'}, which KubeRay then sets to 0 or to 2147483647"
    elif not 0 <= low <= now <= high:
        yield f"{name}: minReplicas {low}, replicas {now} and maxReplicas {high} are not in order"
    if group.get("suspend") and scales:
        yield f"{name} cannot be suspended while the cluster scales itself"
    if group.get("idleTimeoutSeconds") is not None and autoscaler.get("version") != "v2":
        yield f"{name}: idleTimeoutSeconds needs autoscaler v2"


def _pod(pod: Document, role: str) -> Iterator[str]:
    security = pod.get("securityContext") or {}
    volumes = {volume["name"]: volume for volume in pod.get("volumes") or []}
    if not security.get("runAsNonRoot") or (security.get("seccompProfile") or {}).get("type") != "RuntimeDefault":
        yield "it may run as root or without seccomp; hint: runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}"
    for volume in volumes.values():
        secret = volume.get("secret")
        if secret and (secret.get("defaultMode", 0o644) & 0o007):
            yield f"others may read the secret `{secret.get('secretName')}`; hint: defaultMode: 0440 and fsGroup"
        if secret and secret.get("secretName") == PROMOTER and role != "other":
            yield "the promoter's credentials reach Ray's jobs; hint: kinora-mlflow-trainer"
        if "emptyDir" in volume and not (volume["emptyDir"] or {}).get("sizeLimit"):
            yield f"the volume `{volume['name']}` may fill the node; hint: sizeLimit"
        if "hostPath" in volume:
            yield f"the volume `{volume['name']}` is a folder of the node; hint: a claim"
    if role == "worker" and pod.get("terminationGracePeriodSeconds", 30) < DRAIN_SECONDS:
        yield f"a training needs {DRAIN_SECONDS} seconds to save when its node is taken; hint: terminationGracePeriodSeconds: 150"
    for container in pod.get("initContainers") or []:
        yield from (f"container `{container.get('name')}` {fault}" for fault in _container(container, pod, volumes, "before"))
    for container in pod.get("containers") or []:
        yield from (f"container `{container.get('name')}` {fault}" for fault in _container(container, pod, volumes, role))
    if not pod.get("containers"):
        yield "it has no container"


def _container(container: Document, pod: Document, volumes: Document, role: str) -> Iterator[str]:
    security, image = container.get("securityContext") or {}, str(container.get("image", ""))
    tag = image.partition("@")[2] or image.rpartition("/")[2].partition(":")[2]
    if security.get("allowPrivilegeEscalation") is not False or "ALL" not in ((security.get("capabilities") or {}).get("drop") or []):
        yield "keeps privileges; hint: allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}"
    if not security.get("readOnlyRootFilesystem"):
        yield "may write its own image; hint: readOnlyRootFilesystem: true"
    if not tag or tag == "latest":
        yield f"runs `{image}`, which is another one tomorrow; hint: name its version"
    for variable in container.get("env") or []:
        name, value = variable.get("name", ""), variable.get("value")
        if (
            SECRET_NAME.search(name)
            and name not in NO_SECRET
            and value
            and not (name.endswith(("_FILE", "_PATH")) and value.startswith("/"))
        ):
            yield f"has a secret in `{name}`; hint: a file of a Secret"
    mounted = {mount["mountPath"]: mount["name"] for mount in container.get("volumeMounts") or []}
    for name in sorted(set(mounted.values()) - set(volumes)):
        yield f"mounts the volume `{name}`, which the pod does not have"
    resources = container.get("resources") or {}
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    if "memory" not in limits or "memory" not in requests or "cpu" not in requests:
        yield "says not what it needs; hint: resources: requests and limits of cpu and memory"
    if role in ("submitter", "before"):
        return
    for probe in ("readinessProbe", "livenessProbe"):
        if probe not in container:
            yield f"has no {probe}"
    if role in ("head", "worker"):
        yield from _node(container, pod, {path: volumes.get(name, {}) for path, name in mounted.items()})


def _node(container: Document, pod: Document, mounted: dict[str, Document]) -> Iterator[str]:
    limits = (container.get("resources") or {}).get("limits") or {}
    shared = (mounted.get("/dev/shm") or {}).get("emptyDir") or {}
    if shared.get("medium") != "Memory":
        yield "has Kubernetes' 64 MB of shared memory; hint: /dev/shm as emptyDir {medium: Memory, sizeLimit: ...}"
    elif _bytes(shared.get("sizeLimit", "0")) >= _bytes(limits.get("memory", "0")):
        yield "has no memory beside its shared memory, which counts; hint: a sizeLimit below resources.limits.memory"
    if "emptyDir" not in (mounted.get("/tmp/ray") or {}):
        yield "spills objects and logs into its image; hint: /tmp/ray as emptyDir with a sizeLimit"
    given = {variable.get("name"): variable.get("value") for variable in container.get("env") or []}
    if given.get("RAY_AUTH_TOKEN") != "" or not str(given.get("RAY_AUTH_TOKEN_PATH", "")).startswith("/run/secrets/"):
        yield 'shows its token to every job; hint: RAY_AUTH_TOKEN: "" and RAY_AUTH_TOKEN_PATH of a mounted Secret'
    if GPU in limits:
        if not any(toleration.get("key") == GPU for toleration in pod.get("tolerations") or []):
            yield f"asks for a GPU and never lands beside one; hint: a toleration of {GPU}"
        if (container.get("resources") or {}).get("requests", {}).get(GPU, limits[GPU]) != limits[GPU]:
            yield f"requests of {GPU} differ from limits, which Kubernetes refuses"


def _variable(owner: Document, name: str) -> str | None:
    """Answers a variable of a group's first container, Ray's own."""
    for container in (_spec(owner).get("containers") or [])[:1]:
        for variable in container.get("env") or []:
            if variable.get("name") == name:
                return str(variable.get("value", ""))
    return None


def _unknown(given: Document, where: str) -> Iterator[str]:
    known = FIELDS[where].split()
    for field in given:
        if field not in known:
            close = difflib.get_close_matches(field, known, n=1)
            yield f"{where} has no field `{field}`" + (f"; did you mean `{close[0]}`?" if close else "")


def _bytes(quantity: Any) -> float:
    """Reads Kubernetes' `4Gi`."""
    found = re.fullmatch(r"([\d.]+)([A-Za-z]*)", str(quantity))
    return float(found[1]) * UNITS.get(found[2], 1) if found else 0.0
