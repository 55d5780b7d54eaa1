"""Prefect's automations for the night: a run that fell silent is marked, and a failure is told to a webhook."""

import json
import os
from collections.abc import Mapping
from datetime import timedelta
from typing import cast
from uuid import UUID

from prefect.automations import AutomationCore, EventTrigger, Posture
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events.actions import CallWebhook, ChangeFlowRunState

from components.store.secret_files import read_secret
from flows.deployments import HEARTBEAT_SECONDS, TAG
from flows.triggers import essence

SILENT, FAILED = "kinora: a silent run is crashed", "kinora: a failure is told"
SILENT_SECONDS = 3 * HEARTBEAT_SECONDS
WEBHOOK_BLOCK = "kinora-failures"
WEBHOOK = "KINORA_WEBHOOK_URL"
RUNS: dict[str, str | list[str]] = {"prefect.resource.id": "prefect.flow-run.*"}
OURS: dict[str, str | list[str]] = {"prefect.resource.id": f"prefect.tag.{TAG}", "prefect.resource.role": "tag"}
BEAT = "prefect.flow-run.heartbeat"
ENDS = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed", "Skipped", "Suspended", "Paused")}
MESSAGE = f"it was silent for {SILENT_SECONDS} seconds, so its process is gone"
TOLD = json.dumps(
    {
        "flow": "{{ flow.name }}",
        "run": "{{ flow_run.name }}",
        "id": "{{ flow_run.id }}",
        "state": "{{ flow_run.state.name }}",
        "text": "kinora: {{ flow.name }} {{ flow_run.name }} is {{ flow_run.state.name }}",
    }
)


def silent_run() -> AutomationCore:
    """Answers the automation that marks a run crashed when its heart, which beat once, is not heard any more."""
    return AutomationCore(
        name=SILENT,
        description="Its slot is free for the next run, which resumes where it was.",
        trigger=EventTrigger(
            after={BEAT},
            expect={BEAT, *ENDS},
            match=RUNS,
            match_related=OURS,
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=SILENT_SECONDS),
        ),
        actions=[ChangeFlowRunState(name="Crashed", state=StateType.CRASHED, message=MESSAGE, force=False)],
    )


def told_failure(webhook: UUID) -> AutomationCore:
    """Answers the automation that posts a failed or crashed run to a webhook block."""
    return AutomationCore(
        name=FAILED,
        description="To the address of the block that `kinora deploy` made from KINORA_WEBHOOK_URL.",
        trigger=EventTrigger(
            expect={"prefect.flow-run.Failed", "prefect.flow-run.Crashed"},
            match=RUNS,
            match_related=OURS,
            for_each={"prefect.resource.id"},
            posture=Posture.Reactive,
            threshold=1,
            within=timedelta(0),
        ),
        actions=[CallWebhook(block_document_id=webhook, payload=TOLD)],
    )


def webhook_address(environment: Mapping[str, str] = os.environ) -> str | None:
    """Reads the address that failures are told to: KINORA_WEBHOOK_URL, or a file that KINORA_WEBHOOK_URL_FILE names; it is a secret.

    Raises:
        ValueError: it is no address, or its file is one that others may read; the message does not repeat it.
    """
    file = environment.get(f"{WEBHOOK}_FILE")
    address = read_secret(file, f"{WEBHOOK}_FILE", may_be_empty=True) if file else environment.get(WEBHOOK, "").strip()
    if address and not address.startswith(("http://", "https://")):
        raise ValueError(f"{WEBHOOK} is not an address; hint: it starts with https://")
    return address or None


def register_automations(client: SyncPrefectClient, address: str | None) -> dict[str, str]:
    """Makes both automations as they are here, by their names, and says what became of each; without an address the second goes."""
    done = {SILENT: _make(client, silent_run())}
    if address is not None:
        block = cast(UUID, Webhook.model_validate({"method": "POST", "url": address}).save(WEBHOOK_BLOCK, overwrite=True))
        done[FAILED] = _make(client, told_failure(block))
    elif _remove(client, FAILED):
        done[FAILED] = "removed"
    return done


def _make(client: SyncPrefectClient, wanted: AutomationCore) -> str:
    found = client.read_automations_by_name(wanted.name)
    for twin in found[1:]:
        client.delete_automation(twin.id)
    if not found:
        client.create_automation(wanted)
        return "created"
    if essence(found[0]) == essence(wanted):
        return "unchanged"
    client.update_automation(found[0].id, wanted)
    return "updated"


def _remove(client: SyncPrefectClient, name: str) -> bool:
    found = client.read_automations_by_name(name)
    for automation in found:
        client.delete_automation(automation.id)
    return bool(found)
