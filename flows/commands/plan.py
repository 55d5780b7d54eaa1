"""`kinora plan`: what a run would do, and why."""

import click

from flows.commands.options import json_option, resolve, settings_options, source_options
from flows.commands.output import duration, print_json, print_table, remark


@click.command()
@source_options
@settings_options
@json_option
def plan(
    project: str | None,
    profile: str | None,
    config_file: str | None,
    overrides: tuple[str, ...],
    source: str | None,
    manifest: str | None,
    as_json: bool,
) -> None:
    """Say what `kinora run` would do, without doing it."""
    from components.operations.plan import StagePlan, free_bytes, short_of_disk
    from components.operations.plan import plan as plan_stages
    from components.report.words import size

    asked = resolve(project, profile, config_file, overrides, source, manifest)
    plans = plan_stages(asked.config, asked.project, asked.source)
    if as_json:
        print_json([stage.as_dict() for stage in plans])
        return
    print_plan(plans)
    running: list[StagePlan] = [stage for stage in plans if stage.action == "run"]
    known = [stage.seconds_expected for stage in running if stage.seconds_expected is not None]
    if not running:
        remark(f"project `{asked.project.name}` is up to date")
    elif len(known) == len(running):
        written, free = sum(stage.bytes_expected or 0 for stage in running), free_bytes(asked.project.folder)
        remark(f"about {duration(sum(known))} and {size(written)} of disk, as these stages took before; {size(free)} are free")
    if (short := short_of_disk(plans, asked.project)) is not None:
        remark(f"warning: {short}")


def print_plan(plans: "list[StagePlan]") -> None:  # type: ignore[name-defined] # noqa: F821
    """Prints stage plans as a table."""
    from components.report.words import size

    print_table(
        ("stage", "action", "rows", "expected", "disk", "resumes from", "why"),
        [
            (
                stage.stage,
                stage.action,
                stage.rows or "",
                duration(stage.seconds_expected),
                size(stage.bytes_expected) if stage.bytes_expected else "",
                stage.resumes_from,
                stage.why,
            )
            for stage in plans
        ],
    )
