"""Watches the folders of the deployments on `footage.arrived`: the server says which there are, so a new one needs no restart."""

import logging
from collections.abc import Sequence
from pathlib import Path

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.responses import DeploymentResponse

from components.config import load_config
from components.deployments import FOOTAGE_ARRIVED
from components.operations.arrivals import Arrivals
from components.store.project import Project, project_of
from flows import events
from flows.deployments import event_tag, registered

logger = logging.getLogger("kinora")


class Watchers:
    """One watcher a deployment, kept between two looks and made anew when the deployment changes."""

    def __init__(self) -> None:
        self.kept: dict[str, Arrivals] = {}

    def look(self) -> None:
        """Looks at each source once, and tells of what came to rest."""
        with get_client(sync_client=True) as client:
            self.look_for(client, [found for found in registered(client, event_tag(FOOTAGE_ARRIVED)) if not found.paused])

    def look_for(self, client: SyncPrefectClient, deployments: Sequence[DeploymentResponse]) -> None:
        """Looks at the sources of some deployments; one that cannot be looked at is a remark, and keeps no other from it."""
        before, self.kept = self.kept, {}
        for found in deployments:
            key = f"{found.id} {found.version}"
            try:
                self.kept[key] = before.get(key) or _watcher(found)
                _look(client, self.kept[key])
            except (ValueError, OSError, KeyError) as error:
                logger.warning("the footage of deployment `%s` could not be looked at: %s", found.name, error)


def _look(client: SyncPrefectClient, watcher: Arrivals) -> None:
    arrival = watcher.look()
    if arrival is not None:
        project = watcher.project.name
        events.footage_arrived(client, project, str(watcher.source), arrival.files, arrival.id)
        watcher.tell(arrival)
        logger.info("footage arrived in %s: %d files, project %s", watcher.source, arrival.files, project)


def _watcher(found: DeploymentResponse) -> Arrivals:
    given, job = found.parameters, found.job_variables
    config = load_config(given.get("profile"), given.get("overrides") or (), job.get("env", {}).get("KINORA_CONFIG"))
    if not given.get("source"):
        raise ValueError("it has no `source`; hint: `kinora deploy` gives it back the one of pipelines.yaml")
    source, manifest = Path(given["source"]), given.get("manifest")
    root = Path(job.get("working_dir", ".")) / config.root
    project = Project(root, project_of(given.get("project"), source), config.cluster.storage)
    return Arrivals(config, project, source, Path(manifest) if manifest else None)
