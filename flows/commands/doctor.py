"""`kinora doctor`: checks the machine and the installation, and says what to do."""

from typing import Any

import click

from flows.commands.options import json_option, resolve, settings_options
from flows.commands.output import print_json, print_table, remark


@click.command()
@click.option("--cluster", is_flag=True, help="Ask every node of the Ray cluster of RAY_ADDRESS, too.")
@settings_options
@json_option
def doctor(cluster: bool, as_json: bool, **options: Any) -> int:
    """Check this machine, installation and its servers; the exit code is 1 when something fails."""
    from components.operations.doctor import examine

    config = resolve(**options).config
    checks = examine(config)
    if cluster:
        from components.operations.cluster_check import examine_cluster

        checks += examine_cluster(config)
    failed = [check for check in checks if check.state == "fail"]
    if as_json:
        print_json([check.as_dict() for check in checks])
    else:
        print_table(("check", "state", "found", "what to do"), [(c.name, c.state, c.said, c.hint) for c in checks])
        remark(f"{len(failed)} of {len(checks)} checks failed" if failed else "all is well enough to run")
    return 1 if failed else 0
