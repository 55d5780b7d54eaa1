"""Lets nobody but admin and promoter make a registered model: MLflow's `authorization_function`, which its server imports.

Whoever makes a registered model may manage it, and MLflow has no permission to make one. Named in the server's configuration as
`authorization_function = components.registry.authorize:authenticate`.
"""

from typing import Any

from components.registry.accounts import PROMOTER

CREATES = ("/mlflow/registered-models/create", "/mlflow/registered-models/rename")


def authenticate() -> Any:
    """Answers who asks, by name and password, or MLflow's refusal."""
    from flask import request
    from mlflow.server.auth import Authorization, authenticate_request_basic_auth, make_forbidden_response, store

    found = authenticate_request_basic_auth()
    if not isinstance(found, Authorization) or not request.path.endswith(CREATES):
        return found
    may = found.username == PROMOTER or (found.username and store.get_user(found.username).is_admin)
    return found if may else make_forbidden_response()
