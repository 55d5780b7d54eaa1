"""What starts a deployment after an event: an automation of Prefect that the deployment owns."""

import json
from uuid import UUID

from prefect.automations import AutomationCore
from prefect.client.orchestration import SyncPrefectClient
from prefect.events import DeploymentEventTrigger

from components.deployments import FOOTAGE_ARRIVED, Deployment
from flows import events


def trigger(deployment: Deployment) -> DeploymentEventTrigger | None:
    """Answers what starts a deployment after an event; without a project of its own it checks the project of any promoted model."""
    if deployment.on is None:
        return None
    of_any = deployment.on != FOOTAGE_ARRIVED and deployment.project is None
    return DeploymentEventTrigger(
        name=f"{_named(deployment)}{deployment.on}",
        enabled=deployment.active,
        expect={events.event_name(deployment.on)},
        match={"prefect.resource.id": events.resource_of("*" if of_any else deployment.project_name)},
        parameters={"project": "{{ event.payload.project }}"} if of_any else None,
    )


def has_trigger(client: SyncPrefectClient, deployment: Deployment, registered: UUID) -> bool:
    """Answers whether the server holds what starts a registered deployment, and holds it switched on.

    The server does not say which automations a deployment owns, so they are told by their names; a person's own are left alone.
    """
    wanted, related = _automation(deployment, registered), client.read_resource_related_automations(_owner(registered))
    found = [essence(one) for one in related if one.name.startswith(_named(deployment))]
    return found == ([] if wanted is None else [essence(wanted)])


def make_trigger(client: SyncPrefectClient, deployment: Deployment, registered: UUID) -> None:
    """Makes what starts a registered deployment, in place of what did."""
    remove_trigger(client, registered)
    wanted = _automation(deployment, registered)
    if wanted is not None:
        client.create_automation(wanted)


def remove_trigger(client: SyncPrefectClient, registered: UUID) -> None:
    """Removes what starts a registered deployment."""
    client.delete_resource_owned_automations(_owner(registered))


def essence(automation: AutomationCore) -> str:
    """Answers what an automation does as text; the server adds ids."""
    said = automation.model_dump(mode="json", include={"name", "description", "enabled", "trigger", "actions"})
    for field in ("expect", "after", "for_each"):
        said["trigger"][field] = sorted(said["trigger"][field])
    said["trigger"].pop("id", None)
    return json.dumps(said, sort_keys=True)


def _automation(deployment: Deployment, registered: UUID) -> AutomationCore | None:
    wanted = trigger(deployment)
    if wanted is None:
        return None
    wanted.set_deployment_id(registered)
    return wanted.as_automation()


def _named(deployment: Deployment) -> str:
    return f"kinora: {deployment.name} on "


def _owner(registered: UUID) -> str:
    return f"prefect.deployment.{registered}"
