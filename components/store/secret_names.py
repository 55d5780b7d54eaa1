"""The settings whose values are secrets: which a process may hold, and which no server or job that it starts is given."""

import re

RAY_TOKEN = "RAY_AUTH_TOKEN"  # every job of Ray sees it, so the token's file stands in for it
FROM_FILES = ("PREFECT_API_AUTH_STRING", "MLFLOW_TRACKING_PASSWORD")  # `NAME_FILE` may name a file with the value
DATABASES = (  # addresses of databases have a password in them as a rule
    "PREFECT_SERVER_DATABASE_CONNECTION_URL",
    "PREFECT_API_DATABASE_CONNECTION_URL",
    "PREFECT_SERVER_DATABASE_PASSWORD",
    "PREFECT_API_DATABASE_PASSWORD",
    "MLFLOW_BACKEND_STORE_URI",
)
SECRETS = (
    RAY_TOKEN,
    "PREFECT_API_KEY",
    "PREFECT_API_AUTH_STRING",
    "PREFECT_SERVER_API_AUTH_STRING",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_AUTH_ADMIN_PASSWORD",
    "MLFLOW_FLASK_SERVER_SECRET_KEY",
    "KINORA_WEBHOOK_URL",
    *DATABASES,
)
IN_ADDRESS = re.compile(r"(?<=://)([^/\s@:]*):([^/\s]+)@")


def without_password(text: str) -> str:
    """Answers a text with stars for the passwords in its addresses, fit to be shown."""
    return IN_ADDRESS.sub(r"\1:***@", text)
