"""The options that verbs share, and what they come to: settings, a project, a source."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from components.config import find_settings_file, load_config
from components.operations.plan import SourceSpec
from components.sections import Config
from components.store.mirror import pull
from components.store.project import Project, project_of
from flows.environment import quiet_environment

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True)
class Invocation:
    """One command line, resolved."""

    config: Config
    project: Project
    source: SourceSpec
    profile: str | None
    overrides: tuple[str, ...]


def root_options(command: Command) -> Command:
    """Adds --profile, --config and --set to a verb."""
    for option in (
        click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Set one setting; may be repeated."),
        click.option("--config", "config_file", metavar="FILE", help="The settings file; else KINORA_CONFIG, else pipelines.yaml."),
        click.option("--profile", metavar="NAME", help="A profile of the settings file: test, laptop, gpu, cluster, servers."),
    ):
        command = option(command)
    return command


def settings_options(command: Command) -> Command:
    """Adds --project, --profile, --config and --set to a verb."""
    project = click.option("--project", metavar="NAME", help="Where the run lives below the root; else `demo`, or the source's name.")
    return project(root_options(command))


def source_options(command: Command) -> Command:
    """Adds --source and --manifest to a verb."""
    for option in (
        click.option("--manifest", metavar="FILE", help="A CSV with file (relative to the CSV), caption, source, licence, rights."),
        click.option("--source", metavar="DIR", help="Your footage; without it the synthetic world is rendered and learned."),
    ):
        command = option(command)
    return command


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON to stdout.")


def resolve(
    project: str | None,
    profile: str | None,
    config_file: str | None,
    overrides: tuple[str, ...],
    source: str | None = None,
    manifest: str | None = None,
) -> Invocation:
    """Answers settings, project and source of a command line; an opened project keeps the source it was given before.

    Raises:
        ValueError: a setting, profile, project name or source that cannot be used.
    """
    if config_file is not None:  # a flow's own processes find the same file
        os.environ["KINORA_CONFIG"] = str(find_settings_file(config_file).resolve())
    config = load_config(profile, overrides)
    root = Path(config.root)
    quiet_environment(root)
    if manifest is not None and source is None and project is None:
        source = str(Path(manifest).resolve().parent)
    place = Project(root, project_of(project, source), config.cluster.storage)
    pull(place)
    return Invocation(config, place, source_of(place, source, manifest), profile, overrides)


def remember_source(project: Project, source: SourceSpec) -> None:
    """Writes a project's source down, so that `--project` alone finds it again."""
    folder = None if source.folder is None else str(source.folder.resolve())
    manifest = None if source.manifest is None else str(source.manifest.resolve())
    project.write_record("source", {"folder": folder, "manifest": manifest})


def source_of(project: Project, source: str | None, manifest: str | None) -> SourceSpec:
    """Answers the source that a run is given, else the one that its project was given before.

    Raises:
        ValueError: the project holds the synthetic world, and another source was given.
    """
    remembered = project.record("source")
    if source is None:
        before = remembered or {"folder": None, "manifest": None}
        folder = before["folder"] or (str(Path(manifest).resolve().parent) if manifest and remembered is None else None)
        listed = manifest or before["manifest"]
        if folder is None and manifest is not None:
            raise ValueError(f"project `{project.name}` holds the synthetic world, which has no manifest; hint: add `--source DIR`")
        return SourceSpec(Path(folder) if folder else None, Path(listed) if listed else None)
    if remembered is not None and remembered["folder"] is None:
        raise ValueError(f"project `{project.name}` holds the synthetic world; hint: give `--source` another `--project NAME`")
    return SourceSpec(Path(source), Path(manifest) if manifest else None)
