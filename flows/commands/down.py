"""`kinora down`: stops the servers that `kinora up` started, and nothing else."""

from pathlib import Path
from typing import Any

import click

from flows.commands.options import resolve, root_options
from flows.commands.output import remark


@click.command()
@root_options
def down(**options: Any) -> None:
    """Stop the servers that `kinora up` started on this root."""
    from components.operations import servers

    root = resolve(project=None, **options).config.root
    stopped = servers.down(Path(root), remark)
    remark(f"stopped: {', '.join(stopped)}" if stopped else f"no server of Kinora's runs on `{root}`")
