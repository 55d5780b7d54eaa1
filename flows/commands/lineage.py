"""`kinora lineage`: from a model to its source files, or from a file to the models that read it."""

from pathlib import Path
from typing import Any

import click

from flows.commands.options import json_option, resolve, settings_options
from flows.commands.output import print_json
from flows.commands.promote import KINDS

FIRST_FILES, SHORT = 5, 12


@click.command()
@click.argument("name", default="champion", metavar="MODEL|FILE")
@click.option("--kind", default="text-to-video", show_default=True, type=click.Choice(KINDS), help="Of the model.")
@click.option("--all", "everything", is_flag=True, help="List every file and clip.")
@settings_options
@json_option
def lineage(name: str, kind: str, everything: bool, as_json: bool, **options: Any) -> None:
    """Walk from MODEL (champion, candidate, a version's number, models:/...) to its source files, or from FILE to models.

    FILE is a path, a file's name, or the id of a video or a clip.
    """
    from components.operations.lineage import file_lineage, model_lineage

    project = resolve(**options).project
    if _means_a_model(name):
        found = model_lineage(project, kind, name)
        if as_json:
            print_json(found)
        else:
            _print_model(found, everything, "")
        return
    files = file_lineage(project, name)
    if as_json:
        print_json(files)
        return
    for file in files:
        _print_file(file, everything)


def _means_a_model(name: str) -> bool:
    aliases = ("champion", "candidate", "previous-champion")
    return name in aliases or name.startswith("models:/") or (name.isdigit() and not Path(name).exists())


def _print_model(model: dict[str, Any], everything: bool, indent: str, elsewhere: str | None = None) -> None:
    """Prints a model and what it stands on; `elsewhere` is where another project's registry has it."""
    training, code = model["training"], model["code"]
    say = _sayer(indent)
    named = elsewhere if elsewhere is not None and model["version"] is None else _name_of(model)
    say(named + (f", weights {model['weights'][:SHORT]}" if model["weights"] else ""))
    say = _sayer(indent + "  ")
    if code["version"]:
        commit = f", commit {code['commit'][:SHORT]}{' and changes' if code['changed'] == 'true' else ''}" if code["commit"] else ""
        when = f" on {training['started_at']}" if training["started_at"] else ""
        key = f" {training['key'][:SHORT]}" if training["key"] else ""
        say(f"trained by {training['stage']}{key}{when}, code {code['version']}{commit}")
        say(f"settings {str(model['settings'])[:SHORT]}, maker {str(model['maker'])[:SHORT]}")
    for table in model["tables"]:
        kept = f"tag {table['tag']}" if table["kept"] else "which is no longer kept"
        say(
            f"read {table['rows']} rows of table {table['table']} version {table['version']}, {kept}; digest {table['rows_digest'][:SHORT]}"
        )
    for removed in model["rows_removed"]:
        say(f"rows removed: {removed['clips']} clips of {removed['video_id'][:SHORT]} on {removed['at']}")
    files = model["files"] or []
    if model["files"] is None:
        say("which rows these were is not written down in this project's folder")
    if files:
        say(f"cut from {len(files)} files, {sum(file['clips'] for file in files)} clips:")
    shown = files if everything else files[:FIRST_FILES]
    for file in shown:
        say(f"  {_file(file)}")
    if len(shown) < len(files):
        say(f"  and {len(files) - len(shown)} more; `--all` lists them")
    for below in model["stands_on"]:
        say(f"stands on {below['kind']}:")
        _print_model(below, everything, indent + "    ", model["base"] if below["kind"] == model["kind"] else None)


def _print_file(file: dict[str, Any], everything: bool) -> None:
    say = _sayer("")
    say(f"{file['uri'] or 'a file that was taken down'} ({file['status']})")
    say = _sayer("  ")
    say(f"sha256 {file['video_id']}")
    for place in [place for place in file["places"] or [] if place != file["uri"]]:
        say(f"also at {place}")
    for name in ("source", "licence", "rights"):
        if file[name]:
            say(f"{name}: {file[name]}")
    if removed := file["rows_removed"]:
        say(
            f"rows removed: {removed['clips']} clips on {removed['at']}"
            + ("" if removed["done"] else ", not finished: run `kinora forget`")
        )
    clips = file["clips"]
    say(f"{len(clips)} clips, {sum(bool(clip['keep']) for clip in clips)} kept")
    shown = clips if everything else clips[:FIRST_FILES]
    for clip in shown:
        span = f"{clip['start_seconds']:.2f} to {clip['end_seconds']:.2f} s" if clip["start_seconds"] is not None else "an image"
        fate = clip["split"] if clip["keep"] else f"dropped: {clip['drop_reason']}"
        say(f"  {clip['clip_id']}: scene {clip['scene_index']}, {span}, {fate}: {clip['caption'] or 'no caption'}")
    if len(shown) < len(clips):
        say(f"  and {len(clips) - len(shown)} more; `--all` lists them")
    say("read by" if file["models"] else "no model read it")
    for model in file["models"]:
        how = f"{model['clips']} clips" if model["clips"] else f"through {' and '.join(model['through'])}"
        say(f"  {_name_of(model)}: {how}")


def _name_of(model: dict[str, Any]) -> str:
    if model["version"] is None:
        return f"{model['kind']}, not registered"
    return f"{model['model']} version {model['version']}" + (f" ({', '.join(model['aliases'])})" if model["aliases"] else "")


def _file(file: dict[str, Any]) -> str:
    named = file["uri"] or f"a file that was taken down, sha256 {file['video_id'][:SHORT]}"
    words = [f"{file['clips']} clips of {file['scenes']} scenes", file["licence"], file["rights"], file["source"]]
    removed = [f"rows removed on {file['rows_removed']}"] if file.get("rows_removed") else []
    return f"{named}: {', '.join(str(word) for word in [*words, *removed] if word)}"


def _sayer(indent: str) -> Any:
    return lambda text: click.echo(indent + text)
