"""`kinora rollback`: the previous champion becomes the champion again."""

from typing import Any

import click

from flows.commands.options import resolve, settings_options
from flows.commands.output import remark
from flows.commands.promote import KINDS


@click.command()
@click.argument("name", default="text-to-video", type=click.Choice(KINDS))
@settings_options
def rollback(name: str, **options: Any) -> None:
    """Make the previous champion of NAME (text-to-video, video-vae or captioner) the champion again."""
    from components.registry import models

    version = models.rollback(resolve(**options).project, name)  # type: ignore[arg-type]
    remark(f"version {version.number} of `{version.name}` is the champion again")
