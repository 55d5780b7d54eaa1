"""Footage is told of once, when its files have come to rest, whatever restarts in between."""

import os
from pathlib import Path

from components.ingest.sources import list_sources, listing_digest
from components.operations.arrivals import Arrivals
from components.store.project import Project
from tests.operations.pipeline import settings


def watcher(root: Path, source: Path) -> Arrivals:
    return Arrivals(settings(), Project(root, "films"), source, None)


def test_files_are_told_of_when_they_have_come_to_rest_and_once(tmp_path: Path) -> None:
    source = tmp_path / "footage"
    watch = watcher(tmp_path / "runs", source)
    assert watch.look() is None
    source.mkdir()
    assert watch.look() is None
    film = source / "a.mp4"
    film.write_bytes(b"the first half")
    assert watch.look() is None
    film.write_bytes(b"the first half and the second")
    assert watch.look() is None
    arrival = watch.look()
    assert arrival is not None
    assert arrival.files == 1
    again = watch.look()
    assert again is not None, "until it was told"
    assert again.id == arrival.id
    watch.tell(arrival)
    assert watch.look() is None
    (source / "b.mp4").write_bytes(b"another")
    assert watch.look() is None
    second = watch.look()
    assert second is not None
    assert (second.files, second.id != arrival.id) == (2, True)


def test_a_watcher_that_starts_again_neither_misses_nor_repeats(tmp_path: Path) -> None:
    source = tmp_path / "footage"
    source.mkdir()
    (source / "a.mp4").write_bytes(b"film")
    first = watcher(tmp_path / "runs", source)
    assert first.look() is None
    arrival = first.look()
    assert arrival is not None
    killed_before_it_was_told = watcher(tmp_path / "runs", source)
    assert killed_before_it_was_told.look() is None
    repeated = killed_before_it_was_told.look()
    assert repeated is not None
    assert repeated.id == arrival.id
    first.tell(arrival)
    restarted = watcher(tmp_path / "runs", source)
    assert [restarted.look(), restarted.look()] == [None, None]
    (source / "b.mp4").write_bytes(b"while nobody looked")
    restarted = watcher(tmp_path / "runs", source)
    assert restarted.look() is None
    assert restarted.look() is not None


def test_what_was_ingested_already_did_not_arrive(tmp_path: Path) -> None:
    source = tmp_path / "footage"
    source.mkdir()
    (source / "a.mp4").write_bytes(b"film")
    watch = watcher(tmp_path / "runs", source)
    digest = listing_digest(list_sources(source, None, settings().footage))
    watch.project.write_record("ingest", {"maker": "m", "rows": 1, "rows_digest": digest, "result": {}})
    assert [watch.look(), watch.look()] == [None, None]
    stat = (source / "a.mp4").stat()
    os.utime(source / "a.mp4", ns=(stat.st_atime_ns, stat.st_mtime_ns + 10**9))
    assert watch.look() is None
    assert watch.look() is not None
