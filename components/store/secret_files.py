"""Secrets as files: read for their owner alone, refused when others may read them too."""

import os
import stat
from pathlib import Path


class SecretFileError(ValueError):
    """A file of a secret that is not there, is empty, or that others may read; the message says the way out."""


def read_secret(path: str | os.PathLike[str], variable: str, may_be_empty: bool = False) -> str:
    """Answers the secret in a file, without the blanks around it.

    Args:
        variable: the name of the setting that named the file, for the sentence when it cannot be used.
        may_be_empty: an empty file says that there is no secret.

    Raises:
        SecretFileError: there is none, or it is no secret.
    """
    place = Path(path)
    try:
        exposed = is_exposed(place)
        text = place.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise SecretFileError(f"`{variable}` names `{place}`, which cannot be read ({reason}); hint: name a file that you own") from error
    if exposed:
        raise SecretFileError(f"`{place}` of `{variable}` holds a secret that others on this machine may read; hint: `chmod 600 {place}`")
    if not text and not may_be_empty:
        raise SecretFileError(f"`{place}` of `{variable}` is empty; hint: write the secret into it")
    return text


def make_private_folder(path: Path) -> Path:
    """Makes a folder that its owner alone enters, since files with secrets lie below it whose makers leave them open."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.stat().st_uid == os.getuid():
        path.chmod(0o700)
    return path


def is_exposed(path: Path) -> bool:
    """Answers whether others than its owner may read a file; a group may where somebody else owns it, as Kubernetes mounts secrets."""
    found = path.stat()
    others = stat.S_IRWXO if found.st_uid != os.getuid() else stat.S_IRWXO | stat.S_IRWXG
    return bool(found.st_mode & others)
