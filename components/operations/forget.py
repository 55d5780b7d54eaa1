"""Takes footage down: its rows, blobs and latents off the disk, every picture that may show it, and a note at each model that read it.

The hash goes to the deny list before anything else, so that no later run reads the file again; what is to be found goes beside it, so
that a take-down that was killed is finished by the next one. The file itself is left where it lies.
"""

import contextlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.operations.freshness import READ_ROWS
from components.operations.lineage import find_videos, has_registry, versions_of
from components.registry import takedown
from components.store import forgotten, mirror, readings, tables
from components.store.checkpoints import remove_samples
from components.store.filters import among, quoted
from components.store.project import Project, write_json
from components.store.turns import alone

STATUS = "forgotten"
SHEETS_OF_FOOTAGE = ("clips.png", "reconstructions.png", "train_vae.png")
SHEET_OF_SAMPLES = "samples.png"


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
        RegistryUnavailableError: MLflow is away; the rows are gone and the rest is done by the same command when it is back.
    """
    with project.lock("forget"):
        for video_id in find_videos(project, text):
            if video_id not in forgotten.entries(project) or tables.clips(project).count(f"video_id = {quoted(video_id)}"):
                forgotten.write_entry(project, video_id, _to_find(project, video_id))
        with alone(project, on_wait):
            mirror.pull(project)
            open_ones = {video_id: entry for video_id, entry in forgotten.entries(project).items() if not entry["done"]}
            done = [_take_down(project, video_id, entry) for video_id, entry in open_ones.items()]
            mirror.push(project)
    return done


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
    }


def _take_down(project: Project, video_id: str, entry: Mapping[str, Any]) -> Forgotten:
    clips = tables.clips(project)
    clips.delete(f"video_id = {quoted(video_id)}")
    videos = tables.videos(project)
    videos.delete(f"video_id = {quoted(video_id)}")
    videos.append([{"video_id": video_id, "uri": "", "places": [], "status": STATUS, "reason": f"taken down on {entry['at'][:10]}"}])
    gone_samples = _delete_samples(project, entry["captions"])
    freed = clips.purge() + videos.purge() + (tables.samples(project).purge() if gone_samples else 0)
    affected = _note_in_readings(project, video_id, entry["at"])
    moved = _move_tags(project, clips)
    pictures, evidence = _remove_pictures(project, affected, gone_samples), _remove_evidence(project, entry)
    _strike_from_records(project, {video_id, *entry["clip_ids"]})
    in_runs = _remove_from_runs(project, affected, gone_samples, evidence)
    marked = _mark_models(project, affected, moved)
    forgotten.write_entry(project, video_id, {"at": entry["at"], "done": True, "clips": entry["clips"]})
    return Forgotten(
        video_id=video_id,
        places=[place for place in entry["places"] if Path(place).exists()],
        clips=entry["clips"],
        samples=len(gone_samples),
        bytes_freed=freed,
        pictures=[str(path.relative_to(project.folder)) for path in [*pictures, *evidence]] + in_runs,
        models=marked,
    )


def _delete_samples(project: Project, captions: list[str]) -> list[dict[str, Any]]:
    """Deletes the samples that were generated to be set beside the file's clips: their prompts are its captions alone."""
    if not captions or not tables.exists(project, "samples"):
        return []
    samples, where = tables.samples(project), f"\"group\" = 'real' AND {among('prompt', captions)}"
    rows = samples.read(["sample_id", "group"], where)
    if rows:
        samples.delete(among("sample_id", [row["sample_id"] for row in rows]))
    return rows


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
        if read is None or clips.digest(columns, where) != read["rows_digest"]:
            continue
        version = clips.tag(read["tag"])
        tags = {"kinora.table.clips.version": str(version)}
        readings.write_head(
            project, {**head, "tables": {**head["tables"], "clips": {**read, "version": version}}, "tags": {**head["tags"], **tags}}
        )
        moved[head["weights"]] = tags
    return moved


def _remove_pictures(project: Project, affected: list[dict[str, Any]], samples: list[dict[str, Any]]) -> list[Path]:
    """Removes every picture of footage, whichever files it shows: the stages that run next make them anew."""
    found = [project.sheet(name) for name in SHEETS_OF_FOOTAGE]
    found += [project.folder / "report.html", project.folder / "evaluations" / "reconstructions.npz"]
    for head in affected:
        checkpoints = project.checkpoints(head["stage"], head["key"])
        found += sorted((checkpoints / "samples").glob("step_*"))
        remove_samples(project, checkpoints)
    if samples:
        found += [project.sheet(SHEET_OF_SAMPLES), *(project.samples / _file_of(row) for row in samples)]
    gone = [path for path in found if path.is_file()]
    for path in gone:
        path.unlink()
    return gone


def _remove_evidence(project: Project, entry: Mapping[str, Any]) -> list[Path]:
    """Removes what was measured on the file's clips or of samples of its captions; the next evaluation measures without them."""
    named = {*entry["clip_ids"], *entry["captions"]}
    gone = []
    for path in sorted((project.folder / "evaluations").rglob("*.json")):
        if named & _strings(json.loads(path.read_text())):
            path.unlink()
            gone.append(path)
    return gone


def _strike_from_records(project: Project, ids: set[str]) -> None:
    """Takes the lines that name the file or its clips out of what the stages wrote down to show."""
    for path in sorted((project.folder / "state").glob("*.json")):
        with contextlib.suppress(ValueError):
            record = json.loads(path.read_text())
            if ids & _strings(record):
                write_json(path, _without(record, ids))


def _remove_from_runs(project: Project, affected: list[dict[str, Any]], samples: list[dict[str, Any]], evidence: list[Path]) -> list[str]:
    keys = {f"{head['stage']}:{head['key'][: readings.KEY_LENGTH]}" for head in affected}
    names = {path.name for path in evidence} | {_file_of(row) for row in samples} | ({SHEET_OF_SAMPLES} if samples else set())
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


def _file_of(sample: Mapping[str, Any]) -> str:
    return f"{sample['group']}-{sample['sample_id'][:8]}.mp4"


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
