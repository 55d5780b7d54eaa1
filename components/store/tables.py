"""Lance tables, the pipeline's shared memory: rows by key, partial columns, blobs, and safe concurrent writers."""

import difflib
import hashlib
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from components.store.arrow import SHAPES, arrays, is_blob, plain
from components.store.arrow import column as arrow_column
from components.store.filters import among, distinct, with_lifted
from components.store.storage import Storage, options_of, trouble_with
from components.store.tensors import StoredArrays

if TYPE_CHECKING:
    import lance
    import numpy as np
    import pyarrow as pa

    from components.store.project import Project

__all__ = ["Table", "TableError", "among", "clips", "distinct", "exists", "samples", "videos"]

Result = TypeVar("Result")

MAX_ATTEMPTS = 30  # of one commit; a loser of a race waits a little longer each time
ROWS_PER_FRAGMENT = 1024  # an update rewrites its columns of the fragments it touches, so these stay small
MAX_SMALL_FRAGMENTS = 64  # of less than half of that; above it an append compacts
KEEP_VERSIONS = timedelta(hours=1)  # readers of another process may still be on an old version
KEYS_IN_FILTER = 512  # above this a scan of the key column is faster than an IN list
BLOBS_AT_ONCE = 128


class TableError(ValueError):
    """A table that cannot be used as asked; the message is one sentence with the way out."""


class Table:
    """One Lance table whose rows are named by a key column.

    Every call sees the newest version, unless the table was pinned by `at`. Writers of several processes may overlap:
    commits that lose a race are tried again, and a key is never written twice.
    """

    def __init__(self, dataset: "lance.LanceDataset", key: str, pinned: bool = False, lifted: Sequence[str] = ()) -> None:
        self._dataset = dataset
        self._pinned = pinned
        self._lifted = tuple(lifted)
        self.key = key
        self.uri = str(dataset.uri)
        self.name = Path(self.uri).stem
        self.schema: pa.Schema = dataset.schema
        self.blob_columns = tuple(f.name for f in self.schema if is_blob(f))

    @classmethod
    def open(cls, uri: str, schema: "pa.Schema", key: str) -> "Table":
        """Opens a table, creating it when absent and adding columns that it lacks.

        Raises:
            TableError: what lies there is no such table.
        """
        import lance

        try:
            dataset = lance.dataset(uri, storage_options=options_of(uri))
        except ValueError as error:
            if "not found" not in str(error).lower():
                if (trouble := trouble_with(uri, error)) is not None:
                    raise trouble from error
                raise TableError(f"`{uri}` is not a Lance table: {_first_line(error)}; hint: move it away and run again") from error
            dataset = _create(uri, schema, key)
        except OSError as error:
            if (trouble := trouble_with(uri, error)) is not None:
                raise trouble from error
            raise TableError(f"`{uri}` cannot be read: {_first_line(error)}; hint: move it away and run again") from error
        table = cls(dataset, key)
        table._adopt(schema)
        return table

    def at(self, version: int | str, lifted: Sequence[str] = ()) -> "Table":
        """Answers the same table pinned to a version or a tag, to read exactly what a training read.

        Args:
            lifted: keys in quarantine there that filters take as if they were not.
        """
        try:
            return Table(self._dataset_at(version), self.key, pinned=True, lifted=lifted)
        except (ValueError, OSError) as error:
            raise TableError(f"table `{self.name}` has no version `{version}`; hint: old versions go unless they are tagged") from error

    @property
    def version(self) -> int:
        return int(self._latest().version)

    def tag(self, name: str) -> int:
        """Names the newest version so that it is kept, and answers it; an older tag of that name moves."""
        dataset = self._latest()
        version = int(dataset.version)
        if name in dataset.tags.list():
            dataset.tags.update(name, version)
        else:
            dataset.tags.create(name, version)
        return version

    def tags(self) -> dict[str, int]:
        """Answers the version that each tag keeps."""
        return {name: int(tag["version"]) for name, tag in self._latest().tags.list().items()}

    def untag(self, name: str) -> None:
        """Lets go of a tag; without it nothing happens. Its version stays until versions are cleaned up."""
        dataset = self._latest()
        if name in dataset.tags.list():
            dataset.tags.delete(name)

    def append(self, rows: "Sequence[Mapping[str, Any]] | pa.Table") -> int:
        """Adds rows whose key is not there yet and answers how many; columns that are not given are null."""
        batch = self._arrow(rows, keep="first")
        if batch.num_rows == 0:
            return 0
        done = self._commit(lambda data: data.merge_insert(self.key).when_not_matched_insert_all().execute(batch))
        if len(self._small_fragments()) > MAX_SMALL_FRAGMENTS:
            self.compact()
        return int(done["num_inserted_rows"])

    def update(self, rows: "Sequence[Mapping[str, Any]] | pa.Table") -> int:
        """Sets the given columns of rows that exist and answers how many were met; blobs are neither written nor copied.

        A call rewrites these columns of every fragment it touches, so a few hundred rows a call are better than a few.
        """
        return sum(self._update(batch) for batch in self._by_columns(rows))

    def change(self, columns: Mapping[str, str], where: str) -> None:
        """Sets columns to expressions in the rows that a filter matches when it is written."""
        self._commit(lambda data: data.update(dict(columns), where=where))

    def delete(self, where: str) -> None:
        """Deletes the rows that a filter matches."""
        self._commit(lambda data: data.delete(where))

    def read_arrow(self, columns: Sequence[str], where: str | None = None) -> "pa.Table":
        """Reads columns (no blobs) of the rows that a filter matches, in no promised order."""
        for name in columns:
            if name in self.blob_columns:
                raise TableError(f"`{name}` of table `{self.name}` holds blobs; hint: read_blobs")
            self._check_column(name)
        return self._latest().to_table(columns=list(columns), filter=self._filter(where))

    def read(self, columns: Sequence[str], where: str | None = None, order_by_key: bool = True) -> list[dict[str, Any]]:
        """Reads columns as plain Python rows, sorted by key unless told otherwise."""
        wanted = list(dict.fromkeys([*columns, self.key] if order_by_key else columns))
        found = self.read_arrow(wanted, where)
        if order_by_key:
            found = found.sort_by(self.key)
        rows: list[dict[str, Any]] = found.select(list(columns)).to_pylist()
        return rows

    def keys(self, where: str | None = None) -> list[str]:
        """Answers the keys of the rows that a filter matches, sorted."""
        found: list[str] = self.read_arrow([self.key], where)[self.key].to_pylist()
        return sorted(found)

    def count(self, where: str | None = None) -> int:
        return int(self._latest().count_rows(self._filter(where)))

    def read_blobs(self, column: str, keys: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """Reads the blobs of rows, in the order of `keys`.

        Raises:
            TableError: a key is not there, or its blob is null.
        """
        # A version of its own: addresses move when somebody compacts, and a caller may write while this reads.
        dataset = self._dataset_at(self._latest().version)
        places = self._row_addresses(dataset, keys)
        for chunk in _chunks(keys, BLOBS_AT_ONCE):
            found = dict(dataset.read_blobs(column, addresses=sorted({places[key] for key in chunk})))
            for key in chunk:
                blob = found.get(places[key])
                if blob is None:
                    raise TableError(f"`{key}` of table `{self.name}` has no `{column}`")
                yield key, blob

    def read_tensor(self, column: str, keys: Sequence[str]) -> "list[np.ndarray]":
        """Reads float16 arrays with the shapes beside them (`latents`, `text_embeds`), in the order of `keys`.

        Raises:
            TableError: a key is not there, or has no such array yet.
        """
        dataset = self._latest()
        whole = 4 * len(keys) >= dataset.count_rows()  # then one scan is cheaper than many lists of keys
        filters = [None] if whole else [among(self.key, part) for part in _chunks(keys, KEYS_IN_FILTER)]
        found: dict[str, np.ndarray] = {}
        for where in filters:
            part = dataset.to_table(columns=[self.key, column, SHAPES[column]], filter=where)
            for batch in part.to_batches():
                found.update(arrays(batch, self.key, column))
        for key in keys:
            if key not in found:
                raise TableError(f"`{key}` of table `{self.name}` has no `{column}`; hint: run the stage that writes it")
        return [found[key] for key in keys]

    def stored_tensor(self, column: str, keys: Sequence[str]) -> StoredArrays:
        """Answers what `read_tensor` does, as it is at this moment, but reads only what is asked of it.

        Raises:
            TableError: a key is not there, or has no such array yet.
        """
        dataset = self._dataset_at(self._latest().version)
        found = dataset.to_table(columns=[self.key, SHAPES[column]])
        places = {key: place for place, key in enumerate(found[self.key].to_pylist())}
        shapes: list[list[int] | None] = found[SHAPES[column]].to_pylist()
        chosen = [places.get(key, -1) for key in keys]
        for key, place in zip(keys, chosen, strict=True):
            if place < 0 or not shapes[place]:
                raise TableError(f"`{key}` of table `{self.name}` has no `{column}`; hint: run the stage that writes it")
        return StoredArrays(dataset, self.key, column, keys, chosen, [tuple(shapes[place] or ()) for place in chosen])

    def digest(self, columns: Sequence[str], where: str | None = None) -> str:
        """Answers the sha256 of the sorted (key, columns) of the rows that a filter matches.

        It depends neither on the order of rows nor on Lance's version and fragments. Columns are scalar.
        """
        found = self.read_arrow(list(dict.fromkeys([self.key, *columns])), where).sort_by(self.key)
        answer = hashlib.sha256(f"{found.num_rows} rows".encode())
        for name in (self.key, *columns):
            values = [None if value is None else str(value) for value in found[name].to_pylist()]
            lengths = ",".join("null" if value is None else str(len(value)) for value in values)
            answer.update(f"\n{name}\n{lengths}\n".encode())
            answer.update("".join(value for value in values if value is not None).encode())
        return answer.hexdigest()

    def compact(self) -> None:
        """Joins small fragments, drops deleted rows, and removes versions that are old and not tagged."""
        self._commit(lambda data: data.optimize.compact_files(target_rows_per_fragment=ROWS_PER_FRAGMENT, num_threads=1))
        self._latest().cleanup_old_versions(older_than=KEEP_VERSIONS, error_if_tagged_old_versions=False)

    def purge(self, unfinished: bool = True) -> int:
        """Takes what was deleted off the disk, old versions with their tags included, and answers the bytes that were freed.

        Args:
            unfinished: files of writes that never ended go too, so no other process may be writing.
        """
        for name in self.tags():
            self.untag(name)
        self._commit(
            lambda data: data.optimize.compact_files(
                target_rows_per_fragment=ROWS_PER_FRAGMENT, materialize_deletions=True, materialize_deletions_threshold=0.0, num_threads=1
            )
        )
        return int(self._latest().cleanup_old_versions(older_than=timedelta(0), delete_unverified=unfinished).bytes_removed)

    def old_versions(self) -> tuple[int, int]:
        """Answers how many versions are old and not tagged, and the bytes that only they hold."""
        return _counted(self._latest().explain_cleanup_old_versions(older_than=KEEP_VERSIONS, error_if_tagged_old_versions=False))

    def remove_old_versions(self) -> tuple[int, int]:
        """Removes those; answers how many and the bytes that were freed."""
        return _counted(self._latest().cleanup_old_versions(older_than=KEEP_VERSIONS, error_if_tagged_old_versions=False))

    def _filter(self, where: str | None) -> str | None:
        return with_lifted(where, self._lifted) if self._lifted else where

    def _small_fragments(self) -> "list[lance.LanceFragment]":
        return [part for part in self._latest().get_fragments() if part.metadata.num_rows < ROWS_PER_FRAGMENT // 2]

    def _dataset_at(self, version: int | str) -> "lance.LanceDataset":
        import lance

        return lance.dataset(self.uri, version=version, storage_options=options_of(self.uri))

    def _latest(self) -> "lance.LanceDataset":
        if not self._pinned:
            self._dataset.checkout_latest()
        return self._dataset

    def _commit(self, action: "Callable[[lance.LanceDataset], Result]") -> Result:
        if self._pinned:
            raise TableError(f"table `{self.name}` is pinned to version {self._dataset.version} and cannot be written")
        for attempt in range(MAX_ATTEMPTS):
            try:
                return action(self._latest())
            except (OSError, RuntimeError) as error:
                if not _lost_a_race(error) or attempt == MAX_ATTEMPTS - 1:
                    raise
            time.sleep(random.uniform(0.5, 1.0) * min(2.0, 0.02 * 2**attempt))
        raise AssertionError("unreachable")

    def _adopt(self, schema: "pa.Schema") -> None:
        for field in schema:
            if field.name not in self.schema.names:
                self._add_column(field)
                continue
            there = self.schema.field(field.name)
            if there.type != field.type and not (is_blob(there) and is_blob(field)):
                raise TableError(
                    f"column `{field.name}` of `{self.uri}` is {there.type}, not {field.type}; "
                    "hint: another version of Kinora wrote it, use another `--project`"
                )

    def _add_column(self, field: "pa.Field") -> None:
        def add(data: "lance.LanceDataset") -> None:
            if field.name not in data.schema.names:
                data.add_columns(field)

        self._commit(add)
        self.schema = self._dataset.schema
        self.blob_columns = tuple(f.name for f in self.schema if is_blob(f))

    def _arrow(self, rows: "Sequence[Mapping[str, Any]] | pa.Table", keep: str) -> "pa.Table":
        """Answers rows as an Arrow table of this schema's types, each key once."""
        import pyarrow as pa

        if isinstance(rows, pa.Table):
            columns = {name: rows[name] for name in rows.column_names}
        else:
            columns = {name: [row.get(name) for row in rows] for name in dict.fromkeys(name for row in rows for name in row)}
            columns = columns or {self.key: []}
        for name in columns:
            self._check_column(name)
        if self.key not in columns or any(value is None or value == "" for value in plain(columns[self.key])):
            raise TableError(f"a row for table `{self.name}` has no `{self.key}`")
        fields = [self.schema.field(name) for name in columns]
        table = pa.table([arrow_column(columns[f.name], f) for f in fields], schema=pa.schema(fields))
        places: dict[str, int] = {}
        for place, key in enumerate(table[self.key].to_pylist()):
            if keep == "last" or key not in places:
                places[key] = place
        return table if len(places) == table.num_rows else table.take(sorted(places.values()))

    def _by_columns(self, rows: "Sequence[Mapping[str, Any]] | pa.Table") -> "Iterable[pa.Table]":
        if not isinstance(rows, list | tuple):
            yield self._arrow(rows, keep="last")
            return
        groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
        for row in rows:
            groups.setdefault(tuple(sorted(row)), []).append(row)
        for group in groups.values():
            yield self._arrow(group, keep="last")

    def _update(self, batch: "pa.Table") -> int:
        for name in batch.column_names:
            if name in self.blob_columns:
                raise TableError(f"`{name}` of table `{self.name}` holds blobs, which are written once, by append")
        if batch.num_rows == 0 or batch.num_columns < 2:
            return 0

        def merge(data: "lance.LanceDataset") -> Any:
            builder = data.merge_insert(self.key).when_matched_update_all()
            builder.write_mode("rewrite_columns")
            return builder.execute(batch)

        return int(self._commit(merge)["num_updated_rows"])

    def _row_addresses(self, dataset: "lance.LanceDataset", keys: Sequence[str]) -> dict[str, int]:
        where = among(self.key, keys) if len(keys) <= KEYS_IN_FILTER else None
        found = dataset.to_table(columns=[self.key], filter=where, with_row_address=True)
        places = dict(zip(found[self.key].to_pylist(), found["_rowaddr"].to_pylist(), strict=True))
        for key in keys:
            if key not in places:
                raise TableError(f"`{key}` is not in table `{self.name}`")
        return places

    def _check_column(self, name: str) -> None:
        if name not in self.schema.names:
            close = difflib.get_close_matches(name, self.schema.names, n=1)
            raise TableError(f"`{name}` is not a column of table `{self.name}`" + (f"; did you mean `{close[0]}`?" if close else ""))


def exists(project: "Project", name: str) -> bool:
    """Answers whether a table was ever written, without creating it."""
    if project.storage is not None:
        return bool(Storage(project.table(name)).list("_versions"))
    return (Path(project.table(name)) / "_versions").is_dir()


def videos(project: "Project") -> Table:
    """Opens the sources of a project: one row per content of a file."""
    from components.store import schema

    return Table.open(project.table("videos"), schema.VIDEOS, "video_id")


def clips(project: "Project") -> Table:
    """Opens the clips of a project: one row per training item."""
    from components.store import schema

    table = Table.open(project.table("clips"), schema.CLIPS, "clip_id")
    return table if project.clips_version is None else table.at(project.clips_version, project.clips_lifted)


def samples(project: "Project") -> Table:
    """Opens the generated videos of a project."""
    from components.store import schema

    return Table.open(project.table("samples"), schema.SAMPLES, "sample_id")


def _create(uri: str, schema: "pa.Schema", key: str) -> "lance.LanceDataset":
    import lance
    import pyarrow as pa

    # Lance keeps two writers from inserting the same key only when the column is marked as the primary key.
    fields = [f.with_metadata({"lance-schema:unenforced-primary-key": "true"}) if f.name == key else f for f in schema]
    marked = pa.schema(fields)
    empty = pa.table([arrow_column([], f) for f in marked], schema=marked)
    options = options_of(uri)
    if "://" not in uri:
        Path(uri).parent.mkdir(parents=True, exist_ok=True)
    try:
        return lance.write_dataset(empty, uri, data_storage_version="2.2", enable_stable_row_ids=True, storage_options=options)
    except OSError as error:
        if "already exists" not in str(error) and not _lost_a_race(error):
            raise
        return lance.dataset(uri, storage_options=options)


def _counted(found: Any) -> tuple[int, int]:
    stats = getattr(found, "stats", found)
    return int(stats.old_versions), int(stats.bytes_removed)


def _chunks(keys: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (keys[start : start + size] for start in range(0, len(keys), size))


def _lost_a_race(error: Exception) -> bool:
    text = str(error).lower()
    return type(error).__name__ == "CommitConflictError" or "conflict" in text or "concurrent" in text


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200]
