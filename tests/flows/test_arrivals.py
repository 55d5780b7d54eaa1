"""The watchers of footage: each deployment's own, whatever ails another."""

import logging
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from prefect.client.schemas.responses import DeploymentResponse

from components.media.write import write_video
from flows.arrivals import Watchers


class Server:
    """Stands in for Prefect's client; keeps what it was sent."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def request(self, method: str, path: str, json: list[dict[str, Any]]) -> "Server":
        self.events += json
        return self

    def raise_for_status(self) -> None:
        pass


def deployment(name: str, folder: Path, repository: Path, **parameters: Any) -> DeploymentResponse:
    job = {"working_dir": str(folder), "env": {"KINORA_CONFIG": str(repository / "pipelines.yaml")}}
    return DeploymentResponse(id=uuid4(), name=name, flow_id=uuid4(), version="1", parameters=parameters, job_variables=job)


def test_a_deployment_that_cannot_be_watched_is_named_and_the_others_are_told_of(
    tmp_path: Path, repository: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_video(tmp_path / "films" / "film.mp4", np.zeros((12, 64, 64, 3), np.uint8), 8)
    wanted = [
        deployment("none", tmp_path, repository, profile="test"),
        deployment("wrong", tmp_path, repository, profile="nowhere", source=str(tmp_path / "films")),
        deployment("films", tmp_path, repository, profile="test", source=str(tmp_path / "films")),
    ]
    server: Any = Server()
    watchers = Watchers()
    with caplog.at_level(logging.WARNING, "kinora"):
        for _ in range(3):
            watchers.look_for(server, wanted)
    assert [(event["event"], event["payload"]["project"]) for event in server.events] == [("kinora.footage.arrived", "films")]
    assert {name for name in ("none", "wrong", "films") if f"deployment `{name}` could not" in caplog.text} == {"none", "wrong"}
