"""The events by which Kinora's deployments start one another."""

from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.events import Event, Resource, emit_event

FOOTAGE_ARRIVED, MODEL_PROMOTED = "kinora.footage.arrived", "kinora.model.promoted"


def resource_of(project: str) -> str:
    """Answers the name by which events tell which project they are about."""
    return f"kinora.project.{project}"


def footage_arrived(client: SyncPrefectClient, project: str, source: str, files: int, event_id: UUID) -> None:
    """Says that files came to rest in a source, and returns when the server has it.

    Args:
        event_id: of this very arrival; Prefect acts once on events of one id.
    """
    payload = {"project": project, "source": source, "files": files}
    event = Event(event=FOOTAGE_ARRIVED, resource=Resource.model_validate(_resource(project)), payload=payload, id=event_id)
    client.request("POST", "/events", json=[event.model_dump(mode="json")]).raise_for_status()


def model_promoted(project: str, model: str, version: int) -> None:
    """Says that a version became the champion; a server that is away is told later, and the promotion stands."""
    payload: dict[str, Any] = {"project": project, "model": model, "version": version}
    emit_event(MODEL_PROMOTED, _resource(project), payload=payload)


def _resource(project: str) -> dict[str, str]:
    return {"prefect.resource.id": resource_of(project), "prefect.resource.name": project}
