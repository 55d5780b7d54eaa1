"""What keeps the libraries from telling their makers of us: one list for every process, image and manifest."""

from collections.abc import Mapping

TELEMETRY_OFF = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
TRUE, FALSE = {"1", "true", "yes", "on", "t", "y"}, {"0", "false", "no", "off", "f", "n", ""}


def switched_on(variables: Mapping[str, str]) -> list[str]:
    """Answers the variables by which somebody switched on what Kinora switches off; one that is not set counts as off.

    What is neither true nor false counts as on, since each library makes of it what it likes.
    """
    return [name for name, off in TELEMETRY_OFF.items() if not _alike(variables.get(name, off), off)]


def _alike(value: str, off: str) -> bool:
    return value.strip().lower() in (TRUE if off in TRUE else FALSE)
