"""Who writes the registry: the promoter, where its credentials are given; all else is done by the identity of the environment."""

import contextlib
import os
import re
import threading
from collections.abc import Iterator

from components.store.secret_files import SecretFileError, read_secret

USERNAME, PASSWORD_FILE = "KINORA_PROMOTER_USERNAME", "KINORA_PROMOTER_PASSWORD_FILE"
TRACKING_USERNAME, TRACKING_PASSWORD = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"

REFUSED = re.compile(r"error code 40[13]\b")

_lock = threading.RLock()


@contextlib.contextmanager
def as_promoter() -> Iterator[None]:
    """Makes this process the promoter for a moment; without a promoter's credentials it stays who it is.

    Raises:
        SecretFileError: one of the two settings is missing, or the password cannot be used.
    """
    name, file = os.environ.get(USERNAME), os.environ.get(PASSWORD_FILE)
    if not name and not file:
        yield
        return
    if not name or not file:
        given, missing = (USERNAME, PASSWORD_FILE) if name else (PASSWORD_FILE, USERNAME)
        raise SecretFileError(f"`{given}` is set and `{missing}` is not; hint: set both, or neither to use your own identity")
    password = read_secret(file, PASSWORD_FILE)
    with _lock:
        before = {key: os.environ.get(key) for key in (TRACKING_USERNAME, TRACKING_PASSWORD)}
        os.environ.update({TRACKING_USERNAME: name, TRACKING_PASSWORD: password})  # MLflow reads them anew for each request
        try:
            yield
        finally:
            for key, value in before.items():
                os.environ.pop(key, None) if value is None else os.environ.__setitem__(key, value)


def is_refusal(error_code: str, said: str) -> bool:
    """Answers whether MLflow's error is about who asks, and not about what."""
    return error_code in ("UNAUTHENTICATED", "PERMISSION_DENIED") or REFUSED.search(said) is not None


def refusal(uri: str, writes: bool) -> str:
    """Answers the sentence for it, with the names of the settings that say who asks."""
    name = (os.environ.get(USERNAME) if writes else None) or os.environ.get(TRACKING_USERNAME)
    who = f"`{name}`" if name else "somebody without a name"
    if writes:
        return f"MLflow at `{uri}` does not let {who} write the registry; hint: `{USERNAME}` and `{PASSWORD_FILE}` say who may"
    return f"MLflow at `{uri}` does not let {who} in; hint: `{TRACKING_USERNAME}` and `{TRACKING_PASSWORD}` say who you are"
