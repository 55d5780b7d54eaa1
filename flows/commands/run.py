"""`kinora run`: asks the planner first; only what is stale starts Prefect, Ray and torch."""

import difflib

import click

from flows.commands.options import Invocation, remember_source, resolve, settings_options, source_options
from flows.commands.output import print_table, remark


@click.command()
@click.argument("flow", default="footage_to_model")
@source_options
@settings_options
def run(
    flow: str,
    project: str | None,
    profile: str | None,
    config_file: str | None,
    overrides: tuple[str, ...],
    source: str | None,
    manifest: str | None,
) -> int:
    """Run FLOW: from footage to a promoted model, or one stage of it; what is fresh is skipped.

    FLOW is footage_to_model (the default), ingest, train_captioner, caption, train_vae, encode, train_dit, evaluate or promote.
    """
    from components.operations.plan import FLOW_STAGES, short_of_disk
    from components.operations.plan import plan as plan_stages
    from components.operations.reported import report_is_due
    from components.store import mirror

    name = flow.replace("-", "_")
    if name not in FLOW_STAGES:
        close = difflib.get_close_matches(name, FLOW_STAGES, n=1)
        tip = f"did you mean `{close[0]}`?" if close else f"the flows are {', '.join(FLOW_STAGES)}"
        raise click.UsageError(f"`{flow}` is not a flow; hint: {tip}")
    asked = resolve(project, profile, config_file, overrides, source, manifest)
    plans = plan_stages(asked.config, asked.project, asked.source, FLOW_STAGES[name])
    if all(stage.action == "skip" for stage in plans):
        print_table(("stage", "result"), [(stage.stage, f"fresh: {stage.why}") for stage in plans])
        if report_is_due(asked.project):
            _report_again(asked)
        mirror.push(asked.project)  # what an earlier push could not
        remark(f"project `{asked.project.name}` is up to date; nothing was started")
        _point_to(asked)
        return 0
    running = [stage for stage in plans if stage.action == "run"]
    first = f"the first is `{running[0].stage}` ({running[0].why})"
    remark(f"project `{asked.project.name}`: {len(running)} of {len(plans)} stages to run, {first}")
    if (short := short_of_disk(plans, asked.project)) is not None:
        remark(f"warning: {short}")
    remember_source(asked.project, asked.source)
    _run(name, asked)
    return 0


def _run(flow: str, asked: Invocation) -> None:
    """Runs the flow, which writes the report, and says what became of each stage."""
    from flows import embedded

    embedded.start()  # while the rest is imported
    from rich.console import Console

    from components.report.summary import summary_lines
    from flows.finishing import watched_course
    from flows.runner import RunSettings, run_flow

    settings = RunSettings(
        project=asked.project.name,
        source=str(asked.source.folder) if asked.source.folder else None,
        manifest=str(asked.source.manifest) if asked.source.manifest else None,
        profile=asked.profile,
        overrides=asked.overrides,
    )
    with watched_course() as course:
        outcomes = run_flow(flow, settings)
    if course.report is None:  # another run was quicker
        print_table(("stage", "result"), [(outcome.stage, f"fresh: {outcome.why}") for outcome in outcomes])
        return
    console = Console(soft_wrap=False)
    for line in summary_lines(course.report):
        console.print(line)


def _report_again(asked: Invocation) -> None:
    """Writes the report of a run that ended before it could."""
    from components.jobs.finish import rewrite_report
    from components.jobs.run import Run, unseen

    rewrite_report(Run(asked.config, asked.project, asked.source.folder, asked.source.manifest, unseen))


def _point_to(asked: Invocation) -> None:
    """Names the files that are worth opening, and what to type next."""
    folder = asked.project.folder
    for name in ("report.html", "summary.json", "samples", "sheets"):
        if (folder / name).exists():
            remark(f"  {folder / name}")
    chosen = "" if asked.project.name == "demo" else f" --project {asked.project.name}"
    profile = f" --profile {asked.profile}" if asked.profile else ""
    prompt = "a red square moving left" if asked.source.folder is None else "what your footage shows"
    remark(f'next: `kinora generate "{prompt}" -o sample.mp4{chosen}{profile}`, `kinora show models{chosen}{profile}`')
