"""Latents and text embeddings of the kept clips, cached in the table for the diffusion transformer."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.encode.latents import EncodeLatents
from components.encode.text import EncodeText
from components.jobs.actors import one_thread
from components.jobs.rows import Rows, fixed_batches, map_rows, with_videos
from components.jobs.run import Run
from components.operations.finetune import base_model
from components.operations.freshness import (
    Freshness,
    latents_maker,
    serving_folder,
    stale_rows,
    text_encoder_folder,
    text_encoder_place,
    text_maker,
)
from components.store import mirror, tables
from components.store.filters import KEPT

logger = logging.getLogger("kinora")

CAPTIONS_PER_BATCH = 64


class LatentRows:
    """`EncodeLatents` on one thread, for Ray's actors."""

    def __init__(self, folder: str, device: str) -> None:
        one_thread()
        self.stage = EncodeLatents(folder, device)

    def __call__(self, rows: Rows) -> Rows:
        return self.stage(rows)


class TextRows:
    """`EncodeText` on one thread, for Ray's actors; answers beside each row `cut_at`, at how many tokens its caption is cut, or None."""

    def __init__(self, folder: str, device: str) -> None:
        one_thread()
        self.stage = EncodeText(folder, device)

    def __call__(self, rows: Rows) -> Rows:
        return [{**found, "cut_at": self.stage.cut_at(row["caption"])} for row, found in zip(rows, self.stage(rows), strict=True)]


def encode(run: Run, freshness: Freshness) -> dict[str, Any]:
    """Encodes what is missing or was encoded by another VAE or text encoder."""
    stale = stale_rows("encode", run.config, run.project) if _take_text_encoder(run) else freshness.stale
    latents = _encode_latents(run, stale["latents"])
    texts = _encode_texts(run, stale["text_embeds"])
    return {"summary": f"{latents} clips and {texts} captions encoded", "amount": f"{latents} clips"}


def _take_text_encoder(run: Run) -> bool:
    """Takes the pretrained text encoder that the settings name, once, and answers whether it did: who makes embeddings is known then."""
    settings = run.config.text_encoder
    if settings.pretrained is None or text_encoder_folder(run.config, run.project) is not None:
        return False
    from components.encode.pretrained_text import save_pretrained_text, take

    run.progress(0, 1, f"taking the text encoder `{settings.pretrained}`")
    local = Path(settings.pretrained).is_dir()
    origin = {"origin": {"name": Path(settings.pretrained).name if local else settings.pretrained}}
    text = take(settings.pretrained, settings.max_tokens, settings.dtype)
    save_pretrained_text(text_encoder_place(settings.model_dump(mode="json"), run.project), text, origin)
    mirror.push(run.project)  # actors on other machines read it
    return True


def _encode_latents(run: Run, stale: list[str]) -> int:
    clips, settings = tables.clips(run.project), run.config.encode
    maker, wanted = latents_maker(run.config, run.project), set(stale)
    batches: list[list[str]] = []
    shapes = clips.read(["clip_id", "num_frames", "height", "width"], KEPT)
    for shape in sorted({(row["num_frames"], row["height"], row["width"]) for row in shapes}):
        keys = [row["clip_id"] for row in shapes if (row["num_frames"], row["height"], row["width"]) == shape]
        batches += fixed_batches(keys, wanted, settings.batch_size)

    def write(rows: Rows) -> None:
        clips.update([{**row, "latents_by": maker} for row in rows if row["clip_id"] in wanted])

    if batches:
        map_rows(
            run,
            LatentRows,
            (str(serving_folder("train_vae", run.config, run.project)), settings.device),
            with_videos(clips, (), batches),
            write,
            actors=settings,
            on_gpu=True,
            total=sum(map(len, batches)),
            note="clips encoded",
        )
    return len(stale)


def _encode_texts(run: Run, stale: list[str]) -> int:
    """Encodes each caption once and writes it to every clip that has it."""
    clips, settings = tables.clips(run.project), run.config.encode
    by_text, wanted = text_maker(run.config, run.project), set(stale)
    if not wanted:
        return 0
    rows = clips.read(["clip_id", "caption", "caption_by"], f"{KEPT} AND caption IS NOT NULL")
    by_caption: dict[str, Rows] = {}
    for row in rows:
        by_caption.setdefault(row["caption"], []).append(row)
    cut_at: list[int | None] = []  # of each caption
    stale_captions = {row["caption"] for row in rows if row["clip_id"] in wanted}

    def batches() -> Iterator[Rows]:
        for batch in fixed_batches(sorted(by_caption), stale_captions, CAPTIONS_PER_BATCH):
            yield [{"clip_id": caption, "caption": caption} for caption in batch]

    def write(encoded: Rows) -> None:
        cut_at.extend(found.pop("cut_at") for found in encoded)
        clips.update(
            [
                {**found, "clip_id": row["clip_id"], "text_embeds_by": by_text(row["caption_by"] or "")}
                for found in encoded
                for row in by_caption[found["clip_id"]]
                if row["clip_id"] in wanted
            ]
        )

    map_rows(
        run,
        TextRows,
        (str(text_encoder_folder(run.config, run.project)), settings.device),
        batches(),
        write,
        actors=settings.model_copy(update={"num_actors": min(1, settings.num_actors)}),
        on_gpu=True,
        total=len(by_caption),
        note="captions encoded",
    )
    _say_cut(run, cut_at)
    return len(stale_captions)


def _say_cut(run: Run, cut_at: list[int | None]) -> None:
    """Logs how many captions are longer than the text encoder reads."""
    cut = [tokens for tokens in cut_at if tokens is not None]
    if not cut:
        return
    if base_model(run.config, run.project) is not None:
        hint = ""  # a model that is trained further keeps its text encoder
    elif run.config.text_encoder.pretrained is None:
        hint = "; hint: `text_encoder.pretrained` names one that reads more"
    else:
        hint = "; hint: `text_encoder.max_tokens` makes it more"
    logger.warning(
        "%d of %d captions are longer than the text encoder reads, and are cut at %d tokens%s", len(cut), len(cut_at), cut[0], hint
    )
