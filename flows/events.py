"""The events by which Kinora's deployments start one another."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from prefect.events import emit_event

FOOTAGE_ARRIVED, MODEL_PROMOTED = "kinora.footage.arrived", "kinora.model.promoted"


def resource_of(project: str) -> str:
    """Answers the name by which events tell which project they are about."""
    return f"kinora.project.{project}"


def footage_arrived(project: str, source: str, files: int, event_id: UUID | None = None) -> None:
    """Says that files came to rest in a source.

    Args:
        event_id: of this very arrival; Prefect acts once on events of one id.
    """
    _emit(FOOTAGE_ARRIVED, project, {"project": project, "source": source, "files": files}, event_id)


def model_promoted(project: str, model: str, version: int) -> None:
    """Says that a version became the champion."""
    _emit(MODEL_PROMOTED, project, {"project": project, "model": model, "version": version}, None)


def _emit(event: str, project: str, payload: Mapping[str, Any], event_id: UUID | None) -> None:
    resource = {"prefect.resource.id": resource_of(project), "prefect.resource.name": project}
    emit_event(event, resource, payload=dict(payload), id=event_id)
