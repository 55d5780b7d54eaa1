"""One thing that the doctor looked at, and what its looks share."""

from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any


@dataclass(frozen=True)
class Check:
    """One thing looked at; state is ok, warn or fail, and hint says what to do when it is not ok."""

    name: str
    state: str
    said: str
    hint: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def version(package: str) -> str | None:
    """Answers the installed version of a package, None without one."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
