"""Finds the files of a source and what is known of them: licence, rights, captions. Standard library only."""

from __future__ import annotations

import csv
import functools
import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from components.sections import Footage

logger = logging.getLogger("kinora")

MANIFEST = "manifest.csv"
COLUMNS = {  # what a row keeps, and the manifest columns that may say it, best first
    "source": ("source", "source_repo", "source_url", "url"),
    "licence": ("licence", "license"),
    "rights": ("rights",),
    "label_caption": ("caption_or_label", "caption", "label"),
}
PLAINLY_NOT_MEDIA = frozenset(
    ["csv", "tsv", "json", "jsonl", "md", "txt", "rst", "yaml", "yml", "toml", "log", "html", "pdf", "xml", "srt", "vtt", "ass", "parquet"]
)
IMAGES = frozenset(["jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff"])
BLOCK = 1 << 20
NAMED_ROWS = 3  # of a manifest, where more name no file


@dataclass(frozen=True)
class Source:
    """One content, with all the places that hold it.

    Attributes:
        video_id: sha256 of the bytes; of the place where there are none to read.
        uri: the absolute path that is read; `places` has all of them.
        stat: size and modification time of the file at `uri`, and a digest of what manifest and sidecar say of it.
        status: found, or rejected or missing with a reason.
        kind: image or video, by the extension.
        sidecar: the path of a `<stem>.json` beside the file.
    """

    video_id: str
    uri: str
    places: tuple[str, ...]
    stat: str
    status: str = "found"
    reason: str | None = None
    kind: str | None = None
    num_bytes: int | None = None
    source: str | None = None
    licence: str | None = None
    rights: str | None = None
    label_caption: str | None = None
    label_by: str | None = None
    sidecar: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def find_sources(
    source: str | os.PathLike, manifest: str | os.PathLike | None, limits: Footage, known: Iterable[Mapping[str, Any]] = ()
) -> list[Source]:
    """Lists a source: one entry a content, what cannot be read among them with its reason, sorted by place.

    Args:
        source: a folder, or one file.
        manifest: a CSV file whose column `file` is relative to its folder; by default `manifest.csv` in the folder or one folder up.
            Rows of a given one that name no file at all are counted in a warning.
        known: rows of the videos table; a file whose size and time are as they were is not hashed again.

    Raises:
        ValueError: nothing there can be used, or no row of a given manifest speaks of it; one sentence with the way out.
    """
    listed, rows, others = _list(source, manifest, limits)
    if manifest is not None:
        _say_astray(manifest, rows, [row["file"] for place, row in others.items() if not os.path.lexists(place)])
    remembered = {(row["uri"], _file_stat(row["stat"])): row["video_id"] for row in known if row.get("stat")}
    merged: dict[str, Source] = {}
    for entry in listed:
        if entry.status == "found":
            entry = _hashed(entry, remembered.get((entry.uri, _file_stat(entry.stat))))
        first = merged.get(entry.video_id)
        merged[entry.video_id] = entry if first is None else _merge(first, entry)
    return list(merged.values())


def list_sources(source: str | os.PathLike, manifest: str | os.PathLike | None, limits: Footage) -> list[Source]:
    """Lists a source without reading any file: one entry a place, its `video_id` still that of the place.

    Raises:
        ValueError: as `find_sources`.
    """
    return _list(source, manifest, limits)[0]


def _list(
    source: str | os.PathLike, manifest: str | os.PathLike | None, limits: Footage
) -> tuple[list[Source], int, dict[str, dict[str, Any]]]:
    """Lists a source; answers beside it how many places the manifest speaks of, and its rows on those that are no file of the source."""
    root = Path(source)
    if not root.exists():
        raise ValueError(f"the source `{source}` is not there; hint: `--source DIR` names a folder with videos or images")
    folder = root if root.is_dir() else root.parent
    said = _read_manifest(folder, Path(manifest) if manifest is not None else None)
    entries, rows = {}, len(said)
    for path, reason in _walk(root):
        entry = _entry(path, reason, said.pop(str(path), {}), limits)
        if entry is not None:
            entries[entry.uri] = entry
    for place, row in said.items():
        inside = Path(place).is_relative_to(folder.resolve())
        if inside and root.is_dir():
            entries[place] = _absent(place, "missing", "the manifest names it, but no such file is there", row)
        elif row["__leaves__"]:
            entries[place] = _absent(place, "rejected", "the manifest names a place outside its own folder", row)
    found = [entries[place] for place in sorted(entries)]
    if not any(entry.status == "found" for entry in found):
        raise ValueError(_nothing(source, found, limits))
    if manifest is not None and rows and len(said) == rows:
        raise ValueError(_no_row(source, Path(manifest), said, found))
    return found, rows, said


def listing_digest(sources: Iterable[Source]) -> str:
    """Answers one digest for a listing: it changes when a file comes, goes or changes, or what is said of it does."""
    rows = sorted((place, entry.stat if place == entry.uri else "", entry.status) for entry in sources for place in entry.places)
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def require_accepted(videos: Iterable[Mapping[str, Any]]) -> None:
    """Refuses a source of which nothing became a clip.

    Raises:
        ValueError: no row is accepted; it says the first reason.
    """
    reasons = []
    for row in videos:
        if row["status"] == "accepted":
            return
        reasons.append(f"`{Path(row['uri']).name}`: {row['reason']}")
    first = f", the first one {reasons[0]}" if reasons else ""
    raise ValueError(f"none of {len(reasons)} files can be used{first}; hint: `kinora show funnel --project NAME` has every reason")


def _walk(root: Path) -> Iterator[tuple[Path, str | None]]:
    """Yields the files below a folder as absolute paths, each with the reason why it is not read, or None. Hidden ones are passed over."""
    top = root.resolve()
    if root.is_file():
        yield top, None
        return
    for folder, folders, files in os.walk(top):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in folders:
            if os.path.islink(os.path.join(folder, name)):
                yield Path(folder, name), "a link to another folder is not followed; copy the files here"
        for name in sorted(files):
            if name.startswith("."):
                continue
            path = Path(folder, name)
            outside = path.is_symlink() and not path.resolve().is_relative_to(top)
            yield path, "it is a link that leaves the source folder; copy the file here" if outside else None


def _entry(path: Path, reason: str | None, row: Mapping[str, Any], limits: Footage) -> Source | None:
    """Describes one file; None for what is plainly no media file."""
    extension = path.suffix.lower().removeprefix(".")
    if extension in PLAINLY_NOT_MEDIA:
        return None
    if reason is None and not _is_text(path):
        reason = "its name is not UTF-8; rename it"
    if reason is None and extension not in limits.extensions:
        named = f"`.{extension}` is not an extension" if extension else "a name without an extension is not one"
        reason = f"{named} that is read; `footage.extensions` lists them"
    place = _text(path)
    if reason is not None:
        return _absent(place, "rejected", reason, row)
    try:
        stat = path.stat()
    except OSError as error:
        return _absent(place, "rejected", f"it cannot be read: {error.strerror}", row)
    if not S_ISREG(stat.st_mode):  # to open a pipe would be to wait for whoever writes into it
        return _absent(place, "rejected", "it is a pipe, a socket or a device; copy a file here", row)
    beside = path.with_suffix(".json")
    sidecar = _text(beside) if beside.is_file() and not beside.is_symlink() else None
    said = _said(row)
    about = json.dumps([said, _stat(beside) if sidecar else None])
    return Source(
        video_id=_sha256(place.encode()),
        uri=place,
        places=(place,),
        stat=f"{stat.st_size}:{stat.st_mtime_ns}:{_sha256(about.encode())[:8]}",
        kind="image" if extension in IMAGES else "video",
        num_bytes=stat.st_size,
        sidecar=sidecar,
        **said,
    )


def _absent(place: str, status: str, reason: str, row: Mapping[str, Any]) -> Source:
    """Describes what has no bytes to read; its id is that of the place."""
    said = _said(row)
    stat = _sha256(json.dumps([status, reason, said]).encode())[:8]
    return Source(_sha256(f"{status}:{place}".encode()), place, (place,), stat, status, reason, **said)


def _hashed(entry: Source, video_id: str | None) -> Source:
    if video_id is not None:
        return replace(entry, video_id=video_id)
    digest = hashlib.sha256()
    try:
        with open(entry.uri, "rb") as handle:
            while block := handle.read(BLOCK):
                digest.update(block)
    except OSError as error:
        return replace(entry, status="rejected", reason=f"it cannot be read: {error.strerror}")
    return replace(entry, video_id=digest.hexdigest())


def _merge(first: Source, second: Source) -> Source:
    """Joins two places of one content; the first that a manifest speaks of lends its words."""
    keep, other = (second, first) if second.label_caption and not first.label_caption else (first, second)
    said = {
        name: getattr(keep, name) or getattr(other, name)
        for name in ("source", "licence", "rights", "label_caption", "label_by", "sidecar")
    }
    return replace(keep, places=tuple(sorted({*first.places, *second.places})), **said)


def _read_manifest(folder: Path, explicit: Path | None) -> dict[str, dict[str, Any]]:
    """Reads a manifest as rows by absolute path; without one the answer is empty."""
    if explicit is not None and not explicit.is_file():
        raise ValueError(f"the manifest `{explicit}` is not there; hint: `--manifest FILE` names a CSV file with a column `file`")
    places = [explicit] if explicit is not None else [folder / MANIFEST, folder.resolve().parent / MANIFEST]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        return {}
    if explicit is None and path.is_symlink() and not path.resolve().is_relative_to(folder.resolve().parent):
        raise ValueError(f"the manifest `{path}` is a link that leaves the source; hint: copy it there, or `--manifest FILE` names it")
    try:
        with path.open(newline="", encoding="utf-8-sig") as handle:
            reader = csv.DictReader(handle, strict=True)
            rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"the manifest `{path}` cannot be read: {error}; hint: save it as CSV in UTF-8") from error
    if "file" not in (reader.fieldnames or ()):
        if explicit is None:
            return {}  # some other manifest that happens to lie here
        raise ValueError(f"the manifest `{path}` has no column `file`; hint: its first line names the columns")
    base, real = path.resolve().parent, functools.cache(os.path.realpath)
    said: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["file"]:
            folder_named, name = os.path.split(os.path.normpath(base / row["file"].strip()))
            place = os.path.join(real(folder_named), name)  # as the files of a source that is reached by a link are listed
            said.setdefault(place, {**row, "__leaves__": not Path(folder_named, name).is_relative_to(base)})
    return said


def _said(row: Mapping[str, Any]) -> dict[str, Any]:
    """Picks what is kept of a manifest's row; `label_by` names the words, so that other rows of the manifest may change."""
    said = {
        name: next((row[column].strip() for column in columns if (row.get(column) or "").strip()), None)
        for name, columns in COLUMNS.items()
    }
    said["label_by"] = f"manifest:{_sha256(said['label_caption'].encode())[:8]}" if said["label_caption"] else None
    return said


def _nothing(source: str | os.PathLike, found: list[Source], limits: Footage) -> str:
    if not found:
        return f"`{source}` holds no video and no image; hint: these extensions are read: {', '.join(limits.extensions)}"
    return f"nothing in `{source}` can be read, `{Path(found[0].uri).name}` for one: {found[0].reason}"


def _no_row(source: str | os.PathLike, manifest: Path, said: Mapping[str, Mapping[str, Any]], found: list[Source]) -> str:
    """Says that a manifest speaks of no file of a source, and how a row would name one that is called as the row's."""
    base = manifest.resolve().parent
    there = {Path(entry.uri).name: entry.uri for entry in found if entry.status == "found"}
    meant = next((there[name] for row in said.values() if (name := Path(row["file"].strip()).name) in there), None)
    first = next(iter(said.values()))["file"]
    tip = f"; did you mean `{os.path.relpath(meant, base)}`?" if meant else f" `{base}`, where `{first}` is no file of the source"
    return f"no row of the manifest `{manifest}` names a file of `{source}`; hint: `file` is relative to the manifest's folder{tip}"


def _say_astray(manifest: str | os.PathLike, rows: int, astray: list[str]) -> None:
    """Logs how many rows of a manifest name no file anywhere, and the first of them."""
    if astray:
        first = ", ".join(f"`{name}`" for name in astray[:NAMED_ROWS])
        more = " and others" if len(astray) > NAMED_ROWS else ""
        said = f"{len(astray)} of {rows} rows of the manifest `{manifest}` name no file: {first}{more}"
        logger.warning("%s; hint: `file` is relative to the manifest's folder", said)


def _stat(path: Path) -> str:
    stat = path.stat()
    return f"{stat.st_size}:{stat.st_mtime_ns}"


def _file_stat(stat: str) -> str:
    """Answers the part of a row's `stat` that is the file's own."""
    return ":".join(stat.split(":")[:2])


def _text(path: Path) -> str:
    """Answers a path as text that any table and terminal can hold; bytes that are no UTF-8 are escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _is_text(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
