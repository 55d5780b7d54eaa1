"""Watches the folders of the deployments on `footage.arrived`: the server says which there are, so a new one needs no restart."""

import logging
from pathlib import Path

from prefect.client.orchestration import get_client
from prefect.client.schemas.responses import DeploymentResponse

from components.config import load_config
from components.deployments import FOOTAGE_ARRIVED
from components.operations.arrivals import Arrivals
from components.store.project import Project, project_name
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
            listed = [found for found in registered(client, event_tag(FOOTAGE_ARRIVED)) if not found.paused]
            kept = {f"{found.id} {found.version}": found for found in listed}
            self.kept = {key: self.kept.get(key) or _watcher(found) for key, found in kept.items()}
            for watcher in self.kept.values():
                arrival = watcher.look()
                if arrival is not None:
                    project = watcher.project.name
                    events.footage_arrived(client, project, str(watcher.source), arrival.files, arrival.id)
                    watcher.tell(arrival)
                    logger.info("footage arrived in %s: %d files, project %s", watcher.source, arrival.files, project)


def _watcher(found: DeploymentResponse) -> Arrivals:
    given, job = found.parameters, found.job_variables
    config = load_config(given.get("profile"), given.get("overrides") or (), job.get("env", {}).get("KINORA_CONFIG"))
    source, manifest = Path(given["source"]), given.get("manifest")
    project = Project(
        Path(job.get("working_dir", ".")) / config.root, project_name(given.get("project") or source.name), config.cluster.storage
    )
    return Arrivals(config, project, source, Path(manifest) if manifest else None)
