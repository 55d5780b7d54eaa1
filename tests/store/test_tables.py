"""Lance tables: rows by key, partial columns, blobs, and writers of several processes at once."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from components.store import tables
from components.store.arrow import is_blob
from components.store.project import Project
from components.store.tables import Table, TableError

CLIPS_EACH = 60


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path, "films")


@pytest.fixture
def clips(project: Project) -> Table:
    return tables.clips(project)


def row(number: int, **columns: object) -> dict[str, object]:
    return {"clip_id": f"c{number:04d}", "video": bytes([number % 256]) * 100, **columns}


def test_a_table_is_made_when_it_is_first_opened_and_not_when_it_is_looked_for(project: Project) -> None:
    assert not tables.exists(project, "clips")
    assert not project.folder.exists()
    assert tables.clips(project).count() == 0
    assert tables.exists(project, "clips")


def test_what_is_appended_is_read_back_and_the_rest_is_null(clips: Table) -> None:
    assert clips.append([row(2, luma=0.5), row(1, num_frames=9)]) == 2
    assert clips.read(["clip_id", "luma", "num_frames"]) == [
        {"clip_id": "c0001", "luma": None, "num_frames": 9},
        {"clip_id": "c0002", "luma": 0.5, "num_frames": None},
    ]


def test_a_key_that_is_there_is_skipped_with_its_old_columns(clips: Table) -> None:
    clips.append([row(1, split="train")])
    assert clips.append([row(1, split="val"), row(2), row(2, split="test")]) == 1
    assert clips.read(["split"]) == [{"split": "train"}, {"split": None}]


def test_an_arrow_table_is_appended_like_rows(clips: Table) -> None:
    clips.append(pa.table({"clip_id": ["a"], "video": [b"film"], "num_frames": pa.array([9], pa.int64())}))
    assert list(clips.read_blobs("video", ["a"])) == [("a", b"film")]


def test_an_update_sets_its_columns_of_the_rows_that_exist_and_no_others(clips: Table) -> None:
    clips.append([row(number, split="train") for number in range(3)])
    assert (
        clips.update([{"clip_id": "c0001", "caption": "it's red"}, {"clip_id": "c0002", "luma": 3.0}, {"clip_id": "gone", "luma": 1.0}])
        == 2
    )
    assert clips.read(["caption", "luma", "split"]) == [
        {"caption": None, "luma": None, "split": "train"},
        {"caption": "it's red", "luma": None, "split": "train"},
        {"caption": None, "luma": 3.0, "split": "train"},
    ]


def test_an_update_copies_no_blobs(clips: Table) -> None:
    clips.append([{"clip_id": f"c{number}", "video": os.urandom(50_000)} for number in range(40)])
    before = bytes_below(clips.uri)
    clips.update([{"clip_id": f"c{number}", "caption": "new"} for number in range(40)])
    assert bytes_below(clips.uri) - before < 50_000


def test_a_blob_is_never_updated(clips: Table) -> None:
    clips.append([row(1)])
    with pytest.raises(TableError, match="written once"):
        clips.update([{"clip_id": "c0001", "video": b"other"}])


def test_blobs_come_in_the_order_of_the_keys(clips: Table) -> None:
    clips.append([row(number) for number in range(300)])
    keys = [f"c{number:04d}" for number in np.random.default_rng(0).permutation(300)]
    assert [(key, blob[0]) for key, blob in clips.read_blobs("video", keys)] == [(key, int(key[1:]) % 256) for key in keys]
    with pytest.raises(TableError, match="`nobody` is not in table `clips`"):
        list(clips.read_blobs("video", ["nobody"]))


def test_blobs_are_found_again_after_deletes_updates_and_compaction(clips: Table) -> None:
    for start in range(0, 40, 10):
        clips.append([row(number) for number in range(start, start + 10)])
    clips.delete("clip_id < 'c0005'")
    clips.update([{"clip_id": "c0030", "caption": "kept"}])
    clips.compact()
    assert clips.count() == 35
    assert [blob[0] for _, blob in clips.read_blobs("video", ["c0030", "c0005"])] == [30, 5]
    assert clips.read(["caption"], "clip_id = 'c0030'") == [{"caption": "kept"}]


def test_blobs_stay_right_while_the_reader_writes_and_compacts(clips: Table) -> None:
    clips.append([row(number) for number in range(300)])
    seen = []
    for key, blob in clips.read_blobs("video", clips.keys()):
        seen.append((key, blob[0]))
        if len(seen) == 10:
            clips.delete("clip_id < 'c0100'")
            clips.compact()
    assert seen == [(f"c{number:04d}", number % 256) for number in range(300)]


def test_arrays_keep_their_shapes_even_when_these_differ(clips: Table) -> None:
    clips.append([row(number) for number in range(700)])
    first, second = np.arange(24).reshape(2, 3, 4), np.ones((1, 5))
    clips.update(
        [
            {"clip_id": "c0003", "latents": first, "latents_shape": list(first.shape)},
            {"clip_id": "c0600", "latents": second, "latents_shape": list(second.shape)},
        ]
    )
    back = clips.read_tensor("latents", ["c0600", "c0003"])
    assert [array.dtype for array in back] == [np.float16, np.float16]
    np.testing.assert_array_equal(back[0], second)
    np.testing.assert_array_equal(back[1], first)
    with pytest.raises(TableError, match="`c0001` of table `clips` has no `latents`"):
        clips.read_tensor("latents", ["c0003", "c0001"])


def test_arrays_that_stay_on_disk_are_those_of_the_moment_they_were_asked_for(clips: Table) -> None:
    clips.append([row(number) for number in range(700)])
    shapes = {f"c{number:04d}": (1 + number % 3, 2) for number in range(100, 600)}
    clips.update([{"clip_id": key, "latents": np.full(shape, int(key[1:])), "latents_shape": list(shape)} for key, shape in shapes.items()])
    clips.delete("clip_id < 'c0050' OR clip_id = 'c0300'")
    keys = ["c0599", "c0100", "c0301", "c0299"]
    stored = clips.stored_tensor("latents", keys)
    clips.delete("clip_id < 'c0200'")
    clips.update([{"clip_id": "c0301", "latents": np.zeros((1, 1)), "latents_shape": [1, 1]}])
    clips.compact()
    assert (len(stored), list(stored.shapes)) == (4, [shapes[key] for key in keys])
    for found in (stored.read([2, 0, 2, 1, 3]), [stored[2], *stored[:1], stored[-2], stored[1], stored[3]]):
        for array, key in zip(found, ("c0301", "c0599", "c0301", "c0100", "c0299"), strict=True):
            np.testing.assert_array_equal(array, np.full(shapes[key], int(key[1:]), np.float16))
    for missing in ("c0300", "c0650", "nobody"):
        with pytest.raises(TableError, match=f"`{missing}` of table `clips` has no `latents`"):
            clips.stored_tensor("latents", ["c0301", missing])


def test_null_counts_as_distinct_from_any_maker(clips: Table) -> None:
    clips.append([row(1, caption_by="me"), row(2, caption_by="you"), row(3)])
    assert clips.keys(tables.distinct("caption_by", "me")) == ["c0002", "c0003"]
    assert clips.keys("caption_by != 'me'") == ["c0002"]  # the trap that the helper is for
    assert clips.keys(f"{tables.distinct('caption_by', 'me')} AND clip_id > 'c0002'") == ["c0003"]


def test_the_digest_follows_keys_and_values_only(clips: Table, tmp_path: Path) -> None:
    other = tables.clips(Project(tmp_path, "other"))
    clips.append([row(1, caption_by="a"), row(2, caption_by=None)])
    other.append([row(2)])
    other.append([row(1, caption_by="a", luma=7.0)])
    same = clips.digest(["caption_by"])
    assert other.digest(["caption_by"]) == same
    other.compact()
    assert other.digest(["caption_by"]) == same
    other.update([{"clip_id": "c0002", "caption_by": ""}])
    assert other.digest(["caption_by"]) != same
    assert clips.digest(["caption_by"], "clip_id = 'c0001'") != same


def test_the_digest_of_5000_rows_takes_less_than_a_fifth_of_a_second(clips: Table) -> None:
    clips.append([{"clip_id": f"c{number}", "clip_by": "a" * 64, "caption_by": "b" * 64} for number in range(5000)])
    clips.digest(["clip_by", "caption_by"])
    started = time.process_time()
    clips.digest(["clip_by", "caption_by"])
    assert time.process_time() - started < 0.2


def test_a_tagged_version_stays_as_it_was(clips: Table) -> None:
    clips.append([row(1)])
    clips.tag("vae-1")
    clips.append([row(2)])
    clips.compact()
    pinned = clips.at("vae-1")
    assert (pinned.count(), clips.count()) == (1, 2)
    with pytest.raises(TableError, match="pinned"):
        pinned.append([row(3)])
    clips.tag("vae-1")
    assert clips.at("vae-1").count() == 2
    with pytest.raises(TableError, match="no version `nine`"):
        clips.at("nine")


def test_a_purge_leaves_the_files_of_a_write_under_way_where_somebody_may_be_writing(clips: Table) -> None:
    clips.append([row(number) for number in range(4)])
    clips.delete("clip_id = 'c0001'")
    written = Path(clips.uri) / "data" / "half.lance"
    written.write_bytes(b"of a writer that has not committed yet")
    assert clips.purge(unfinished=False) > 0
    assert written.exists()
    clips.purge()
    assert not written.exists()
    assert clips.keys() == ["c0000", "c0002", "c0003"]


def test_fragments_that_pile_up_are_joined(clips: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MAX_SMALL_FRAGMENTS", 4)
    for number in range(8):
        clips.append([row(number)])
    assert len(clips._small_fragments()) <= 4
    assert clips.count() == 8


def test_a_column_of_a_newer_schema_is_added_as_nulls(clips: Table, project: Project) -> None:
    clips.append([row(1)])
    wider = clips.schema.append(pa.field("mood", pa.string()))
    again = Table.open(project.table("clips"), wider, "clip_id")
    assert again.read(["mood"]) == [{"mood": None}]
    assert again.update([{"clip_id": "c0001", "mood": "calm"}]) == 1


def test_a_column_of_another_type_is_refused_by_name(clips: Table, project: Project) -> None:
    fields = [pa.field("luma", pa.string()) if field.name == "luma" else field for field in clips.schema]
    with pytest.raises(TableError, match=r"column `luma`.*is float, not string"):
        Table.open(project.table("clips"), pa.schema(fields), "clip_id")


def test_an_unknown_column_is_named_with_the_nearest(clips: Table) -> None:
    for use in (lambda: clips.read(["captoin"]), lambda: clips.append([row(1, captoin="x")])):
        with pytest.raises(TableError, match="`captoin` is not a column of table `clips`; did you mean `caption`"):
            use()


def test_a_row_without_its_key_is_refused(clips: Table) -> None:
    with pytest.raises(TableError, match="no `clip_id`"):
        clips.append([{"caption": "whose?"}])


def test_a_folder_left_by_a_killed_first_write_becomes_a_table(project: Project) -> None:
    (Path(project.table("clips")) / "data").mkdir(parents=True)
    assert tables.clips(project).append([row(1)]) == 1


def test_something_else_in_a_tables_place_is_named(project: Project) -> None:
    versions = Path(project.table("clips")) / "_versions"
    versions.mkdir(parents=True)
    (versions / "1.manifest").write_bytes(b"not a manifest")
    with pytest.raises(TableError, match=r"clips\.lance.*hint: move it away"):
        tables.clips(project)


def test_every_table_of_the_schema_opens(project: Project) -> None:
    for opened in (tables.videos(project), tables.clips(project), tables.samples(project)):
        assert opened.key in opened.schema.names
        assert opened.blob_columns == tuple(field.name for field in opened.schema if is_blob(field))


def test_writers_of_three_processes_lose_and_double_nothing(project: Project) -> None:
    """All three make the table, append the same keys and set a column each, without waiting for one another."""
    spawn = multiprocessing.get_context("spawn")
    start = spawn.Barrier(3)
    columns = ("caption", "split", "drop_reason")
    writers = [spawn.Process(target=write_everything, args=(str(project.root), column, start)) for column in columns]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(timeout=180)
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    clips = tables.clips(project)
    assert clips.keys() == [f"c{number:04d}" for number in range(CLIPS_EACH)]
    assert clips.read(list(columns)) == [{column: f"by {column}" for column in columns}] * CLIPS_EACH
    assert sum(1 for _ in clips.read_blobs("video", clips.keys())) == CLIPS_EACH


def write_everything(root: str, column: str, start: "multiprocessing.synchronize.Barrier") -> None:
    import lance  # noqa: F401  (two seconds, before the race)

    start.wait(120)
    clips = tables.clips(Project(Path(root), "films"))
    for first in range(0, CLIPS_EACH, 6):
        numbers = range(first, first + 6)
        clips.append([row(number) for number in numbers])
        clips.update([{"clip_id": f"c{number:04d}", column: f"by {column}"} for number in numbers])


@pytest.mark.slow
def test_a_writer_killed_at_any_moment_leaves_whole_rows_and_goes_on_afterwards(project: Project) -> None:
    script = (
        "import sys; from pathlib import Path; from components.store import tables; from components.store.project import Project\n"
        "clips = tables.clips(Project(Path(sys.argv[1]), 'films')); print('ready', flush=True)\n"
        "for start in range(0, 2000, 5):\n"
        "    rows = [{'clip_id': f'c{n:04d}', 'video': bytes([n % 256]) * 2000} for n in range(start, start + 5)]\n"
        "    clips.append(rows); clips.update([{'clip_id': r['clip_id'], 'caption': r['clip_id']} for r in rows])\n"
    )
    for delay in (0.05, 0.3):
        writer = subprocess.Popen([sys.executable, "-c", script, str(project.root)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
        assert writer.stdout is not None
        assert writer.stdout.readline()
        time.sleep(delay)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        clips = tables.clips(project)
        keys = clips.keys()
        assert len(keys) == len(set(keys))
        assert len(keys) % 5 == 0  # an append is whole or not at all
        assert all(set(blob) == {int(key[1:]) % 256} for key, blob in clips.read_blobs("video", keys))
    assert tables.clips(project).append([row(5000)]) == 1


def bytes_below(folder: str) -> int:
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
