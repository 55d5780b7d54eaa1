"""The stages of the pipeline: what each reads and writes, which settings shape it, and its revision.

`revision` is a whole number, bumped when a stage's output changes for the same input and settings.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Stage:
    """One stage: `reads` and `writes` are columns of `table`, `sections` the settings its output depends on.

    Attributes:
        partly: settings that a part of its output depends on, whose `_by` column covers them.
    """

    name: str
    title: str
    table: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    sections: tuple[str, ...]
    upstream: tuple[str, ...]
    revision: int
    partly: tuple[str, ...] = ()


STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage(
            "ingest",
            "scenes and clips from footage",
            "videos",
            (),
            ("status", "reason", "ingested_by"),
            ("footage", "scenes", "clip"),
            (),
            1,
        ),
        Stage(
            "curate",
            "measures, duplicates, splits and rules",
            "clips",
            ("video",),
            ("keep", "drop_reason", "duplicate_of", "split", "quarantine", "curated_by"),
            ("curate",),
            ("ingest",),
            1,
        ),
        Stage(
            "train_captioner",
            "the OpenCLIP CoCa captioner",
            "clips",
            ("video", "label_caption", "split", "keep"),
            (),
            ("captioner", "clip"),
            ("curate",),
            2,
        ),
        Stage(
            "caption",
            "captions of the kept clips",
            "clips",
            ("video", "label_caption"),
            ("caption", "caption_score", "caption_by"),
            (),
            ("curate", "train_captioner"),
            1,
        ),
        Stage("train_vae", "the causal video VAE", "clips", ("video", "split", "keep"), ("quarantine",), ("vae", "clip"), ("curate",), 2),
        Stage(
            "encode",
            "latents and text embeddings",
            "clips",
            ("video", "caption"),
            ("latents", "latents_shape", "latents_by", "text_embeds", "text_shape", "text_embeds_by"),
            (),
            ("train_vae", "train_captioner", "caption"),
            1,
            partly=("text_encoder",),
        ),
        Stage(
            "train_dit",
            "the diffusion transformer",
            "clips",
            ("latents", "text_embeds", "split", "keep"),
            (),
            ("dit",),
            ("encode",),
            2,
        ),
        Stage(
            "evaluate",
            "samples, temporal consistency and following",
            "samples",
            ("video", "truth", "caption", "split"),
            ("video", "scores"),
            ("evaluate", "generate"),
            ("train_dit",),
            2,
        ),
        Stage("promote", "the gate and the registry", "samples", ("scores",), (), ("gate",), ("evaluate",), 1),
    )
}
TRAIN_STAGES = ("train_captioner", "train_vae", "train_dit")
OF_SEVERAL_SHAPES = ("max_shapes", "frames_multiple", "side_multiple")
HOW_OFTEN = ("report_every", "sample_every", "validate_every", "checkpoint_every", "retrain_when_grown_by")
HOW_IT_FITS = ("recompute_activations", "compile", "context_parallel")
OF_THE_WAY: dict[str, tuple[str, ...]] = dict.fromkeys(("captioner", "vae", "dit"), (*HOW_OFTEN, *HOW_IT_FITS))  # to what is learned


def digest(value: Any) -> str:
    """Answers the sha256 of a JSON value, keys sorted."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":"), default=str).encode()).hexdigest()


def maker(stage: str, settings: Mapping[str, Any], upstream: Iterable[str] = (), weights: str = "") -> str:
    """Answers who makes a stage's output: a digest of settings, revision, weights and the upstream makers.

    Args:
        settings: the resolved settings of the whole run; only the stage's sections count.
        upstream: makers of what the stage reads.
        weights: digest of the weights that the stage applies, if any.
    """
    spec = STAGES[stage]
    sections = {name: shaping(name, settings[name]) for name in spec.sections}
    return digest({"stage": stage, "revision": spec.revision, "settings": sections, "upstream": sorted(upstream), "weights": weights})


def shaping(section: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Answers the settings of a section that shape an output.

    Those of several shapes of clips do nothing where there is one, so what was made before there were such settings is fresh still.
    What says how often a training reports or how it fits into memory changes nothing of what is learned: with others it goes on, or
    stays finished.
    """
    left_out = OF_THE_WAY.get(section, ())
    if section == "clip" and values.get("max_shapes") in (None, 1):
        left_out = OF_SEVERAL_SHAPES
    return {name: value for name, value in values.items() if name not in left_out}
