"""`kinora status`: what a project's run is doing, or the last one did; `-w` follows it to its end."""

import contextlib
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from flows.commands.options import json_option, resolve, settings_options
from flows.commands.output import duration, print_json, remark

if TYPE_CHECKING:
    from rich.console import Group

    from components.operations.status import StageStatus, Status
    from components.store.project import Project

LOOK_SECONDS = 1.0
LINE_SECONDS = 15.0  # between two lines about the same stage, where the output is no terminal
MOST_MISSED = 5  # figures below their bars that are named
STYLES = {"running": "bold", "failed": "red", "killed": "red", "done": "green", "waiting": "dim", "never": "dim", "earlier": "dim"}
WORDS = {"skipped": "fresh", "earlier": "done before", "never": "not yet"}


@click.command()
@settings_options
@json_option
@click.option("-w", "--watch", is_flag=True, help="Follow the run until it ends; Ctrl-C leaves it alone.")
def status(
    project: str | None, profile: str | None, config_file: str | None, overrides: tuple[str, ...], as_json: bool, watch: bool
) -> None:
    """Say what the project's run is doing, or the last one did."""
    from components.operations.status import read_status

    place = resolve(project, profile, config_file, overrides).project
    found = read_status(place)
    if watch and found.in_progress:
        with contextlib.suppress(KeyboardInterrupt):
            found = _follow(place, as_json)
    elif as_json:
        print_json(found.as_dict())
    else:
        _print(found)
        if watch:
            remark(f"no run of project `{place.name}` is in progress")


def _follow(place: "Project", as_json: bool) -> "Status":
    """Shows the run again and again until it ends, and answers how it ended."""
    if as_json:
        return _follow_lines(place, lambda found: click.echo(_one_line(found)))
    if not sys.stdout.isatty():
        return _follow_lines(place, _Lines())
    from rich.console import Console
    from rich.live import Live

    from components.operations.status import read_status

    found = read_status(place)
    with Live(_shown(found), console=Console(), refresh_per_second=4) as live:
        while found.in_progress:
            time.sleep(LOOK_SECONDS)
            found = read_status(place)
            live.update(_shown(found))
    return found


def _follow_lines(place: "Project", say: Any) -> "Status":
    from components.operations.status import read_status

    while True:
        found = read_status(place)
        say(found)
        sys.stdout.flush()
        if not found.in_progress:
            return found
        time.sleep(LOOK_SECONDS)


class _Lines:
    """Says a line when a stage comes into another state, and now and then how far one is."""

    def __init__(self) -> None:
        self.states: dict[str, str] = {}
        self.said = 0.0

    def __call__(self, found: "Status") -> None:
        for stage in found.stages:
            news = stage.state != self.states.get(stage.stage) and stage.state not in ("waiting", "never", "earlier")
            moves = stage.state == "running" and time.monotonic() - self.said >= LINE_SECONDS
            if news or moves:
                self.said = time.monotonic()
                click.echo(" ".join(filter(None, (stage.stage, WORDS.get(stage.state, stage.state), _how_far(stage), stage.said))))
            self.states[stage.stage] = stage.state
        if not found.in_progress:
            click.echo(_headline(found))


def _one_line(found: "Status") -> str:
    import json

    return json.dumps(found.as_dict(), default=str)


def _print(found: "Status") -> None:
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 160).print(_shown(found))


def _shown(found: "Status") -> "Group":
    """Puts a status together for the terminal: who runs it, a line a stage, what is around."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    for stage in found.stages:
        bar: Any = ""
        if stage.total and stage.state in ("running", "failed", "killed"):
            bar = ProgressBar(total=stage.total, completed=stage.done or 0, width=24)
        style = STYLES.get(stage.state)
        cells = (Text(stage.stage, style=style or ""), Text(WORDS.get(stage.state, stage.state), style=style or ""), bar)
        table.add_row(*cells, Text(_how_far(stage)), Text(stage.said, overflow="fold"))
    around = [f"locked  {lock}" for lock in found.locks]
    around += [f"{name} is up  {address}" for name, address in found.servers.items()]
    around += [f"{name}  {place}" for name, place in found.links.items()]
    if found.figures:
        missed = [name for name, figure in found.figures.items() if not figure["holds"]]
        named = ", ".join(missed[:MOST_MISSED]) + (f" and {len(missed) - MOST_MISSED} more" if len(missed) > MOST_MISSED else "")
        reached = f"{len(found.figures) - len(missed)} of {len(found.figures)} bars reached"
        around.append(f"figures  {reached}" + (f", not {named}" if missed else ""))
    lines = [Text(line, style="dim", overflow="fold") for line in around]
    return Group(Text(_headline(found)), table, *lines)


def _headline(found: "Status") -> str:
    run = found.run
    if not run:
        return f"project `{found.project}`: no run is known, its stages ran one by one"
    began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(run["began_at"]))
    who = f"process {run['pid']} on {run['host']}"
    named = f"project `{found.project}`, `{run['flow']}`"
    match run["state"]:
        case "running":
            return f"{named}: running for {duration(time.time() - run['began_at'])}, {who}, since {began}"
        case "killed":
            return f"{named}: killed, its {who} is gone; the same command resumes it"
        case "failed":
            return f"{named}: failed after {duration(run['ended_at'] - run['began_at'])}: {run.get('error', '')}"
    return f"{named}: done in {duration(run['ended_at'] - run['began_at'])}, began {began}"


def _how_far(stage: "StageStatus") -> str:
    """Says rows or steps, per cent and the time left of a stage that runs; how long any other took."""
    parts = []
    if stage.total and stage.state != "done":
        parts.append(f"{stage.done or 0:,}/{stage.total:,} {100 * (stage.done or 0) / stage.total:.0f} %")
    if stage.seconds is not None and stage.state != "earlier":
        parts.append(duration(stage.seconds))
    if stage.seconds_left is not None:
        parts.append(f"{duration(stage.seconds_left)} left")
    return ", ".join(parts)
