"""`kinora promote`: the candidate becomes the champion by hand."""

import os
from typing import Any

import click

from flows.commands.options import resolve, settings_options
from flows.commands.output import remark

KINDS = ("text-to-video", "video-vae", "captioner")


@click.command()
@click.argument("name", default="text-to-video", type=click.Choice(KINDS))
@click.option("--version", "reference", default="candidate", show_default=True, metavar="N", help="A version number, or an alias.")
@click.option("--force", is_flag=True, help="Promote even what the gate refused.")
@settings_options
def promote(name: str, reference: str, force: bool, **options: Any) -> None:
    """Make a version of NAME (text-to-video, video-vae or captioner) the champion."""
    from components.registry import gates, models

    project = resolve(**options).project
    version = models.lookup(project, name, reference)  # type: ignore[arg-type]
    if version.tags.get(models.VERDICT_TAG) == "reject" and not force:
        why = version.tags.get(models.REASONS_TAG) or "no reason is written down"
        raise ValueError(f"the gate refused version {version.number} of `{version.name}` ({why}); hint: `--force` promotes it all the same")
    champion = models.find(project, name, models.CHAMPION)  # type: ignore[arg-type]
    by_hand = gates.Verdict([gates.Check("by hand", None, None, None, True, "a person chose it")])
    models.promote(project, name, version, by_hand, champion)  # type: ignore[arg-type]
    before = f", before it was version {champion.number}" if champion and champion.number != version.number else ""
    remark(f"version {version.number} of `{version.name}` is the champion{before}")
    if name == "text-to-video" and (champion is None or champion.number != version.number):
        _tell(project.name, version.name, version.number)


def _tell(project: str, model: str, version: int) -> None:
    """Starts what is deployed on `model.promoted`, as a promotion by the gate does; without a server nothing is deployed."""
    if not os.environ.get("PREFECT_API_URL"):
        return
    from flows import events
    from flows.server import NoServerError, server

    try:
        with server() as client:
            events.model_promoted_by_hand(client, project, model, version)
    except NoServerError as error:
        what, _, hint = str(error).partition("; hint: ")
        remark(f"warning: what is deployed on `model.promoted` was not told ({what}); hint: {hint}")
