"""What Ray leaves behind when it is killed: temporary folders of sessions whose process is gone."""

from pathlib import Path

from components.cluster import session


def abandoned_folders() -> list[Path]:
    """Answers the temporary folders of this user's sessions that nobody uses any more."""
    return sorted(folder for folder in session._temp_root().glob(f"{session.PREFIX}*") if session._is_abandoned(folder))
