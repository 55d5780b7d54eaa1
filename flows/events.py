"""The events by which Kinora's deployments start one another."""

from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.events import Event, Resource, emit_event

from components.deployments import FOOTAGE_ARRIVED, MODEL_PROMOTED, EventName


def event_name(event: EventName) -> str:
    """Answers what Prefect calls an event that pipelines.yaml names."""
    return f"kinora.{event}"


def resource_of(project: str) -> str:
    """Answers the name by which events tell which project they are about."""
    return f"kinora.project.{project}"


def footage_arrived(client: SyncPrefectClient, project: str, source: str, files: int, event_id: UUID) -> None:
    """Says that files came to rest in a source, and returns when the server has it.

    Args:
        event_id: of this very arrival; Prefect acts once on events of one id.
    """
    payload = {"project": project, "source": source, "files": files}
    resource = Resource.model_validate(_resource(project))
    _send(client, Event(event=event_name(FOOTAGE_ARRIVED), resource=resource, payload=payload, id=event_id))


def model_promoted(project: str, model: str, version: int) -> None:
    """Says in a flow that a version became the champion; a server that is away is told later, and the promotion stands."""
    emit_event(event_name(MODEL_PROMOTED), _resource(project), payload=_promoted(project, model, version))


def model_promoted_by_hand(client: SyncPrefectClient, project: str, model: str, version: int) -> None:
    """Says outside a flow that a version became the champion, and returns when the server has it."""
    resource = Resource.model_validate(_resource(project))
    _send(client, Event(event=event_name(MODEL_PROMOTED), resource=resource, payload=_promoted(project, model, version)))


def _promoted(project: str, model: str, version: int) -> dict[str, Any]:
    return {"project": project, "model": model, "version": version}


def _send(client: SyncPrefectClient, event: Event) -> None:
    client.request("POST", "/events", json=[event.model_dump(mode="json")]).raise_for_status()


def _resource(project: str) -> dict[str, str]:
    return {"prefect.resource.id": resource_of(project), "prefect.resource.name": project}
