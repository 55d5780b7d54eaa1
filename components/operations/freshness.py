"""Says what is fresh and what is stale: who makes a stage's output now, the rows it reads, and what is left to do.

The planner and the jobs both ask here, so they cannot disagree. A record is what a finished stage wrote down:
`maker`, `rows`, `rows_digest` and, for a training, `result.weights` (the digest of the folder it exported; empty when it
trained nothing). No torch, Ray or Prefect, and MLflow only where `dit.finetune` names a registered model.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.caption.captioner import choose
from components.models.weights import MANIFEST, DamagedFolderError, digest_folder, verify_folder
from components.operations.finetune import Base, base_model, moves
from components.sections import Config
from components.stages import STAGES, TRAIN_STAGES, digest, maker, shaping
from components.store import tables
from components.store.filters import HELD_OUT, KEPT, LABELLED, LENT, TRAINING, with_quarantine
from components.store.project import Project
from components.store.readings import read_head, removed_rows

# What each stage reads, as the rows and the `_by` columns that decide whether it must run again. Their digest is of rows in
# quarantine too: a clip that is put aside is left out from then on, and makes nothing stale that was made with it.
READ_ROWS: dict[str, tuple[str | None, tuple[str, ...]]] = {
    "curate": (None, ("clip_by",)),
    "train_captioner": (LABELLED, ("clip_by", "label_by")),
    "caption": (KEPT, ("clip_by", "label_by", "lent")),
    "train_vae": (TRAINING, ("clip_by",)),
    "encode": (KEPT, ("clip_by", "caption_by")),
    "train_dit": (TRAINING, ("latents_by", "text_embeds_by")),
    "evaluate": (HELD_OUT, ("clip_by", "caption_by")),
}
TAKEN_DOWN = "pictures_taken_down"  # in the record of a stage whose pictures a take-down removed
SERVED = {"train_vae": "video VAE", "train_captioner": "captioner"}  # which a model that is trained further has of its own
NEW_WITHOUT = {"curate": "curated_by", "caption": "caption_by", "encode": "latents_by"}


@dataclass(frozen=True)
class Freshness:
    """What is known of a stage before it runs.

    Attributes:
        maker: who would make its output now.
        rows: how many rows it reads (ingest: files).
        rows_digest: the digest of their keys and `_by` columns, rows in quarantine included (ingest: of the listing of the source).
        key: of a training: names its checkpoints and its model; other rows or another maker give another key.
        left: how many rows are left to do, all that is read when a stage works on the whole.
        stale: of a row stage: the keys left to do, by what is to be written for them.
    """

    stage: str
    fresh: bool
    why: str
    maker: str
    rows: int
    rows_digest: str
    key: str
    left: int
    stale: dict[str, list[str]] = field(default_factory=dict)

    @property
    def todo(self) -> int:
        """How many rows a run will work on."""
        return 0 if self.fresh else self.left


def assess(stage: str, config: Config, project: Project, source: Path | None = None, manifest: Path | None = None) -> Freshness:
    """Answers whether a stage is fresh, why, and what is left to do, given the tables and records as they are."""
    base_model(config, project)  # where it is not there, no stage runs
    now = stage_maker(stage, config, project)
    rows, rows_now = _rows(stage, config, project, source, manifest)
    stale = stale_rows(stage, config, project)
    left = max((len(keys) for keys in stale.values()), default=rows)
    record = finished(stage, project)
    if stage == "ingest" and (record is None or (record["maker"], record["rows_digest"]) != (now, rows_now)):
        left = _files_left(now, rows, config, project, source, manifest)
    if (base := serving_base(stage, config, project)) is not None:
        fresh, why = True, f"the {SERVED[stage]} of `{base.reference}` serves, as `dit.finetune` says"
    elif record is None:
        part = f", {rows - left} of {rows} rows are done" if 0 < left < rows else ""
        fresh, why = False, f"it has not finished yet{part}"
    elif record["maker"] != now:
        fresh, why = False, what_changed(stage, config, project)
    elif (gone := _missing(stage, project)) is not None:
        fresh, why = False, gone
    elif stage in TRAIN_STAGES:
        fresh, why = _trained(stage, config, project, record, rows, rows_now)
        why += _moved_on(config, project) if fresh and stage == "train_dit" else ""
    elif any(stale.values()):
        fresh, why = False, _new_or_stale(stage, project, stale)
    elif not _same_rows(stage, project, record, rows_now):
        files = _counted(left, "new or changed file") or "the footage changed"
        fresh, why = False, files if stage == "ingest" else "the rows it reads changed"
    else:
        fresh, why = True, "nothing changed"
    return Freshness(stage, fresh, why, now, rows, rows_now, training_key(now, rows_now), left, stale)


def finished(stage: str, project: Project) -> dict[str, Any] | None:
    """Answers a stage's record, or None while there is no whole one."""
    record = project.record(stage)
    return record if record is not None and {"maker", "rows", "rows_digest", "result"} <= record.keys() else None


def stage_maker(stage: str, config: Config, project: Project) -> str:
    """Answers who would make a stage's output now: its settings, revision, upstream makers and the weights it applies."""
    settings = config.model_dump(mode="json")

    def named(name: str, upstream: tuple[str, ...], *weights: str) -> str:
        return maker(name, settings, [stage_maker(above, config, project) for above in upstream], digest(weights) if weights else "")

    match stage:
        case "ingest" | "curate" | "train_captioner" | "train_vae" | "promote":
            return named(stage, STAGES[stage].upstream)
        case "train_dit":
            return named(stage, STAGES[stage].upstream, *_base_weights(config, project))
        case "caption":
            return named(stage, (), serving_weights("train_captioner", config, project))
        case "encode":
            return named(stage, ("caption",), serving_weights("train_vae", config, project), _text_encoder_name(config, project))
        case "evaluate":
            return named(stage, (), weights_of("train_dit", project))
    raise ValueError(f"`{stage}` is not a stage; the stages are {', '.join(STAGES)}")


def _base_weights(config: Config, project: Project) -> tuple[str, ...]:
    """Answers the digest of the model that is trained further; none of one whose name moves with each promotion, nor without one."""
    base = base_model(config, project)
    return () if base is None or moves(base, project) else (base.weights,)


def _begun_with(project: Project) -> str | None:
    """Answers the digest of the model that the last finished training of the diffusion transformer went on from, where it is known."""
    record = finished("train_dit", project)
    key = "" if record is None else training_key(record["maker"], record["rows_digest"])
    head = read_head(project, "train_dit", key) if key else None
    begun: str | None = (head or {}).get("stands_on", {}).get("text-to-video")
    return begun


def _moved_on(config: Config, project: Project) -> str:
    """Says that the name of the model which is trained further means another by now, that no training of this project made."""
    base, begun = base_model(config, project), _begun_with(project)
    if base is None or begun in (None, base.weights) or base.weights == weights_of("train_dit", project):
        return ""
    return f", though `{base.reference}` is another model by now; hint: `--set dit.finetune={base.name}` trains that one further"


def training_key(stage_maker: str, rows: str) -> str:
    """Answers the name of one training: the same maker on the same rows resumes, anything else starts anew."""
    return digest({"maker": stage_maker, "rows": rows})


def model_folder(stage: str, project: Project) -> Path | None:
    """Answers the folder that the last finished training of a stage exported, or None."""
    record = finished(stage, project)
    if record is None or record["result"].get("weights") == "":
        return None
    return project.model(stage, training_key(record["maker"], record["rows_digest"]))


def weights_of(stage: str, project: Project) -> str:
    """Answers the digest of the weights that a stage's last training exported; empty when there are none."""
    folder = model_folder(stage, project)
    try:
        return digest_folder(folder) if folder is not None else ""
    except DamagedFolderError:
        return ""


def serving_base(stage: str, config: Config, project: Project) -> Base | None:
    """Answers the model whose video VAE or captioner serves in place of what a stage would train; None where the stage's own does.

    A base's captioner does so where too little is labelled for one of the project's own.
    """
    base = base_model(config, project) if stage in SERVED else None
    if base is None or stage == "train_vae":
        return base
    if not base.captions or not tables.exists(project, "clips"):
        return None
    return base if choose(config.captioner, tables.clips(project).count(LABELLED)).mode == "untrained" else None


def serving_folder(stage: str, config: Config, project: Project) -> Path | None:
    """Answers the folder of the captioner, or video VAE, that serves: the one a stage trained or that of the model trained further."""
    if (base := serving_base(stage, config, project)) is None:
        return model_folder(stage, project)
    return base.vae_folder if stage == "train_vae" else base.text_encoder_folder


def serving_weights(stage: str, config: Config, project: Project) -> str:
    """Answers the digest of the weights in `serving_folder`; empty when there are none."""
    if (base := serving_base(stage, config, project)) is None:
        return weights_of(stage, project)
    return base.video_vae if stage == "train_vae" else base.text_encoder


def text_encoder_place(settings: Mapping[str, Any], project: Project) -> Path:
    """Answers the folder that a pretrained text encoder of these settings, as a record has them, is taken to."""
    return project.model("text_encoder", digest(dict(settings)))


def text_encoder_folder(config: Config, project: Project) -> Path | None:
    """Answers the folder of the text encoder that serves: the base's, the captioner or the pretrained one; None before there is one."""
    if (base := base_model(config, project)) is not None:
        return base.text_encoder_folder
    if config.text_encoder.pretrained is None:
        return model_folder("train_captioner", project)
    folder = text_encoder_place(config.text_encoder.model_dump(mode="json"), project)
    return folder if (folder / MANIFEST).is_file() else None


def caption_maker(config: Config, project: Project, label_by: str | None) -> str:
    """Answers the `caption_by` of a row: a lent caption keeps the name of its lender."""
    return label_by or stage_maker("caption", config, project)


def latents_maker(config: Config, project: Project) -> str:
    """Answers the `latents_by` that the serving VAE gives."""
    return maker("encode", config.model_dump(mode="json"), (), serving_weights("train_vae", config, project))


def text_encoder_weights(config: Config, project: Project) -> str:
    """Answers the digest of the text encoder that serves; empty before there is one."""
    if base_model(config, project) is None and config.text_encoder.pretrained is None:
        return weights_of("train_captioner", project)
    folder = text_encoder_folder(config, project)
    return digest_folder(folder) if folder is not None else ""


def _text_encoder_name(config: Config, project: Project) -> str:
    """Answers what tells the text encoder apart: a pretrained one's settings, since its weights are known once it is taken."""
    if base_model(config, project) is None and config.text_encoder.pretrained is not None:
        return digest(config.text_encoder.model_dump(mode="json"))
    return text_encoder_weights(config, project)


def text_maker(config: Config, project: Project) -> Callable[[str], str]:
    """Answers the function from a row's `caption_by` to the `text_embeds_by` that the serving text encoder gives it."""
    encoder = maker("encode", config.model_dump(mode="json"), (), text_encoder_weights(config, project))
    return lambda caption_by: digest({"encoder": encoder, "caption": caption_by})


def stale_rows(stage: str, config: Config, project: Project) -> dict[str, list[str]]:
    """Answers the keys of the rows that a row stage has still to do, by what is to be written; empty for other stages."""
    if stage not in ("curate", "caption", "encode") or not tables.exists(project, "clips"):
        return {}
    clips = tables.clips(project)
    match stage:
        case "curate":
            return {"curate": clips.keys(tables.distinct("curated_by", stage_maker("curate", config, project)))}
        case "caption":
            return {"caption": _stale_captions(clips, config, project)}
    by_text = text_maker(config, project)
    captioned = clips.read(["clip_id", "caption_by", "text_embeds_by"], f"{KEPT} AND caption IS NOT NULL")
    return {
        "latents": clips.keys(f"{KEPT} AND {tables.distinct('latents_by', latents_maker(config, project))}"),
        "text_embeds": [row["clip_id"] for row in captioned if row["text_embeds_by"] != by_text(row["caption_by"] or "")],
    }


def check_encoded(config: Config, project: Project) -> None:
    """Refuses to train on latents and text embeddings that are not of the video VAE and the text encoder which serve.

    Clips that nobody encoded yet are left out of a training, and no hindrance.

    Raises:
        ValueError: there are none at all, or some were made by others.
    """
    clips, stale = tables.clips(project), stale_rows("encode", config, project)
    made = {what: set(clips.keys(f"{KEPT} AND {what}_by IS NOT NULL")) for what in ("latents", "text_embeds")}
    if not made["latents"] & made["text_embeds"] & set(clips.keys(TRAINING)):
        raise ValueError(
            "no clip of the training split has latents and text embeddings; hint: `kinora run encode`, and `kinora show funnel`"
        )
    for what, sentence in (
        ("latents", "the latents of {} are of another video VAE than the one that serves now"),
        ("text_embeds", "the text embeddings of {} are of another text encoder, or of another caption, than serves now"),
    ):
        if others := len(made[what].intersection(stale[what])):
            raise ValueError(f"{sentence.format(_counted(others, 'clip'))}; hint: `kinora run encode` with the same settings first")


def _stale_captions(clips: tables.Table, config: Config, project: Project) -> list[str]:
    lent = f"({LENT} AND (caption_by IS DISTINCT FROM label_by) AND {KEPT})"
    record = finished("train_captioner", project)
    if record is not None and not serving_weights("train_captioner", config, project):
        return clips.keys(lent)  # no captioner, so what nobody described stays without a caption
    made = tables.distinct("caption_by", stage_maker("caption", config, project))
    return clips.keys(f"{lent} OR ((lent IS DISTINCT FROM true) AND {made} AND {KEPT})")


def what_changed(stage: str, config: Config, project: Project) -> str:
    """Says why another maker would make a stage's output now: its code, a setting of it, or what it stands on."""
    record = finished(stage, project) or {}
    revision = STAGES[stage].revision
    if record.get("revision", revision) != revision:
        return f"its code changed, revision {revision} now and {record['revision']} then"
    settings, then = config.model_dump(mode="json"), record.get("settings", {})
    for section in (*STAGES[stage].sections, *STAGES[stage].partly):
        if section not in then:
            continue
        now, was = shaping(section, settings[section]), shaping(section, then[section])
        for name, value in settings[section].items():
            if now.get(name) != was.get(name):
                return f"`{section}.{name}` is {value}, was {then[section].get(name)}"
    if stage == "encode" and (was := then.get("dit", {}).get("finetune")) != config.dit.finetune:
        return f"`dit.finetune` is {config.dit.finetune}, was {was}"
    base = base_model(config, project) if stage == "train_dit" else None
    if base is not None and _begun_with(project) not in (None, base.weights) and not moves(base, project):
        return f"`{base.reference}` is another model than it was"
    for above in upstream_of(stage, config, project):
        if (finished(above, project) or {}).get("maker") != stage_maker(above, config, project):
            return f"`{above}` changed: {what_changed(above, config, project)}"
    return "what it stands on was made anew" if STAGES[stage].upstream else "what it is made with changed"


def upstream_of(stage: str, config: Config, project: Project) -> tuple[str, ...]:
    """Answers the stages whose output a stage takes: none that a model trained further serves in place of."""
    if stage == "train_vae" and config.dit.finetune is not None:
        return ()
    return tuple(above for above in STAGES[stage].upstream if serving_base(above, config, project) is None)


def stage_settings(stage: str, config: Config) -> dict[str, Any]:
    """Answers the sections that shape a stage, for its record."""
    settings = config.model_dump(mode="json")
    found = {section: settings[section] for section in (*STAGES[stage].sections, *STAGES[stage].partly)}
    return found | ({"dit": {"finetune": config.dit.finetune}} if stage == "encode" else {})  # whose VAE and text encoder then serve


def _rows(stage: str, config: Config, project: Project, source: Path | None, manifest: Path | None) -> tuple[int, str]:
    if stage == "ingest":
        return _listing(config, source, manifest)
    if stage == "promote":
        report = finished("evaluate", project) or {}
        return int(report.get("rows", 0)), digest([report.get("maker"), report.get("rows_digest")])
    if stage == "train_captioner" and config.captioner.pretrained is not None:
        return 0, digest(["pretrained", config.captioner.pretrained])
    if not tables.exists(project, "clips"):
        return 0, digest("no clips")
    where, columns = READ_ROWS[stage]
    clips = tables.clips(project)
    return clips.count(where), clips.digest(columns, with_quarantine(where))


def _same_rows(stage: str, project: Project, record: dict[str, Any], rows_now: str) -> bool:
    """Answers whether a stage reads what it read, or that and rows which were in quarantine before it ever read them."""
    if record["rows_digest"] == rows_now:
        return True
    where, columns = READ_ROWS.get(stage, (None, ()))
    if where is None or not tables.exists(project, "clips"):
        return False
    return record["rows_digest"] == tables.clips(project).digest(columns, where)


def _listing(config: Config, source: Path | None, manifest: Path | None) -> tuple[int, str]:
    if source is None:
        return config.world.num_films + config.world.unseen_films, digest(config.world.model_dump(mode="json"))
    from components.ingest.sources import list_sources, listing_digest

    found = list_sources(source, manifest, config.footage)
    return len(found), listing_digest(found)


def _files_left(maker_now: str, files: int, config: Config, project: Project, source: Path | None, manifest: Path | None) -> int:
    """Answers how many files of the source were not read yet as they are now, or were read by another maker."""
    known = tables.videos(project).read(["uri", "stat", "status", "places", "ingested_by"]) if tables.exists(project, "videos") else []
    read = [row for row in known if row["ingested_by"] == maker_now and row["status"] != "missing"]
    if source is None:
        return max(0, files - len(read))
    from components.ingest.sources import list_sources

    places = {place: None if place != row["uri"] else row["stat"] for row in read for place in row["places"]}
    found = [entry for entry in list_sources(source, manifest, config.footage) if entry.status != "missing"]
    return sum(entry.uri not in places or places[entry.uri] not in (None, entry.stat) for entry in found)


def _new_or_stale(stage: str, project: Project, stale: dict[str, list[str]]) -> str:
    """Says how many clips were never done, and how many were by another maker or as something else."""
    column, left = NEW_WITHOUT[stage], max(stale.values(), key=len)
    new = len(set(left).intersection(tables.clips(project).keys(f"{column} IS NULL")))
    return ", ".join(filter(None, (_counted(new, "new clip"), _counted(len(left) - new, "stale clip"))))


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}" if count else ""


def _missing(stage: str, project: Project) -> str | None:
    if stage == "ingest" and not (tables.exists(project, "videos") and tables.exists(project, "clips")):
        return "its tables are gone"
    if stage == "evaluate" and not tables.exists(project, "samples"):
        return "its samples are gone"
    if (project.record(stage) or {}).get(TAKEN_DOWN):
        return "its pictures were taken down"
    if stage in TRAIN_STAGES and (folder := model_folder(stage, project)) is not None:
        if not weights_of(stage, project):
            return "its model is gone"
        try:
            verify_folder(folder)
        except DamagedFolderError as error:
            return f"its model is damaged: {str(error).partition('; ')[0]}"
    return None


def _trained(stage: str, config: Config, project: Project, record: dict[str, Any], rows: int, rows_now: str) -> tuple[bool, str]:
    if _same_rows(stage, project, record, rows_now):
        return True, "nothing changed"
    if removed_rows(project, stage, training_key(record["maker"], record["rows_digest"])):
        return False, f"rows that it read were taken down, {record['rows']} then and {rows} now"
    share = getattr(config, STAGES[stage].sections[0]).retrain_when_grown_by
    due = retrain_at(int(record["rows"]), share)
    if share == 0.0 or rows >= due or record["result"].get("weights") == "":
        new = _counted(max(0, rows - int(record["rows"])), "new clip") or "the rows it reads changed"
        return False, f"{new}, {record['rows']} then and {rows} now"
    return True, f"the model serves; a retrain is due at {due} rows, now {rows}"


def retrain_at(rows: int, share: float) -> int:
    """Answers the number of rows at which a training on `rows` of them is due again."""
    return int(rows * (1.0 + share)) + 1
