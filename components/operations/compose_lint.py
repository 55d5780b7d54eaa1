"""What no schema says of infra/compose.yaml: who listens where, who holds which secret, who can reach whom; one sentence a fault."""

import re
from collections.abc import Callable, Iterator
from typing import Any

from components.store.telemetry import TELEMETRY_OFF

Document = dict[str, Any]

SECRET_NAME = re.compile(r"PASSWORD|PASSWD|SECRET|TOKEN|AUTH_STRING|ACCESS_KEY|CREDENTIALS|DATABASE_CONNECTION_URL|BACKEND_STORE_URI")
NO_SECRET = {"RAY_AUTH_MODE", "MLFLOW_ALLOW_PICKLE_DESERIALIZATION"}
PASSWORD_IN_ADDRESS = re.compile(r"://[^/\s:@]+:[^/\s@]+@")
REQUIRED_VARIABLE = re.compile(r"\$\{[A-Z0-9_]+:\?[^}]+\}")
DEFAULT_OF_VARIABLE = re.compile(r"\$\{[A-Z0-9_]+:?-([^}]*)\}")
PROMOTER = "mlflow_promoter_password"
SIZES = {"k": 2**10, "m": 2**20, "g": 2**30}


def check_compose(document: Document) -> list[str]:
    """Answers every fault of a compose file, in words."""
    services = document.get("services")
    if not isinstance(services, dict) or not services:
        return ["there are no services; hint: start from the repository's infra/compose.yaml"]
    faults = [fault for check in CHECKS for fault in check(document)]
    return faults + [
        f"service `{name}` {fault}" for name, service in services.items() for check in SERVICE_CHECKS for fault in check(service)
    ]


def environment(service: Document) -> dict[str, str]:
    """Answers a service's variables, whether they are listed or mapped."""
    given = service.get("environment") or {}
    if isinstance(given, list):
        given = dict(line.partition("=")[::2] for line in given)
    return {name: "" if value is None else str(value) for name, value in given.items()}


def command(service: Document) -> str:
    """Answers what a service runs, as one line."""
    given = [part for key in ("entrypoint", "command") for part in (service.get(key) or [])]
    return given if isinstance(given, str) else " ".join(map(str, given))


def secrets(service: Document) -> list[str]:
    """Answers the names of the secrets that a service mounts."""
    return [entry["source"] if isinstance(entry, dict) else entry for entry in service.get("secrets") or []]


def networks(service: Document) -> list[str]:
    """Answers the networks that a service is on."""
    return list(service.get("networks") or ([] if service.get("network_mode") else ["default"]))


def runs_once(service: Document) -> bool:
    """Says whether a service ends by itself."""
    return service.get("restart") == "no"


def is_ray_node(service: Document) -> bool:
    """Says whether jobs of Ray run in a service and read what it mounts."""
    return "ray start" in command(service)


def _ports(service: Document) -> Iterator[str]:
    for port in service.get("ports") or []:
        host = str(port.get("host_ip")) + ":" if isinstance(port, dict) else str(port)
        if not host.startswith("127.0.0.1:"):
            yield f"publishes `{port}` beyond this machine; hint: 127.0.0.1:PORT:PORT, and an SSH tunnel to reach it"
    if service.get("network_mode") == "host":
        yield "shares the host's network, so all its ports are the host's; hint: give it a network of the file"


def _secret_variables(service: Document) -> Iterator[str]:
    for name, value in environment(service).items():
        names_a_file = name.endswith(("_FILE", "_PATH")) and value.startswith("/run/secrets/")
        if PASSWORD_IN_ADDRESS.search(value):
            yield f"has a password in the address `{name}`; hint: a secret's file, named by {name}_FILE"
        elif SECRET_NAME.search(name) and name not in NO_SECRET and value and not names_a_file and not REQUIRED_VARIABLE.fullmatch(value):
            yield f'has a secret in `{name}`; hint: a file below /run/secrets, or "${{{name}:?...}}" in quotes'


def _health(service: Document) -> Iterator[str]:
    check = service.get("healthcheck") or {}
    if not runs_once(service) and (not check.get("test") or check.get("disable") or check["test"] in ("NONE", ["NONE"])):
        yield "has no healthcheck, so nothing can wait for it; hint: ask the server it runs"
    if not runs_once(service) and service.get("restart") not in ("unless-stopped", "always"):
        yield "does not come back after a crash; hint: restart: unless-stopped"


def _privileges(service: Document) -> Iterator[str]:
    if service.get("privileged") or "ALL" not in (service.get("cap_drop") or []):
        yield "keeps capabilities; hint: cap_drop: [ALL]"
    if "no-new-privileges:true" not in (service.get("security_opt") or []):
        yield "may gain privileges; hint: security_opt: [no-new-privileges:true]"
    if not service.get("read_only"):
        yield "may write its own image; hint: read_only: true, and tmpfs for what it has to write"
    user = str(service.get("user", ""))
    alone = runs_once(service) and service.get("network_mode") == "none"
    if not user or (user.split(":")[0] in ("0", "root") and not alone):
        yield "runs as root; hint: user: of infra/.env, who owns the secrets"
    added = set(service.get("cap_add") or [])
    if added and not (alone and added <= {"CHOWN"}):
        yield f"adds capabilities {', '.join(sorted(added))}; hint: leave them out"


def _limits(service: Document) -> Iterator[str]:
    limits = ((service.get("deploy") or {}).get("resources") or {}).get("limits") or {}
    missing = [name for name in ("cpus", "memory", "pids") if name not in limits]
    if missing:
        yield f"has no limit of {missing[0]}; hint: deploy.resources.limits"
    logging = service.get("logging") or {}
    if not (logging.get("options") or {}).get("max-size"):
        yield "fills the disk with its log; hint: logging: {driver: local, options: {max-size: 20m}}"


def _image(service: Document) -> Iterator[str]:
    image = DEFAULT_OF_VARIABLE.sub(r"\1", str(service.get("image", "")))
    tag = image.partition("@")[2] or image.rpartition("/")[2].partition(":")[2]
    if not tag or tag == "latest":
        yield f"runs `{image}`, which is another one tomorrow; hint: name its version"


def _telemetry(service: Document) -> Iterator[str]:
    if "kinora" in str(service.get("image", "")):
        given = environment(service)
        for name, value in TELEMETRY_OFF.items():
            if given.get(name) != value:
                yield f'phones home; hint: {name}: "{value}"'


def _ray(service: Document) -> Iterator[str]:
    given, line = environment(service), command(service)
    talks_to_ray = is_ray_node(service) or "RAY_ADDRESS" in given
    if talks_to_ray and (given.get("RAY_AUTH_MODE") != "token" or not given.get("RAY_AUTH_TOKEN_PATH", "").startswith("/run/secrets/")):
        yield "speaks to Ray without its token; hint: RAY_AUTH_MODE: token, RAY_AUTH_TOKEN_PATH below /run/secrets"
    if "ray://" in line or any(value.startswith("ray://") for value in given.values()):
        yield "uses Ray's client, which a network hiccup ends; hint: http://HEAD:8265, the Jobs API"
    if not is_ray_node(service):
        return
    if PROMOTER in secrets(service):
        yield "hands the promoter's password to Ray's jobs; hint: mount mlflow_trainer there"
    if "--head" in line and "--num-cpus=0" not in line:
        yield "lets work run on Ray's head; hint: --num-cpus=0"
    store = re.search(r"--object-store-memory=(\S+)", line)
    shared = _bytes(service.get("shm_size", "64m"))
    if store and shared < _bytes(store[1]):
        yield "has less shared memory than its object store asks for; hint: raise shm_size"


def _networks(document: Document) -> Iterator[str]:
    known = {name: network or {} for name, network in (document.get("networks") or {}).items()}
    on = {name: networks(service) for name, service in document["services"].items()}
    for name, service in document["services"].items():
        for network in on[name]:
            if network not in known:
                yield f"service `{name}` is on the network `{network}`, which is not declared"
        open_ones = [network for network in on[name] if not known.get(network, {}).get("internal")]
        ways_out = [network for network in open_ones if not (service.get("ports") and _without_masquerade(known.get(network, {})))]
        if ways_out and "prefect server start" not in command(service):  # which sends the webhooks
            yield f"service `{name}` has a way out, by `{ways_out[0]}`; hint: networks that are internal: true"
    for database in (name for name, service in document["services"].items() if str(service.get("image", "")).find("postgres") >= 0):
        for other, service in document["services"].items():
            if is_ray_node(service) and set(on[other]) & set(on[database]):
                yield f"service `{other}` reaches the database `{database}`; hint: no network in common"


def _depends_on(document: Document) -> Iterator[str]:
    services = document["services"]
    for name, service in services.items():
        given = service.get("depends_on") or {}
        for other, entry in given.items() if isinstance(given, dict) else ((other, {}) for other in given):
            condition = entry.get("condition")
            if other not in services:
                yield f"service `{name}` waits for `{other}`, which is not there"
            elif condition == "service_completed_successfully" and not runs_once(services[other]):
                yield f'service `{name}` waits for the end of `{other}`, which runs for ever; hint: restart: "no" there'
            elif condition not in ("service_healthy", "service_completed_successfully"):
                yield f"service `{name}` does not wait until `{other}` is healthy; hint: condition: service_healthy"


def _declared_secrets(document: Document) -> Iterator[str]:
    declared = document.get("secrets") or {}
    used = {secret for service in document["services"].values() for secret in secrets(service)}
    for name in sorted(used - set(declared)):
        yield f"the secret `{name}` is mounted and not declared"
    for name in sorted(set(declared) - used):
        yield f"the secret `{name}` is declared and nobody mounts it"
    for name, secret in declared.items():
        if not str(secret.get("file", "")).startswith("./secrets/"):
            yield f"the secret `{name}` is not a file below infra/secrets; hint: file: ./secrets/{name}"
    holders = [name for name, service in document["services"].items() if PROMOTER in secrets(service) and not runs_once(service)]
    if len(holders) != 1:
        yield f"the promoter's password is mounted by {' and '.join(holders) or 'nobody'}; hint: by the worker that runs the flows alone"
    for name, service in document["services"].items():
        for path in (value for value in environment(service).values() if value.startswith("/run/secrets/")):
            if path.removeprefix("/run/secrets/") not in secrets(service):
                yield f"service `{name}` reads `{path}`, which it does not mount"


def _mlflow(document: Document) -> Iterator[str]:
    for name, service in document["services"].items():
        line = command(service)
        if "mlflow server" not in line:
            continue
        if "--app-name=basic-auth" not in line and "--app-name basic-auth" not in line:
            yield f"service `{name}` lets anyone write the registry; hint: --app-name=basic-auth"
        allowed = re.search(r"--allowed-hosts[= ](\S+)", line)
        names = set(allowed[1].split(",")) if allowed else set()
        asked = {
            environment(other).get("MLFLOW_TRACKING_URI", "").partition("://")[2].rstrip("/") for other in document["services"].values()
        }
        for missing in sorted(host for host in asked - names if host.split(":")[0] == name):
            yield f"service `{name}` refuses whoever asks for `{missing}`; hint: put it into --allowed-hosts"


def _prefect(document: Document) -> Iterator[str]:
    for name, service in document["services"].items():
        if "prefect server start" in command(service):
            given = environment(service)
            if "PREFECT_SERVER_API_AUTH_STRING_FILE" not in given:
                yield f"service `{name}` answers anyone; hint: PREFECT_SERVER_API_AUTH_STRING_FILE"
            if given.get("PREFECT_SERVER_CSRF_PROTECTION_ENABLED") != "true":
                yield f'service `{name}` takes orders from other sites\' pages; hint: PREFECT_SERVER_CSRF_PROTECTION_ENABLED: "true"'


def _volumes(document: Document) -> Iterator[str]:
    declared = set(document.get("volumes") or {})
    for name, service in document["services"].items():
        for volume in service.get("volumes") or []:
            source = volume.get("source", "") if isinstance(volume, dict) else str(volume).partition(":")[0]
            if "docker.sock" in source:
                yield f"service `{name}` holds Docker's socket, which is root on the host; hint: take it away"
            elif source and not source.startswith((".", "/", "$", "~")) and source not in declared:
                yield f"service `{name}` mounts the volume `{source}`, which is not declared"


def _without_masquerade(network: Document) -> bool:
    return (network.get("driver_opts") or {}).get("com.docker.network.bridge.enable_ip_masquerade") == "false"


def _bytes(size: Any) -> float:
    """Reads `4g`, `2000000000` or the default of a variable; a size that only the environment knows counts as enough."""
    text = DEFAULT_OF_VARIABLE.sub(r"\1", str(size)).lower().removesuffix("b")
    number = text.rstrip("kmg")
    return float(number) * SIZES.get(text[len(number) :], 1) if number.replace(".", "").isdigit() else float("inf")


SERVICE_CHECKS: tuple[Callable[[Document], Iterator[str]], ...] = (
    _ports,
    _secret_variables,
    _health,
    _privileges,
    _limits,
    _image,
    _telemetry,
    _ray,
)
CHECKS: tuple[Callable[[Document], Iterator[str]], ...] = (
    _networks,
    _depends_on,
    _declared_secrets,
    _mlflow,
    _prefect,
    _volumes,
)
