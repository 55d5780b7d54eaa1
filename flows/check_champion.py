"""The flow that tries a promoted champion, and takes it back where it makes no videos."""

import base64
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import State, flow
from prefect.artifacts import create_image_artifact, create_markdown_artifact
from prefect.states import Completed

from components.config import load_config
from components.jobs.run import Run, unseen
from components.store.project import Project, project_of

if TYPE_CHECKING:
    from components.jobs.check_champion import Checked


@flow(name="check_champion", persist_result=False)
def check_champion(project: str | None = None, profile: str | None = None, overrides: list[str] | None = None) -> State[None]:
    """Loads the champion as a user would and generates a few videos; the previous champion serves again where it fails.

    Args:
        project: Whose champion; empty is `demo`.
        profile: The profile of pipelines.yaml; empty takes its defaults.
        overrides: Settings that win over the profile, one `section.name=value` each, for example `gate.max_repeat_share=0.4`.
    """
    from components.jobs.check_champion import check_champion as check  # torch is not for those who only register this flow

    config = load_config(profile, tuple(overrides or ()))
    place = Project(Path(config.root), project_of(project), config.cluster.storage)
    found = check(Run(config, place, None, None, unseen))
    publish(found)
    return Completed(message=found.said)


def publish(found: "Checked") -> None:
    """Puts the picture of the champion's videos into Prefect, and what was found."""
    create_markdown_artifact(markdown=found.said, key="champion-check", description="check_champion")
    if found.sheet is not None:
        picture = base64.b64encode(found.sheet.read_bytes()).decode()
        create_image_artifact(image_url=f"data:image/png;base64,{picture}", key="champion-videos", description=found.said)
