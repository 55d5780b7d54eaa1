"""The users of an MLflow server with basic-auth: `trainer` writes runs, `promoter` alone writes the registry; `python -m` makes them.

Run by an admin, whose name and password MLflow finds where it always does. MLFLOW_TRACKING_URI names the server, and
MLFLOW_TRAINER_PASSWORD_FILE and MLFLOW_PROMOTER_PASSWORD_FILE the new passwords. What is there already stays as it is.
"""

import os
import sys
from collections.abc import Mapping
from typing import Any

from components.store.secret_files import read_secret
from components.store.telemetry import TELEMETRY_OFF

TRAINER, PROMOTER = "trainer", "promoter"
WORKSPACE = "default"
GRANTS = {  # the server's default permission, READ, is what both have beside these
    TRAINER: {"experiment": "EDIT"},
    PROMOTER: {"experiment": "MANAGE", "registered_model": "MANAGE"},  # a take-down removes files of runs
}


class AccountsError(RuntimeError):
    """The server does not make the users; the message says why."""


def set_up(uri: str, passwords: Mapping[str, str]) -> list[str]:
    """Makes the users, their roles and their permissions on an MLflow server, and answers what is new, in words."""
    from mlflow.exceptions import MlflowException

    try:
        from mlflow.server.auth.client import AuthServiceClient
    except ImportError as error:
        raise AccountsError("MLflow's authentication is not installed; hint: `make setup`, or `pip install 'mlflow[auth]'`") from error
    client = AuthServiceClient(uri)
    try:
        return [line for name, password in passwords.items() for line in _set_up(client, name, password)]
    except MlflowException as error:
        said = " ".join(str(error).split())[:200]
        raise AccountsError(f"MLflow at `{uri}` makes no users ({said}); hint: this needs its admin and `--app-name basic-auth`") from error


def _set_up(client: Any, name: str, password: str) -> list[str]:
    made = []
    if not _exists(client, name):
        client.create_user(name, password)
        made.append(f"user {name}")
    role = next((role for role in client.list_roles(WORKSPACE) if role.name == f"kinora-{name}"), None)
    if role is None:
        role = client.create_role(WORKSPACE, f"kinora-{name}", f"what Kinora's {name} may do")
        made.append(f"role {role.name}")
    has = {(entry.resource_type, entry.resource_pattern): entry for entry in client.list_role_permissions(role.id)}
    for resource, permission in GRANTS[name].items():
        if (resource, "*") not in has:
            client.add_role_permission(role.id, resource, "*", permission)
            made.append(f"{permission} on every {resource} for {role.name}")
    if role.id not in {held.id for held in client.list_user_roles(name)}:
        client.assign_role(name, role.id)
        made.append(f"role {role.name} for {name}")
    return made


def _exists(client: Any, name: str) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        client.get_user(name)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise
    return True


def main() -> None:
    """Makes trainer and promoter, or says in one sentence why not."""
    for name, value in TELEMETRY_OFF.items():
        os.environ.setdefault(name, value)
    try:
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            raise ValueError("`MLFLOW_TRACKING_URI` is not set; hint: it names the server whose users are made")
        files = {name: f"MLFLOW_{name.upper()}_PASSWORD_FILE" for name in GRANTS}
        missing = [variable for variable in files.values() if not os.environ.get(variable)]
        if missing:
            raise ValueError(f"`{missing[0]}` is not set; hint: it names a file of mode 0600 with the password")
        made = set_up(uri, {name: read_secret(os.environ[variable], variable) for name, variable in files.items()})
    except (ValueError, AccountsError) as error:
        what, _, hint = str(error).partition("; hint: ")
        sys.exit(f"error: {what}" + (f"\nhint: {hint}" if hint else ""))
    print("\n".join(made) or "all users and roles are there")


if __name__ == "__main__":
    main()
