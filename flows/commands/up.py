"""`kinora up`: starts the servers of a root on loopback, healthy or with a clear reason."""

from dataclasses import asdict
from typing import Any

import click

from flows.commands.options import json_option, resolve, root_options
from flows.commands.output import print_json, print_table, remark

PORT = click.IntRange(0, 65535)


@click.command()
@click.option("--prefect-port", type=PORT, default=4200, show_default=True, help="Of Prefect's server; 0 takes a free one.")
@click.option("--mlflow-port", type=PORT, default=5000, show_default=True, help="Of MLflow's server; 0 takes a free one.")
@click.option("--ray-port", type=PORT, default=6379, show_default=True, help="Of Ray's head; 0 takes a free one.")
@click.option("--dashboard-port", type=PORT, default=8265, show_default=True, help="Of Ray's dashboard; 0 takes a free one.")
@root_options
@json_option
def up(prefect_port: int, mlflow_port: int, ray_port: int, dashboard_port: int, as_json: bool, **options: Any) -> None:
    """Start Prefect, MLflow, Ray and the serving of deployments on this machine; what runs already is left as it is."""
    from components.operations import servers

    config = resolve(project=None, **options).config
    ports = {"--prefect-port": prefect_port, "--mlflow-port": mlflow_port, "--ray-port": ray_port, "--dashboard-port": dashboard_port}
    remark(f"the servers of `{config.root}` start; this takes up to a minute")
    running = servers.up(config, ports, remark)
    if as_json:
        print_json({server.name: asdict(server) for server in running})
    else:
        rows = [(server.name, server.address, server.dashboard, server.pid, server.log) for server in running]
        print_table(("server", "address", "dashboard", "process", "log"), rows)
    remark("every `kinora` command on this root uses them now; `kinora down` stops them")
