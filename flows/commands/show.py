"""`kinora show`: settings, the funnel, clips, their shapes and models of a project, and what made a video."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from flows.commands.options import Invocation, json_option, resolve, settings_options
from flows.commands.output import print_json, print_table, remark

CLIP_COLUMNS = (
    "clip_id",
    "video_id",
    "start_seconds",
    "end_seconds",
    "split",
    "keep",
    "drop_reason",
    "quarantine",
    "caption",
    "caption_by",
)
SAMPLED = (("sampler", ""), ("num_inference_steps", " steps"), ("guidance_scale", " guidance"))  # of all settings that a version keeps
SHORT = 12  # characters of a digest that a table shows


@click.group()
def show() -> None:
    """Print settings, funnel, clips, shapes, models, or what made a video."""


@show.command()
@settings_options
@json_option
def settings(as_json: bool, **options: Any) -> None:
    """Print the settings of a run, resolved."""
    import yaml

    values = resolve(**options).config.model_dump(mode="json")
    if as_json:
        print_json(values)
    else:
        click.echo(yaml.safe_dump(values, sort_keys=False, width=120), nl=False)


@show.command()
@settings_options
@json_option
def funnel(as_json: bool, **options: Any) -> None:
    """Print how much of the footage became clips, and how many clips each rule dropped."""
    asked = _with_table(resolve(**options), "clips")
    from components.curate.funnel import funnel as funnel_of
    from components.store import tables

    found = tables.videos(asked.project).read(["status", "reason"])
    steps = funnel_of(found, tables.clips(asked.project).read(["keep", "drop_reason", "quarantine"]))
    if as_json:
        print_json([asdict(step) for step in steps])
        return
    said = [(step, "; ".join(f"{count} {reason}" for reason, count in step.reasons)) for step in steps]
    print_table(("step", "kept", "dropped", "why"), [(step.what, step.kept, step.dropped or "", why) for step, why in said])


@show.command()
@settings_options
@json_option
@click.option("--limit", default=20, show_default=True, help="How many clips; 0 for all.")
@click.option("--where", metavar="FILTER", help="Which clips, for example \"split = 'test'\".")
def clips(as_json: bool, limit: int, where: str | None, **options: Any) -> None:
    """Print the clips of a project."""
    from components.store.tables import clips as clips_of

    asked = _with_table(resolve(**options), "clips")
    table = clips_of(asked.project)
    try:
        rows = table.read(CLIP_COLUMNS, where)
    except ValueError as error:
        if where is None:
            raise
        raise ValueError(f"`--where {where}` is not a filter of clips: {_first_line(error)}; hint: for example `keep = true`") from error
    shown = rows[:limit] if limit else rows
    if as_json:
        print_json(shown)
        return
    print_table(CLIP_COLUMNS, [[_short(name, row[name]) for name in CLIP_COLUMNS] for row in shown])
    if len(shown) < len(rows):
        remark(f"{len(shown)} of {len(rows)} clips; `--limit 0` prints all")


@show.command()
@settings_options
@json_option
def shapes(as_json: bool, **options: Any) -> None:
    """Print which shapes the clips have, and what was lost of the footage that they were planned from."""
    asked = _with_table(resolve(**options), "clips")
    from components.ingest.shapes import Plan
    from components.operations.shapes import clip_shapes, of_padding

    found = clip_shapes(asked.config, asked.project)
    if as_json:
        print_json(asdict(found))
        return
    total = sum(shape.clips * (shape.tokens or 0) for shape in found.shapes) or 1
    print_table(
        ("frames", "height", "width", "clips", "kept", "tokens each", "padding", "of all tokens"),
        [
            (
                *list(vars(shape).values())[:-1],
                "" if shape.padding is None else f"{shape.padding:.1%}",
                f"{shape.clips * shape.tokens / total:.1%}" if shape.tokens else "",
            )
            for shape in found.shapes
        ],
    )
    if found.plan is not None:
        plan = Plan.of(found.plan)
        shares = {"kept": plan.kept, **plan.discarded}
        click.echo()
        print_table(("footage planned from", "of its pixels times frames"), [(what, f"{share:.1%}") for what, share in shares.items()])
        remark(f"{plan.used} of {plan.pieces} scenes and images are used; `kinora show funnel` has every file that is not")
    if found.padding_to_largest is not None:
        remark(f"no clip is padded to another: to the largest shape that would be {found.padding_to_largest:.1%} of all tokens")
        remark(f"patches: {of_padding(asked.config, found)}")


@show.command()
@settings_options
@json_option
def models(as_json: bool, **options: Any) -> None:
    """Print the registered models of a project, newest first."""
    from typing import get_args

    from components.registry import models as registry

    project = resolve(**options).project
    versions = [version for kind in get_args(registry.Kind) for version in registry.list_versions(project, kind)]
    if not versions:
        raise ValueError(
            f"project `{project.name}` has no models yet; hint: `kinora run --project {project.name}` trains and registers them"
        )
    if as_json:
        print_json([asdict(version) for version in versions])
        return
    print_table(
        ("model", "version", "aliases", "verdict", "made", "weights", "sampled with", "why"),
        [
            (
                version.name,
                version.number,
                ", ".join(version.aliases),
                version.tags.get(registry.VERDICT_TAG),
                time.strftime("%Y-%m-%d %H:%M", time.localtime(version.created_seconds)),
                version.weights[:SHORT],
                ", ".join(str(version.generate[name]) + unit for name, unit in SAMPLED if name in version.generate),
                version.tags.get(registry.REASONS_TAG),
            )
            for version in versions
        ],
    )


@show.command()
@click.argument("file")
def video(file: str) -> None:
    """Print what made a video that `kinora generate` wrote: prompt, seed, model, settings, and which files were given."""
    import json

    from components.media.probe import read_metadata

    if not Path(file).is_file():
        raise ValueError(f"`{file}` is not a file; hint: name a video that `kinora generate` wrote")
    try:
        said = json.loads(read_metadata(file)["comment"])
    except (ValueError, KeyError) as error:
        raise ValueError(f"`{file}` does not say what made it; hint: name a video that `kinora generate` wrote") from error
    print_json(said)


def _with_table(asked: Invocation, name: str) -> Invocation:
    from components.store.tables import exists

    if not exists(asked.project, name):
        known = sorted(place.parent.parent.name for place in asked.project.root.glob(f"*/tables/{name}.lance"))
        tip = f"the projects are {', '.join(known)}" if known else "`kinora run` makes one"
        raise ValueError(f"project `{asked.project.name}` has no {name} in `{asked.project.root}`; hint: {tip}")
    return asked


def _short(name: str, value: Any) -> Any:
    if name.endswith(("_id", "_by")) and value:
        return value[:SHORT]
    return f"{value:.2f}" if isinstance(value, float) else value


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0].split(", /")[0][:160]
