"""Whether a project's report tells of all that its stages did."""

from datetime import datetime

from components.stages import STAGES
from components.store.project import Project

WRITTEN = ("report.html", "summary.json")


def report_is_due(project: Project) -> bool:
    """Answers whether a stage ended after the report was written, as when a run was killed in between."""
    records = [record for stage in STAGES if (record := project.record(stage)) is not None]
    try:
        written = min((project.folder / name).stat().st_mtime for name in WRITTEN)
    except FileNotFoundError:
        return bool(records)
    return any(datetime.fromisoformat(record["finished_at"]).timestamp() > written for record in records)
