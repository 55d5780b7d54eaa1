"""A head of a cluster that says its version, and that its parts are not up to all else."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import ray


class _Faltering(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        well = self.path == "/api/version"
        said = json.dumps({"version": "4", "ray_version": ray.__version__}) if well else "the agent is not there"
        self.send_response(200 if well else 503)
        self.end_headers()
        self.wfile.write(said.encode())

    do_POST = do_GET

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def faltering_head() -> Iterator[str]:
    """Lends the address of its Jobs API."""
    with HTTPServer(("127.0.0.1", 0), _Faltering) as head:
        threading.Thread(target=head.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{head.server_port}"
        head.shutdown()
