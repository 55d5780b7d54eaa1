"""The pictures of footage that runs of a project left in Prefect, and how a take-down removes them."""

import json
import os
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from components.store.project import Project, project_of

OF_FOOTAGE = ("curate-clips", "train-vae-reconstructions", "evaluate-reconstructions")
PAGE = 200


def remove_pictures(project: Project) -> int:
    """Deletes these pictures from the server of PREFECT_API_URL, else from the embedded server's file; answers how many.

    Raises:
        NoServerError: that server does not answer, or wants another password.
    """
    if os.environ.get("PREFECT_API_URL"):
        return _from_server(project)
    database = Path(os.environ["PREFECT_HOME"]) / "prefect.db"
    return _from_file(database, project) if database.is_file() else 0


def is_of(project: Project, parameters: Mapping[str, Any]) -> bool:
    """Answers whether a flow run with some parameters worked in a project; a scheduled one may name its source alone, or nothing."""
    try:
        return project_of(parameters.get("project"), parameters.get("source")) == project.name
    except ValueError:  # such a run came to nothing
        return False


def _from_server(project: Project) -> int:
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

    from flows.server import server

    gone = 0
    with server() as client:
        offset = 0
        while found := client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=list(OF_FOOTAGE))), limit=PAGE, offset=offset
        ):
            offset += len(found)
            for artifact in found:
                run = client.read_flow_run(artifact.flow_run_id) if artifact.flow_run_id else None
                if run is not None and is_of(project, run.parameters):
                    client.delete_artifact(artifact.id)
                    gone, offset = gone + 1, offset - 1
    return gone


def _from_file(database: Path, project: Project) -> int:
    """Without a server, whose start would take longer than all the rest; deleted pages are written over."""
    named = ", ".join("?" for _ in OF_FOOTAGE)
    runs = f"select id, parameters from flow_run where id in (select flow_run_id from artifact where key in ({named}))"
    with closing(sqlite3.connect(database, timeout=60)) as connection:
        connection.execute("pragma secure_delete = on")
        with connection:
            found = connection.execute(runs, OF_FOOTAGE).fetchall()
            ours = [(*OF_FOOTAGE, run) for run, parameters in found if is_of(project, json.loads(parameters or "{}"))]
            gone = connection.executemany(f"delete from artifact where key in ({named}) and flow_run_id = ?", ours).rowcount if ours else 0
            connection.executemany(f"delete from artifact_collection where key in ({named}) and flow_run_id = ?", ours)
        connection.execute("pragma wal_checkpoint(truncate)")
        return gone
