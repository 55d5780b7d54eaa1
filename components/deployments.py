"""Deployments: flows that run by a schedule or after an event, read from `pipelines.yaml` and checked to the last override."""

import difflib
import re
from typing import Any, Literal
from zoneinfo import available_timezones

from pydantic import ValidationError, field_validator, model_validator

from components.config import SettingsError, explain, find_settings_file, load_config, read_settings_file
from components.sections import Config, Count, Positive, Section
from components.stages import STAGES
from components.store.project import project_of

FLOWS = ("footage_to_model", *(name for name in STAGES if name != "curate"), "check_champion", "reap")
EventName = Literal["footage.arrived", "model.promoted"]
FOOTAGE_ARRIVED: EventName = "footage.arrived"
MODEL_PROMOTED: EventName = "model.promoted"
EXAMPLE = '`cron: "0 2 * * *"` is every night at two'
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?")
ALIASES = ("@hourly", "@daily", "@midnight", "@weekly", "@monthly", "@yearly", "@annually")
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
CRON_FIELDS: tuple[tuple[str, int, int, dict[str, int]], ...] = (
    ("minute", 0, 59, {}),
    ("hour", 0, 23, {}),
    ("day", 1, 31, {}),
    ("month", 1, 12, {name: number for number, name in enumerate(MONTHS, 1)}),
    ("weekday", 0, 7, {name: number for number, name in enumerate(WEEKDAYS)}),
)
LONGEST_MONTH = {2: 29, 4: 30, 6: 30, 9: 30, 11: 30}


class Deployment(Section):
    """One flow and when it runs: by `cron`, `on` an event, or both; the rest are what it is run with."""

    name: str
    flow: str
    description: str = ""
    cron: str | None = None
    timezone: str = "UTC"
    on: EventName | None = None
    project: str | None = None
    source: str | None = None
    manifest: str | None = None
    profile: str | None = None
    overrides: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    concurrency_limit: Positive = 1
    collision_strategy: Literal["ENQUEUE", "CANCEL_NEW"] = "ENQUEUE"
    retries: Count = 0
    retry_delay_seconds: Count = 60
    active: bool = True

    @property
    def project_name(self) -> str:
        """The project that its runs work in, by the rule of `kinora run`."""
        return project_of(self.project, self.source)

    @field_validator("name")
    @classmethod
    def _name_is_a_slug(cls, name: str) -> str:
        if not NAME.fullmatch(name):
            raise ValueError("a name is of small letters, digits and dashes; hint: for example `nightly-ingest`")
        return name

    @field_validator("flow")
    @classmethod
    def _flow_is_known(cls, flow: str) -> str:
        if flow not in FLOWS:
            close = difflib.get_close_matches(flow, FLOWS, n=1)
            tip = f"did you mean `{close[0]}`?" if close else f"the flows are {', '.join(FLOWS)}"
            raise ValueError(f"that is not a flow; {tip}")
        return flow

    @field_validator("cron")
    @classmethod
    def _cron_is_a_schedule(cls, cron: str | None) -> str | None:
        fault = None if cron is None else cron_fault(cron)
        if fault is not None:
            raise ValueError(f"that is no cron schedule ({fault}); hint: {EXAMPLE}")
        return cron

    @field_validator("timezone")
    @classmethod
    def _timezone_is_known(cls, timezone: str) -> str:
        known = available_timezones()
        if timezone not in known:
            close = difflib.get_close_matches(timezone, known, n=1)
            tip = f"did you mean `{close[0]}`?" if close else "for example `Europe/Berlin`"
            raise ValueError(f"that is not a time zone; hint: {tip}")
        return timezone

    @model_validator(mode="after")
    def _something_starts_it(self) -> "Deployment":
        if self.cron is None and self.on is None:
            raise ValueError(f"nothing starts it; hint: {EXAMPLE}, or `on: {FOOTAGE_ARRIVED}`, or `on: {MODEL_PROMOTED}`")
        if self.on == FOOTAGE_ARRIVED and self.source is None:
            raise ValueError(f"`on: {FOOTAGE_ARRIVED}` needs a folder to look at; hint: add `source: DIR`")
        return self


def load_deployments(file: str | None = None) -> list[Deployment]:
    """Reads the deployments of the settings file and resolves the settings of each.

    Raises:
        SettingsError: a field, schedule, flow, profile or override that cannot be used; one sentence that names the deployment.
    """
    path = find_settings_file(file)
    found: dict[str, Deployment] = {}
    for place, entry in enumerate(read_settings_file(path).get("deployments") or [], 1):
        deployment = _deployment(place, entry, str(path))
        if deployment.name in found:
            raise SettingsError(f"two deployments are named `{deployment.name}`; hint: each has a name of its own")
        found[deployment.name] = deployment
    return list(found.values())


def _deployment(place: int, entry: Any, file: str) -> Deployment:
    if not isinstance(entry, dict):
        raise SettingsError(f"deployment {place} is not a mapping of settings; hint: it starts with `- name: ...`")
    entry = {"on" if key is True else key: value for key, value in entry.items()}  # YAML reads the word `on` as true
    named = f"deployment `{entry['name']}`" if isinstance(entry.get("name"), str) else f"deployment {place}"
    try:
        deployment = Deployment.model_validate(entry)
        settings_of(deployment, file)
        return deployment
    except ValidationError as error:
        raise SettingsError(f"{named}: {explain(error, Deployment)}") from error
    except ValueError as error:
        raise SettingsError(f"{named}: {error}") from error


def settings_of(deployment: Deployment, file: str | None = None) -> Config:
    """Resolves the settings that a deployment's runs will have, and the name of their project."""
    assert deployment.project_name
    return load_config(deployment.profile, deployment.overrides, file)


def with_profile(deployment: Deployment, profile: str, file: str | None = None) -> Deployment:
    """Answers a deployment whose runs take another profile; its overrides still count.

    Raises:
        SettingsError: there is no such profile, or the overrides do not fit it.
    """
    changed = deployment.model_copy(update={"profile": profile})
    settings_of(changed, file)
    return changed


def cron_fault(cron: str) -> str | None:
    """Answers what is wrong with a schedule of five fields, or None; what it lets pass, Prefect's own parser understands."""
    if cron.startswith("@"):
        return None if cron in ALIASES else f"the names are {', '.join(ALIASES)}"
    texts = cron.split()
    if len(texts) != len(CRON_FIELDS):
        return f"it has {len(texts)} fields and not five: minute, hour, day, month, weekday"
    values: list[set[int]] = []
    for text, (name, low, high, words) in zip(texts, CRON_FIELDS, strict=True):
        numbers: set[int] = set()
        for part in text.lower().split(","):
            some = _cron_part(part, low, high, words)
            if not some:
                return f"{name} `{part}` is not of {low} to {high}"
            numbers |= some
        values.append(numbers)
    _, _, days, months, _ = values
    if texts[4] == "*" and not any(min(days) <= LONGEST_MONTH.get(month, 31) for month in months):
        return "no such day comes"
    return None


def _cron_part(part: str, low: int, high: int, words: dict[str, int]) -> set[int]:
    """Answers the numbers that `*`, `3`, `1-5`, `mon-fri`, `*/15` or `1-9/2` stand for; none where it stands for nothing."""
    span, slash, step = part.partition("/")
    if slash and not (step.isascii() and step.isdigit() and 0 < int(step) <= high):
        return set()
    if span == "*":
        first, last = low, high
    else:
        start, dash, end = span.partition("-")
        numbers = [words.get(text, int(text) if text.isascii() and text.isdigit() else -1) for text in (start, end if dash else start)]
        first, last = numbers[0], numbers[1] if dash or not slash else high
    return set(range(first, last + 1, int(step or 1))) if low <= first <= last <= high else set()
