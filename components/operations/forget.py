"""Takes footage down: its rows, blobs and latents off the disk, every picture that may show it, and a note at each model that read it.

The hash goes to the deny list before anything else, so that no later run reads the file again; what is to be found goes beside it, so
that a take-down that was killed is finished by the next one. The file itself is left where it lies. Stages of this machine are waited
for; while one works on another machine that shares the storage, nothing is removed.
"""

import contextlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.operations.alive import lives
from components.operations.freshness import READ_ROWS, TAKEN_DOWN
from components.operations.held import held
from components.operations.lineage import find_videos, has_registry, versions_of
from components.registry import takedown
from components.store import forgotten, mirror, readings, tables
from components.store.checkpoints import remove_samples
from components.store.filters import among, quoted, with_quarantine
from components.store.lease import FORGET, refuse_others
from components.store.project import Project, write_json
from components.store.turns import alone

STATUS = "forgotten"
SHEETS_OF_FOOTAGE = ("clips.png", "reconstructions.png", "train_vae.png")
SHEET_OF_SAMPLES = "samples.png"
SHEETS_OF = {"clips.png": "curate", "reconstructions.png": "evaluate", SHEET_OF_SAMPLES: "evaluate"}


@dataclass(frozen=True)
class Forgotten:
    """What a take-down did.

    Attributes:
        places: where the file still lies.
        clips, samples: rows that went. bytes_freed: of the tables.
        pictures: files that showed it, or might have, in the project and in MLflow.
        models: versions whose training read it, with the number of clips.
    """

    video_id: str
    places: list[str]
    clips: int
    samples: int
    bytes_freed: int
    pictures: list[str]
    models: list[dict[str, Any]]


def forget(project: Project, text: str, on_wait: Callable[[], None] = lambda: None) -> list[Forgotten]:
    """Takes the files down that a person's words mean, and finishes take-downs that were killed.

    Args:
        text: a path, a file's name, or the id of a video or a clip.
        on_wait: called when stages are running, whose end is waited for.

    Raises:
        UnknownFileError: nothing of that name.
        StageBusyError: another take-down is under way, or a stage works on another machine that shares the storage; the hash is on the
            deny list already, and the same command goes on later.
        RegistryUnavailableError: MLflow is away; the rows are gone and the rest is done by the same command when it is back.
    """
    with held(project, FORGET):
        asked = {video_id: entry for video_id, entry in forgotten.entries(project).items() if not entry["done"]}
        mirror.pull(project)
        asked |= {video_id: _to_find(project, video_id) for video_id in find_videos(project, text) if _is_there(project, video_id)}
        _deny(project, asked)
        mirror.push(project)
        with alone(project, on_wait):
            refuse_others(project, lives)
            mirror.pull(project)
            open_ones = [video_id for video_id, entry in forgotten.entries(project).items() if not entry["done"]]
            for video_id in open_ones:
                _find_all(project, video_id)
            mirror.push(project)  # another machine can end it from here on
            taken = [_take_down(project, video_id) for video_id in open_ones]
            mirror.push(project)  # what was removed is gone there too before an entry says so
            for one in taken:
                entry = forgotten.entries(project)[one.video_id]
                forgotten.write_entry(project, one.video_id, {"at": entry["at"], "done": True, "clips": entry["clips"]})
            mirror.push(project)
    return taken


def _is_there(project: Project, video_id: str) -> bool:
    """Answers whether a file was not taken down yet, or came back."""
    return video_id not in forgotten.entries(project) or tables.clips(project).count(f"video_id = {quoted(video_id)}") > 0


def _to_find(project: Project, video_id: str) -> dict[str, Any]:
    """What a take-down needs to know of a file and cannot ask any more once its rows are gone."""
    rows = tables.clips(project).read(["clip_id", "caption", "label_caption"], f"video_id = {quoted(video_id)}")
    others = tables.clips(project).read(["caption"], f"{tables.distinct('video_id', video_id)} AND caption IS NOT NULL")
    said = {caption.strip() for row in rows for caption in (row["caption"], row["label_caption"]) if caption}
    found = tables.videos(project).read(["uri", "places"], f"video_id = {quoted(video_id)}")
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "done": False,
        "clips": len(rows),
        "clip_ids": [row["clip_id"] for row in rows],
        "captions": sorted(said - {row["caption"].strip() for row in others}),
        "places": sorted({place for row in found for place in [row["uri"], *(row["places"] or [])] if place}),
        "samples": {},
        "evidence": [],
    }


def _deny(project: Project, found: Mapping[str, Mapping[str, Any]]) -> None:
    """Writes take-downs down; what an open one had found before stays in it, since its rows may be gone."""
    for video_id, new in found.items():
        known = forgotten.entries(project).get(video_id)
        forgotten.write_entry(project, video_id, forgotten.joined(known, new) if known and not known["done"] else dict(new))


def _find_all(project: Project, video_id: str) -> None:
    """Writes down what is to be removed, also of rows that came while stages were waited for; what goes can be asked nothing later."""
    _deny(project, {video_id: _to_find(project, video_id)})
    entry = forgotten.entries(project)[video_id]
    _deny(project, {video_id: {**entry, "samples": _samples_of(project, entry), "evidence": _evidence_of(project, entry)}})


def _take_down(project: Project, video_id: str) -> Forgotten:
    entry = forgotten.entries(project)[video_id]
    freed = _delete_rows(project, video_id, entry)
    affected = _note_in_readings(project, video_id, entry["at"])
    moved = _move_tags(project, tables.clips(project))
    pictures = _remove_pictures(project, affected, entry)
    _strike_from_records(project, {video_id, *entry["clip_ids"]})
    in_runs = _remove_from_runs(project, affected, entry)
    return Forgotten(
        video_id=video_id,
        places=[place for place in entry["places"] if Path(place).exists()],
        clips=entry["clips"],
        samples=len(entry["samples"]),
        bytes_freed=freed,
        pictures=[str(path.relative_to(project.folder)) for path in pictures] + in_runs,
        models=_mark_models(project, affected, moved),
    )


def _delete_rows(project: Project, video_id: str, entry: Mapping[str, Any]) -> int:
    """Deletes the rows of a file and of the samples of its captions, off the disk too, and answers the bytes that were freed."""
    clips, videos = tables.clips(project), tables.videos(project)
    clips.delete(f"video_id = {quoted(video_id)}")
    videos.delete(f"video_id = {quoted(video_id)}")
    videos.append([{"video_id": video_id, "uri": "", "places": [], "status": STATUS, "reason": f"taken down on {entry['at'][:10]}"}])
    emptied = [clips, videos]
    if entry["samples"]:
        emptied.append(tables.samples(project))
        emptied[-1].delete(among("sample_id", list(entry["samples"])))
    return sum(table.purge(unfinished=project.storage is None) for table in emptied)


def _samples_of(project: Project, entry: Mapping[str, Any]) -> dict[str, str]:
    """Answers the groups of the samples that were generated to be set beside the file's clips: their prompts are its captions alone."""
    if not entry["captions"] or not tables.exists(project, "samples"):
        return {}
    rows = tables.samples(project).read(["sample_id", "group"], f"`group` = 'real' AND {among('prompt', entry['captions'])}")
    return {row["sample_id"]: row["group"] for row in rows}


def _evidence_of(project: Project, entry: Mapping[str, Any]) -> list[str]:
    """Answers the files with what was measured on the file's clips or of samples of its captions."""
    named = {*entry["clip_ids"], *entry["captions"]}
    files = sorted((project.folder / "evaluations").rglob("*.json"))
    return [str(path.relative_to(project.folder)) for path in files if named & _strings(json.loads(path.read_text()))]


def _note_in_readings(project: Project, video_id: str, at: str) -> list[dict[str, Any]]:
    """Writes into the head of every training that read the file that its rows are gone, and answers these heads."""
    affected = []
    for head in readings.heads(project):
        clips = readings.clips_by_video(project, head["stage"], head["key"])[video_id]
        if not clips:
            continue
        others = [one for one in head["rows_removed"] if one["video_id"] != video_id]
        affected.append({**head, "rows_removed": [*others, {"video_id": video_id, "clips": clips, "at": at}]})
        readings.write_head(project, affected[-1])
    return affected


def _move_tags(project: Project, clips: tables.Table) -> dict[str, dict[str, str]]:
    """Tags the version that is left for the trainings whose rows are all in it unchanged; answers their new tags, by weights."""
    moved = {}
    for head in readings.heads(project):
        read = head["tables"].get("clips")
        where, columns = READ_ROWS[head["stage"]]
        if read is None or clips.digest(columns, with_quarantine(where)) != read["rows_digest"]:
            continue
        if clips.keys(where) != readings.ids_of_rows(project, head["stage"], head["key"]):  # some went to quarantine since
            continue
        version = clips.tag(read["tag"])
        tags = {"kinora.table.clips.version": str(version)}
        readings.write_head(
            project, {**head, "tables": {**head["tables"], "clips": {**read, "version": version}}, "tags": {**head["tags"], **tags}}
        )
        moved[head["weights"]] = tags
    return moved


def _remove_pictures(project: Project, affected: list[dict[str, Any]], entry: Mapping[str, Any]) -> list[Path]:
    """Removes every picture of footage, whichever files it shows, and what was measured on this one.

    The stages that run next make them anew; a sheet of the VAE comes with its next training.
    """
    found = [project.folder / name for name in ("report.html", "evaluations/reconstructions.npz", *entry["evidence"])]
    found += [project.sheet(name) for name in SHEETS_OF_FOOTAGE]
    for trained, key in _pictured(project, affected):
        checkpoints = project.checkpoints(trained, key)
        found += sorted((checkpoints / "samples").glob("step_*"))
        remove_samples(project, checkpoints)
    if entry["samples"]:
        found += [project.sheet(SHEET_OF_SAMPLES), *_sample_files(project, entry)]
    gone = [path for path in found if path.is_file()]
    for stage in {_maker_of(project, path) for path in gone}:
        record = project.record(stage) if stage else None
        if stage and record is not None:
            project.write_record(stage, {**record, TAKEN_DOWN: True})
    for path in gone:
        path.unlink()
    return gone


def _pictured(project: Project, affected: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Answers stage and key of the trainings that may have left pictures of the file on their way."""
    others = [head for head in readings.heads(project) if head["stage"] == readings.SHOWS_OTHERS]
    return sorted({(head["stage"], head["key"]) for head in [*affected, *others]})


def _maker_of(project: Project, path: Path) -> str | None:
    """Answers the stage that makes a picture or what was measured anew when it runs again; None where no run of its own does."""
    if path.parent == project.samples or project.folder / "evaluations" in path.parents:
        return "evaluate"
    return SHEETS_OF.get(path.name)


def _sample_files(project: Project, entry: Mapping[str, Any]) -> list[Path]:
    return [project.sample_file(sample_id, group) for sample_id, group in entry["samples"].items()]


def _strike_from_records(project: Project, ids: set[str]) -> None:
    """Takes the lines that name the file or its clips out of what the stages wrote down to show."""
    for path in sorted((project.folder / "state").glob("*.json")):
        with contextlib.suppress(ValueError):
            record = json.loads(path.read_text())
            if ids & _strings(record):
                write_json(path, _without(record, ids))


def _remove_from_runs(project: Project, affected: list[dict[str, Any]], entry: Mapping[str, Any]) -> list[str]:
    keys = {f"{stage}:{key[: readings.KEY_LENGTH]}" for stage, key in _pictured(project, affected)}
    names = {Path(name).name for name in entry["evidence"]} | {path.name for path in _sample_files(project, entry)}
    names |= {SHEET_OF_SAMPLES} if entry["samples"] else set()
    gone: list[str] = []

    def is_to_go(tags: Mapping[str, str], path: str) -> bool:
        name = path.rpartition("/")[2]
        of_training = name.startswith("step_") and tags.get("kinora.run_key") in keys
        if name in SHEETS_OF_FOOTAGE or name in names or of_training:
            gone.append(f"mlflow:{path}")
            return True
        return False

    if has_registry(project):
        takedown.remove_run_files(project, is_to_go)
    return gone


def _mark_models(project: Project, affected: list[dict[str, Any]], moved: Mapping[str, Mapping[str, str]]) -> list[dict[str, Any]]:
    removed = {head["weights"]: head["rows_removed"] for head in affected if head["weights"]}
    marked = []
    for version in versions_of(project):
        if version.weights in removed or version.weights in moved:
            takedown.mark(project, version, removed.get(version.weights, []), moved.get(version.weights, {}))
        if version.weights in removed:
            marked.append({"model": version.name, "version": version.number, "aliases": list(version.aliases)})
    return marked


def _strings(value: Any) -> set[str]:
    """Answers every string of a JSON value."""
    if isinstance(value, str):
        return {value}
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return {text for one in inner for text in _strings(one)}


def _without(value: Any, ids: set[str]) -> Any:
    """Answers a JSON value without the list entries that name one of the ids."""
    if isinstance(value, dict):
        return {name: _without(inner, ids) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without(inner, ids) for inner in value if not (_flat(inner) & ids)]
    return value


def _flat(value: Any) -> set[str]:
    """Answers the strings that an entry of a list is or, as a row, holds."""
    return (
        {value} if isinstance(value, str) else {one for one in value.values() if isinstance(one, str)} if isinstance(value, dict) else set()
    )
