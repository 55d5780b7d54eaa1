"""An S3 on loopback for tests: moto's, one request at a time so that conditional writes hold, with faults on demand.

Run as `python -m tests.store.object_store`: prints its port. `GET /-/fail?times=3&method=PUT&match=step_` makes the next requests of
that kind answer 503, `/-/hold?match=step_` keeps them waiting until `/-/release`, `/-/held` says how many wait, and
`/-/overwrite?on=1` makes it a store that passes over the conditions of a write.
"""

import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode

REPOSITORY = Path(__file__).resolve().parent.parent.parent
BUSY = b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>'


@dataclass
class Faults:
    """What the server is told to do wrong."""

    times: int = 0
    method: str = ""
    match: str = ""
    held: str = ""
    waiting: int = 0
    overwrites: bool = False
    released: threading.Event = field(default_factory=threading.Event)


def application(app: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    one_at_a_time, faults = threading.Lock(), Faults()

    def order(verb: str, wanted: dict[str, list[str]]) -> bytes:
        match verb:
            case "fail":
                faults.times = int(wanted["times"][0])
                faults.method, faults.match = wanted.get("method", [""])[0], wanted.get("match", [""])[0]
            case "hold":
                faults.held = wanted["match"][0]
                faults.released.clear()
            case "overwrite":
                faults.overwrites = wanted["on"][0] == "1"
            case "release":
                faults.held = ""
                faults.released.set()
        return str(faults.waiting).encode()

    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        if path.startswith("/-/"):
            start("200 OK", [])
            return [order(path[3:], parse_qs(environ["QUERY_STRING"]))]
        if faults.held and faults.held in path and method in ("PUT", "POST"):
            faults.waiting += 1
            faults.released.wait(60)
            faults.waiting -= 1
        if faults.times > 0 and faults.match in path and faults.method in ("", method):
            faults.times -= 1
            start("503 Service Unavailable", [("Content-Type", "application/xml"), ("Content-Length", str(len(BUSY)))])
            return [BUSY]
        if faults.overwrites:
            environ.pop("HTTP_IF_NONE_MATCH", None)
        with one_at_a_time:
            return list(app(environ, start))

    return answer


def main() -> None:
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    server = make_server("127.0.0.1", 0, application(DomainDispatcherApplication(create_backend_app)), threaded=True)
    print(server.port, flush=True)
    server.serve_forever()


@dataclass(frozen=True)
class ObjectStore:
    """A running server."""

    address: str
    bucket: str = "films"

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to find it: an address, a region and dummy keys."""
        keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}
        return {**keys, "AWS_ENDPOINT_URL": self.address, "AWS_EC2_METADATA_DISABLED": "true"}

    def tell(self, verb: str, **wanted: object) -> int:
        with urllib.request.urlopen(f"{self.address}/-/{verb}?{urlencode(wanted)}", timeout=10) as answer:
            return int(answer.read())

    def uri(self, folder: str) -> str:
        return f"s3://{self.bucket}/{folder}"


@contextmanager
def object_store() -> Iterator[ObjectStore]:
    """Starts a server with one bucket, and ends it."""
    command = [sys.executable, "-m", "tests.store.object_store"]
    server = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert server.stdout is not None
        store = ObjectStore(f"http://127.0.0.1:{int(server.stdout.readline())}")
        deadline = time.monotonic() + 60
        while True:
            try:
                request = urllib.request.Request(f"{store.address}/{store.bucket}", method="PUT")
                urllib.request.urlopen(request, timeout=10).close()
                break
            except OSError:
                assert server.poll() is None, "the object store ended"
                assert time.monotonic() < deadline, "the object store did not start"
                time.sleep(0.1)
        yield store
    finally:
        server.kill()
        server.wait()


@contextmanager
def found_by_this_process(store: ObjectStore) -> Iterator[None]:
    """Sets the environment for the tests of one module."""
    before = {name: os.environ.get(name) for name in store.environment}
    os.environ.update(store.environment)
    yield
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)


if __name__ == "__main__":
    main()
