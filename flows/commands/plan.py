"""`kinora plan`: what a run would do, and why; `kinora plan train_dit`: what that training takes, and whether it fits."""

from typing import TYPE_CHECKING

import click

from flows.commands.options import Invocation, json_option, resolve, settings_options, source_options
from flows.commands.output import duration, print_json, print_table, remark

if TYPE_CHECKING:
    from components.operations.training_plan import TrainingPlan

GIB = 2**30


@click.command()
@click.argument("stage", required=False)
@click.option("--memory", "memory_gib", type=click.FloatRange(min=0, min_open=True), metavar="GIB", help="Of one worker, or of its GPU.")
@click.option("--seconds", type=click.FloatRange(0), default=60.0, show_default=True, help="For steps of train_dit to be tried; 0: none.")
@source_options
@settings_options
@json_option
def plan(
    stage: str | None,
    memory_gib: float | None,
    seconds: float,
    project: str | None,
    profile: str | None,
    config_file: str | None,
    overrides: tuple[str, ...],
    source: str | None,
    manifest: str | None,
    as_json: bool,
) -> None:
    """Say what `kinora run` would do, without doing it; with STAGE train_dit, what that training will take."""
    if stage not in (None, "train_dit"):
        raise ValueError(f"`{stage}` has no plan of its own; hint: `kinora plan`, or `kinora plan train_dit`")
    if stage is None and memory_gib is not None:
        raise ValueError("`--memory` is of a training; hint: `kinora plan train_dit --memory GIB`")
    asked = resolve(project, profile, config_file, overrides, source, manifest)
    if stage is None:
        _plan_run(asked, as_json)
    else:
        _plan_training(asked, None if memory_gib is None else round(memory_gib * GIB), seconds, as_json)


def _plan_run(asked: Invocation, as_json: bool) -> None:
    from components.operations.plan import StagePlan, free_bytes, short_of_disk
    from components.operations.plan import plan as plan_stages
    from components.report.words import size

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


def _plan_training(asked: Invocation, worker_bytes: int | None, seconds: float, as_json: bool) -> None:
    from components.operations.training_plan import plan_training
    from components.report.words import duration as exact
    from components.report.words import number, size

    found = plan_training(asked.config, asked.project, worker_bytes, seconds)
    if as_json:
        print_json(found.as_dict())
        return
    print_table(
        ("latents", "clips", "tokens", "of steps", "memory", "measured", "fits", "step"),
        [
            (
                "x".join(map(str, bucket.latents)),
                bucket.clips,
                number(bucket.tokens),
                number(bucket.share, "%"),
                size(bucket.num_bytes),
                size(bucket.measured_bytes) if bucket.measured_bytes else "",
                "" if bucket.fits is None else ("yes" if bucket.fits else "no"),
                f"{exact(bucket.seconds)}{'' if bucket.is_measured else ', reckoned'}" if bucket.seconds is not None else "",
            )
            for bucket in found.buckets
        ],
    )
    workers = "1 worker" if found.workers == 1 else f"{found.workers} workers"
    room = "" if found.worker_bytes is None else f" of {size(found.worker_bytes)}"
    learn = "" if found.trained == found.parameters else f", beside which {number(found.trained)} of adapters learn"
    remark(
        f"{number(found.parameters)} parameters{learn}; weights, their average and the optimiser's states take "
        f"{size(found.states_bytes)}{room}"
    )
    if held := _in_machines_memory(found):
        remark(held)
    takes = "" if found.seconds is None else f", about {duration(found.seconds)}"
    remark(f"{number(found.steps)} steps of {number(found.tokens / found.steps)} tokens by {workers}, {number(found.tokens)} in all{takes}")
    for note in found.notes:
        remark(note)
    if any(bucket.fits is False for bucket in found.buckets):
        lacking = [bucket for bucket in found.buckets if bucket.fits is False]
        ways = ", or ".join(f"`{way}`" for way in found.ways_out) or "a smaller `dit.size`, or smaller clips by `clip`"
        remark(f"warning: {len(lacking)} of {len(found.buckets)} shapes do not fit in {size(found.worker_bytes or 0)}; hint: {ways}")


def _in_machines_memory(found: "TrainingPlan") -> str:
    """Says what workers have in their machine's memory: each of them, and the first one, which writes checkpoints and lends samples."""
    from components.report.words import size

    alone = found.workers == 1
    each = {"clips": found.clip_bytes, "the model while it starts": 0 if alone else found.start_bytes}
    states = "weights, their average and the optimiser's states at each checkpoint"
    first = {states: found.checkpoint_bytes, "two copies of the average that samples are drawn from": found.sample_bytes}
    each, first = (each | first, {}) if alone else (each, first)
    told = [" and ".join(f"{size(count)} of {what}" for what, count in parts.items() if count) for parts in (each, first)]
    said = ", ".join(f"{who} {what}" for who, what in zip(("a worker has", "the first one has"), told, strict=True) if what)
    most = found.workers * found.clip_bytes + max(found.workers * found.start_bytes, found.checkpoint_bytes + found.sample_bytes)
    together = "" if alone else f"; {size(most)} where one machine has all of them"
    return f"in its machine's memory {said}{together}" if said else ""
