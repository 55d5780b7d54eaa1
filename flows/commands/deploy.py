"""`kinora deploy`: registers the deployments of pipelines.yaml, and the automations that watch over their runs, with Prefect."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from flows.commands.options import json_option
from flows.commands.output import print_json, print_table, remark

if TYPE_CHECKING:
    from flows.deployments import Change


@click.command()
@click.option("--check", is_flag=True, help="Only check pipelines.yaml and `infra`; needs no server and changes nothing.")
@click.option("--config", "config_file", metavar="FILE", help="The settings file; else KINORA_CONFIG, else pipelines.yaml.")
@click.option("--profile", metavar="NAME", help="Of every deployment, in place of its own: `servers` on those of infra/compose.yaml.")
@json_option
def deploy(check: bool, config_file: str | None, profile: str | None, as_json: bool) -> None:
    """Register the deployments of pipelines.yaml with the Prefect server; those that are not listed any more go."""
    import warnings

    from components.config import find_settings_file, load_config
    from components.deployments import load_deployments, with_profile
    from flows.environment import quiet_environment

    file, folder = find_settings_file(config_file).resolve(), Path.cwd()
    listed = load_deployments(str(file))
    if profile is not None:
        listed = [with_profile(deployment, profile, str(file)) for deployment in listed]
    quiet_environment(Path(load_config(file=str(file)).root))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Prefect would like its folder to be there, which nothing here writes to
        from flows import deployments
    if check:
        deployments.check(listed, file, folder)
        remark(f"{len(listed)} deployments of `{file.name}` are in order")
        _check_infra()
        return
    from flows.automations import register_automations, webhook_address
    from flows.server import server

    webhook = webhook_address()
    with server() as client:
        changes = deployments.register(client, listed, file, folder)
        watching = register_automations(client, webhook)
        serving = any(worker.status == "ONLINE" for worker in client.read_workers_for_work_pool(deployments.POOL))
    if as_json:
        print_json({"deployments": [vars(change) for change in changes], "automations": watching})
        return
    print_table(("deployment", "change", "starts", "next run"), [_row(change) for change in changes])
    for name, change in watching.items():
        remark(f"automation `{name}`: {change}")
    if webhook is None:
        remark("failures are told to nobody; hint: KINORA_WEBHOOK_URL, or KINORA_WEBHOOK_URL_FILE, names an address")
    if not serving:
        remark(f"nothing serves the work pool `{deployments.POOL}` yet, so runs wait; hint: `kinora up` starts what does")


def _check_infra() -> None:
    """Checks the files of `infra/` beside the code, where they are; all faults but the first are remarks."""
    from components.operations.infra_lint import INFRA, check_infra

    if (INFRA / "compose.yaml").is_file():
        first, *others = check_infra() or [""]
        for fault in others:
            remark(f"infra/{fault}")
        if first:
            raise ValueError(f"infra/{first}")
        remark("the files of `infra` are in order")


def _row(change: "Change") -> tuple[str, str, str, str]:
    coming = change.next_run
    return change.name, change.change, change.starts, f"{coming:%a %Y-%m-%d %H:%M %Z}" if coming else ""
