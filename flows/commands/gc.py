"""`kinora gc`: removes what nothing refers to."""

from typing import Any

import click

from flows.commands.options import json_option, resolve, settings_options
from flows.commands.output import print_json, print_table, remark


@click.command()
@click.option("--dry-run", is_flag=True, help="List what would go; remove nothing.")
@settings_options
@json_option
def gc(dry_run: bool, as_json: bool, **options: Any) -> None:
    """Remove what nothing refers to: checkpoints and models of no training, old table versions, drafts, samples, Ray's leftovers."""
    from components.operations.gc import by_kind, collect

    asked = resolve(**options)
    if not asked.project.folder.is_dir():
        raise ValueError(f"there is no project `{asked.project.name}` in `{asked.project.root}`; hint: `kinora run` makes one")
    found, notes = collect(asked.config, asked.project, dry_run)
    for note in notes:
        remark(note)
    if as_json:
        print_json([{"kind": one.kind, "name": one.name, "bytes": one.num_bytes} for one in found])
        return
    if dry_run:
        print_table(("kind", "what", "frees"), [(one.kind, one.name, _megabytes(one.num_bytes)) for one in found])
    else:
        print_table(("kind", "removed", "freed"), [(kind, count, _megabytes(num)) for kind, (count, num) in by_kind(found).items()])
    total = _megabytes(sum(one.num_bytes for one in found))
    remark(f"{len(found)} things {'would free' if dry_run else 'freed'} {total}" if found else "nothing is left over")


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:.1f} MB"
