"""Settings of one run, read from `pipelines.yaml`, a profile and `--set` overrides; every mistake is one sentence."""

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from components.sections import SIZES, Config, Section

UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")


class SettingsError(ValueError):
    """A setting that cannot be used; the message is one sentence with the way out."""


def find_settings_file(explicit: str | None = None, start: Path | None = None) -> Path:
    """Answers the settings file: the explicit one, else KINORA_CONFIG, else the nearest `pipelines.yaml` upwards."""
    named = explicit or os.environ.get("KINORA_CONFIG")
    if named:
        path = Path(named)
        if not path.is_file():
            raise SettingsError(f"the settings file `{named}` is not there; hint: leave out `--config` to use pipelines.yaml")
        return path
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents, Path(__file__).resolve().parent.parent):
        if (folder / "pipelines.yaml").is_file():
            return folder / "pipelines.yaml"
    raise SettingsError("no `pipelines.yaml` in this folder or above it; hint: `--config FILE` or KINORA_CONFIG names one")


def read_settings_file(path: Path) -> dict[str, Any]:
    """Reads the YAML file and checks its top level."""
    try:
        document = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise SettingsError(f"`{path}` is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict) or not isinstance(document.get("defaults"), dict):
        raise SettingsError(f"`{path}` has no `defaults` mapping; hint: start from the repository's pipelines.yaml")
    if not isinstance(document.get("profiles") or {}, dict) or not isinstance(document.get("deployments") or [], list):
        raise SettingsError(f"`{path}`: `profiles` is a mapping of names and `deployments` a list; hint: start from the repository's")
    unknown = set(document) - {"defaults", "profiles", "deployments"}
    if unknown:
        raise SettingsError(f"`{path}`: `{sorted(unknown)[0]}` is not one of defaults, profiles, deployments")
    return document


def load_config(profile: str | None = None, overrides: Sequence[str] = (), file: str | None = None) -> Config:
    """Resolves the settings: defaults, then the profile, then `key=value` overrides.

    Raises:
        SettingsError: an unknown profile or setting, or a value that does not fit; one sentence.
    """
    document = read_settings_file(find_settings_file(file))
    settings = document["defaults"]
    profiles = document.get("profiles") or {}
    if profile is not None:
        if profile not in profiles:
            raise SettingsError(f"`{profile}` is not a profile{_nearest(profile, profiles)}")
        settings = _merge(_with_whole_sizes(settings), profiles[profile] or {})
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key.strip():
            raise SettingsError(f"`--set {override}` is not `key=value`; hint: for example `--set dit.steps=200`")
        settings = _merge(_with_whole_sizes(settings), _nested(key.strip().split("."), _value(override, value)))
    return _checked(settings)


def changed(config: Config, changes: Mapping[str, Any]) -> Config:
    """Answers settings of which some, by `section.name`, are set otherwise.

    Raises:
        SettingsError: they do not fit together; one sentence.
    """
    settings = config.model_dump(mode="json")
    for name, value in changes.items():
        settings = _merge(settings, _nested(name.split("."), value))
    return _checked(settings)


def _checked(settings: dict[str, Any]) -> Config:
    try:
        return Config.model_validate(settings)
    except ValidationError as error:
        raise SettingsError(explain(error)) from error


def explain(error: ValidationError, model: type[Section] = Config) -> str:
    """Says the first mistake of a validation error of a model in one sentence, with the nearest name for an unknown key."""
    mistakes = error.errors()
    first = next((mistake for mistake in mistakes if mistake["type"] in UNKNOWN), mistakes[0])
    path = _path(first["loc"], model)
    where = ".".join(path)
    if first["type"] in UNKNOWN:
        return f"`{where}` is not a setting{_nearest_setting(path, model)}"
    if first["type"] in ("missing", "missing_argument"):
        return f"`{where}` is missing; hint: copy it from the repository's pipelines.yaml"
    alike = [mistake["msg"].removeprefix("Value error, ") for mistake in mistakes if _path(mistake["loc"], model) == path]
    message = ", or ".join([alike[0], *(f"{said[0].lower()}{said[1:]}" for said in alike[1:])])  # one of each kind that it may be of
    if not where or message.startswith(tuple(f"`{section}." for section in Config.model_fields)):
        return message
    return f"`{where}` = {first['input']!r}: {message[0].lower()}{message[1:]}"


def _path(loc: Sequence[int | str], model: type[Section]) -> list[str]:
    """Answers the names and places of a setting, without those that pydantic gives to validators and to the kinds of a value."""
    path: list[str] = []
    there: Any = model
    for part in loc:
        names, name = _fields(there), str(part)
        if isinstance(part, int) or (names and not name.startswith("function-")):
            path.append(name)
            there = names.get(name)
    return path


def _nearest_setting(path: list[str], model: type[Section]) -> str:
    """Offers the nearest name beside an unknown one, or below its neighbours: `vae.latent_chanels` means one of `vae.size`."""
    names = _names_below(model, path[:-1])
    beside = [name for name in names if "." not in name]
    close = difflib.get_close_matches(path[-1], beside, n=1, cutoff=0.7)
    close = close or [n for n in names if difflib.get_close_matches(path[-1], [n.rpartition(".")[2]], n=1, cutoff=0.7)]
    return f"; did you mean `{'.'.join([*path[:-1], close[0]])}`?" if close else _nearest(path[-1], beside)


def _names_below(model: Any, path: list[str]) -> list[str]:
    for part in path:
        model = _fields(model).get(part)
    deeper = [f"{name}.{below}" for name, kind in _fields(model).items() for below in _names_below(kind, [])]
    return [*_fields(model), *deeper]


def _fields(model: Any) -> dict[str, Any]:
    if isinstance(model, type) and issubclass(model, BaseModel):
        return {name: field.annotation for name, field in model.model_fields.items()}
    return dict.fromkeys(getattr(model, "__dataclass_fields__", {}))


def _nearest(name: str, names: Any) -> str:
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    if close:
        return f"; did you mean `{close[0]}`?"
    return f"; the names are {', '.join(sorted(names))}" if names else ""


def _value(override: str, text: str) -> Any:
    try:
        return yaml.safe_load(text) if text else None
    except yaml.YAMLError as error:
        raise SettingsError(f"the value of `--set {override}` is not YAML; hint: quote it, or close its brackets") from error


def _with_whole_sizes(settings: dict[str, Any]) -> dict[str, Any]:
    """Replaces the names of sizes by all their fields, so that one field alone can be set."""
    whole = dict(settings)
    for section, sizes in SIZES.items():
        there = whole.get(section)
        if isinstance(there, dict) and isinstance(there.get("size"), str) and there["size"] in sizes:
            whole[section] = {**there, "size": asdict(sizes[there["size"]])}
    return whole


def _nested(path: list[str], value: Any) -> dict[str, Any]:
    for part in reversed(path):
        value = {part: value}
    return value


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(over, dict):
        raise SettingsError(f"`{over}` is not a mapping of settings")
    merged = dict(base)
    for key, value in over.items():
        merged[key] = _merge(merged[key], value) if isinstance(merged.get(key), dict) and isinstance(value, dict) else value
    return merged
