"""A `kubectl` of a few lines in the place of a cluster, which no test machine has: RayJobs are files of a folder."""

import json
import sys
from pathlib import Path
from typing import Any

PROGRAM = """#!PYTHON -IS
import json, os, sys
from pathlib import Path
state = Path(FOLDER)
assert sys.argv[1:3] == ["--namespace", "kinora"], sys.argv
verb, rest = sys.argv[3], sys.argv[4:]
if (state / "down").exists():
    sys.exit("The connection to the server was refused - did you specify the right host or port?")
match verb:
    case "create":
        job = json.load(sys.stdin)
        place = state / (job["metadata"]["name"] + ".json")
        if place.exists():
            sys.exit("Error from server (AlreadyExists): it is there")
        place.write_text(json.dumps(job))
    case "get" if rest[0] == "rayjobs":
        print(json.dumps(dict(items=[json.loads(place.read_text()) for place in sorted(state.glob("*.json"))])))
    case "get":
        place = state / (rest[1] + ".json")
        if not place.exists():
            sys.exit("Error from server (NotFound): it is not there")
        print(place.read_text())
    case "logs":
        fault = state / "no logs"
        if fault.exists():
            fault.read_text() == "once" and fault.unlink()
            sys.exit("Error from server: the node of the pod does not answer")
        place = state / (rest[0].removeprefix("job/") + ".log")
        print(place.read_text() if place.exists() else "", end="")
    case "delete":
        if (state / "no deletes").exists():
            sys.exit("Error from server (Forbidden): rayjobs.ray.io is forbidden")
        (state / (rest[1] + ".json")).unlink(missing_ok=True)
"""


def write_kubectl(place: Path) -> Path:
    """Writes `bin/kubectl` and answers the folder of what it makes.

    A file `down`, `no logs` or `no deletes` in that folder is a fault; with the word `once` in it the second goes by itself.
    """
    program, state = place / "bin" / "kubectl", place / "state"
    program.parent.mkdir(parents=True)
    state.mkdir()
    program.write_text(PROGRAM.replace("PYTHON", sys.executable, 1).replace("FOLDER", repr(str(state)), 1))
    program.chmod(0o755)
    return state


def told(state: Path, job: str, log: str, **status: str) -> None:
    """Has a RayJob come to a state, with a log."""
    place = state / f"{job}.json"
    made: dict[str, Any] = json.loads(place.read_text())
    place.write_text(json.dumps(made | {"status": status}))
    (state / f"{job}.log").write_text(log)
