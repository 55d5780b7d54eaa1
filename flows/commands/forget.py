"""`kinora forget`: takes footage down."""

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from flows.commands.options import json_option, resolve, settings_options
from flows.commands.output import print_json, remark

if TYPE_CHECKING:
    from components.operations.forget import Forgotten
    from flows.commands.options import Invocation


@click.command()
@click.argument("file")
@click.option("--yes", is_flag=True, help="Do not ask.")
@settings_options
@json_option
def forget(file: str, yes: bool, as_json: bool, **options: Any) -> int:
    """Take FILE down: its rows, blobs, latents, pictures; FILE is a path, a file's name, or the id of a video or a clip.

    The file itself stays where it lies, but no later run reads it again.
    """
    from components.operations.forget import forget as take_down
    from components.operations.lineage import file_lineage
    from flows.pictures import remove_pictures

    asked = resolve(**options)
    for one in file_lineage(asked.project, file):
        named = one["uri"] or one["video_id"]
        remark(f"`{named}`: {len(one['clips'])} clips, read by {_named(one['models'])}")
        if one["copies"]:
            remark(f"  near copies in {len(one['copies'])} other files stay; forget them by id: {', '.join(one['copies'])}")
    if not (yes or _confirmed()):
        remark("nothing was taken down")
        return 1
    done = take_down(asked.project, file, lambda: remark("waiting for the stages that run; no later one begins before this is done"))
    pictures = remove_pictures(asked.project)
    _rebuild_report(asked, done)
    if as_json:
        print_json([asdict(one) for one in done])
        return 0
    for taken in done:
        _say(taken)
    if pictures:
        remark(f"{pictures} pictures of footage removed from Prefect")
    if not done:
        remark("it was taken down before; nothing is left to do")
    return 0


def _confirmed() -> bool:
    if not sys.stdin.isatty():
        raise click.UsageError("a take-down is for good and nobody is there to confirm it; hint: `--yes`")
    return click.confirm("Take this down for good?", err=True)


def _say(one: "Forgotten") -> None:
    remark(
        f"{one.video_id[:16]}: {one.clips} clips and {one.samples} samples removed, {one.bytes_freed / 1e6:.1f} MB of tables freed, "
        f"{len(one.pictures)} pictures and evaluations removed"
    )
    for model in one.models:
        aliases = f" ({', '.join(model['aliases'])})" if model["aliases"] else ""
        remark(f"  `{model['model']}` version {model['version']}{aliases} read it and is marked `rows removed`")
    for place in one.places:
        remark(f"  the file itself was left at `{place}`; it is not read again")
    remark("`kinora plan` says what a run would make anew")


def _named(models: list[dict[str, Any]]) -> str:
    registered = [model for model in models if model["version"] is not None]
    said = [f"{model['model']} version {model['version']}" for model in registered]
    return ", ".join(said) if said else f"{len(models)} trainings that are not registered" if models else "no model"


def _rebuild_report(asked: "Invocation", done: "list[Forgotten]") -> None:
    """Writes the report again without what is gone, when there was one."""
    if not any("report.html" in one.pictures for one in done):
        return
    from components.jobs.finish import rewrite_report
    from components.jobs.run import Run, unseen

    rewrite_report(Run(asked.config, asked.project, asked.source.folder, asked.source.manifest, unseen))
