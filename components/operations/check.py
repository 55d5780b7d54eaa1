"""One thing that the doctor looked at, and what its looks share."""

from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

from components.store.secret_names import without_password


@dataclass(frozen=True)
class Check:
    """One thing looked at; state is ok, warn or fail, and hint says what to do when it is not ok. Passwords in addresses are starred."""

    name: str
    state: str
    said: str
    hint: str = ""

    def __post_init__(self) -> None:
        for name in ("said", "hint"):
            object.__setattr__(self, name, without_password(getattr(self, name)))

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def version(package: str) -> str | None:
    """Answers the installed version of a package, None without one."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
