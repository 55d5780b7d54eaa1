"""Notices that footage came: the listing of a source is another than the one told or ingested last, and files have come to rest.

What was told last is a file in the project, so a watcher that starts again neither misses files nor tells of them twice.
"""

from dataclasses import dataclass
from pathlib import Path
from uuid import NAMESPACE_URL, UUID, uuid5

from components.ingest.sources import list_sources, listing_digest
from components.operations.freshness import finished
from components.sections import Config
from components.store.project import Project

RECORD = "arrivals"


@dataclass(frozen=True)
class Arrival:
    """Files that came to rest: how many the source holds now, and one id for this very change."""

    files: int
    digest: str
    id: UUID


class Arrivals:
    """Looks at one source again and again."""

    def __init__(self, config: Config, project: Project, source: Path, manifest: Path | None) -> None:
        self.config, self.project, self.source, self.manifest = config, project, source, manifest
        self.seen: str | None = None

    def look(self) -> Arrival | None:
        """Answers an arrival that nobody was told of, once two looks saw the same: a file that is still being copied changes."""
        try:
            found = list_sources(self.source, self.manifest, self.config.footage)
        except ValueError:  # no such folder, or nothing in it that can be read
            self.seen = None
            return None
        digest = listing_digest(found)
        rests, self.seen = digest == self.seen, digest
        told = (self.project.record(RECORD) or {}).get("digest")
        if not rests or digest in (told, (finished("ingest", self.project) or {}).get("rows_digest")):
            return None
        return Arrival(len(found), digest, uuid5(NAMESPACE_URL, f"{self.project.name}:{told}:{digest}"))

    def tell(self, arrival: Arrival) -> None:
        """Writes down that an arrival was told of."""
        self.project.write_record(RECORD, {"digest": arrival.digest, "files": arrival.files})
