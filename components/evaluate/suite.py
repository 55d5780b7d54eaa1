"""The evaluation of a text-to-video model: which prompts, what is measured of each sample, and what it adds up to.

Everything here takes plain arrays and callables; who generates the samples and where they are kept is not its business.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import TypedDict

import numpy as np

from components.evaluate.degradations import MUST_RANK, Map, Ranking, ranking
from components.evaluate.fidelity import Fields, Reader, fields_right
from components.evaluate.intervals import Share, share
from components.measure.consistency import Temporal, sharpness, temporal
from components.world.vocabulary import FIELDS, Preset, Triple, all_triples, caption_of, get_preset, held_out

TRIPLE = ("colour", "shape", "motion")
SHARPEST = 0.9  # quantile of the real clips' sharpness that counts as fully sharp
NO_READER = (
    "the prompts are captions of real clips, of which no truth by field is known; "
    "the gate asks instead whether a sample looks like the clips of its own caption rather than like others"
)


@dataclass(frozen=True)
class Prompt:
    """One sample to generate and judge; prompts of one text and another seed are draws of the same prompt."""

    prompt_id: str
    text: str
    group: str  # seen, unseen, or real for the captions of real clips
    seed: int
    truth: Mapping[str, str] | None


class Row(TypedDict):
    """What was measured of one sample. `read` and `right` are None where there is no reader or no truth."""

    prompt_id: str
    text: str
    group: str
    seed: int
    truth: dict[str, str] | None
    read: dict[str, str | None] | None
    right: dict[str, bool] | None
    temporal: Temporal


class Following(TypedDict):
    """How samples of one group follow their prompts, by field; the last keys are `triple` (colour, shape and motion) and `all`."""

    fields: dict[str, Share]
    chance: dict[str, float]  # of always answering the commonest label
    shuffled: dict[str, float]  # each sample judged by the other prompts of its group
    num_prompts: int
    num_samples: int


class Steadiness(TypedDict):
    """Temporal consistency of a set of clips; the score is that of the clips that move."""

    score: Share | None
    moving_share: Share
    means: dict[str, float]
    num_clips: int


class Evaluation(TypedDict):
    """The whole evaluation of one model, fit for JSON."""

    groups: dict[str, Following] | None
    following: Share | None  # mean over colour, shape, motion, background and camera, all samples
    above_shuffled: Share | None  # that minus the same under shuffled prompts
    following_note: str | None
    ceiling: dict[str, Share] | None  # what the reader reads off VAE reconstructions of real clips
    temporal: Steadiness
    real: Steadiness | None
    temporal_of_real: float | None  # score of the samples over that of the real clips, at most 1
    sharp_at: float
    ranking: dict[str, Ranking]
    real_ranking: dict[str, Ranking] | None


def make_prompts(preset: str | Preset, num_seen: int, num_unseen: int, seed: int) -> list[Prompt]:
    """Says scenes of the synthetic world: seen and unseen triples, each equally often, backgrounds and cameras by turns.

    Args:
        seed: of the choice, and of the first sample; the same seed gives the same prompts.
    """
    preset = get_preset(preset)
    unseen = held_out(preset)
    groups = {
        "seen": ([triple for triple in all_triples(preset) if triple not in unseen], num_seen),
        "unseen": (sorted(unseen), num_unseen),
    }
    found: list[Prompt] = []
    for group, (triples, count) in groups.items():
        for i, truth in enumerate(_scenes(preset, triples, count, random.Random(f"{group} {seed}"))):
            found.append(Prompt(f"{group}-{i:04d}", caption_of(truth), group, seed + len(found), truth))
    return found


def _scenes(preset: Preset, triples: Sequence[Triple], count: int, rng: random.Random) -> list[dict[str, str]]:
    """Draws fields for so many prompts: rounds of all triples, the last one cut so that every word is said equally often (+-1)."""
    settings = list(itertools.product(preset.backgrounds, preset.cameras))
    rng.shuffle(settings)
    order = rng.sample(list(triples), len(triples))
    found: list[dict[str, str]] = []
    said: Counter[str] = Counter()
    while len(found) < count:
        left = dict(enumerate(order))
        for _ in range(min(len(left), count - len(found))):
            i = min(left, key=lambda i: sum(said[word] for word in left[i]))
            turn = len(found) // len(order)
            found.append(dict(zip(FIELDS, (*left[i], *settings[(i + turn) % len(settings)]), strict=True)))
            said.update(left.pop(i))
    return found


def caption_prompts(captions: Sequence[str], count: int, seed: int) -> list[Prompt]:
    """Takes captions of held-out real clips as prompts, by turns where there are fewer than wanted; nothing is known of them by field."""
    texts = sorted({caption.strip() for caption in captions if caption.strip()})
    random.Random(f"real {seed}").shuffle(texts)
    return [Prompt(f"real-{i:04d}", texts[i % len(texts)], "real", seed + i, None) for i in range(count)] if texts else []


def sharp_reference(real: Sequence[np.ndarray]) -> float:
    """Answers the sharpness that counts in full: what the sharpest tenth of the real clips reach; 1 without any."""
    return max(1e-3, float(np.quantile([sharpness(clip) for clip in real], SHARPEST))) if len(real) else 1.0


def score_samples(
    samples: Sequence[np.ndarray],
    prompts: Sequence[Prompt],
    reader: Reader | None,
    *,
    fps: Fraction | float,
    min_motion: float,
    sharp_at: float,
    pool_map: Map = map,
    progress: Callable[[int, int, str], None] | None = None,
) -> list[Row]:
    """Measures every sample: what the reader reads off it beside what the prompt asked for, and its temporal consistency.

    Args:
        samples: uint8 (T, H, W, 3) each, in the order of prompts.
        reader: a module-level function (or a partial of one) where `pool_map` is a process pool's.
    """
    if len(samples) != len(prompts):
        raise ValueError(f"{len(samples)} samples for {len(prompts)} prompts; each prompt has one")
    wanted = [reader if prompt.truth else None for prompt in prompts]
    measure = partial(_measure, fps=fps, min_motion=min_motion, sharp_at=sharp_at)
    rows = []
    for prompt, (read, found) in zip(prompts, pool_map(measure, list(samples), wanted), strict=True):
        right = fields_right(read, prompt.truth) if read is not None and prompt.truth else None
        if right and all(field in right for field in TRIPLE):
            right["triple"] = all(right[field] for field in TRIPLE)
        rows.append(
            Row(
                prompt_id=prompt.prompt_id,
                text=prompt.text,
                group=prompt.group,
                seed=prompt.seed,
                truth=dict(prompt.truth) if prompt.truth else None,
                read=read,
                right=right,
                temporal=found,
            )
        )
        if progress:
            progress(len(rows), len(prompts), "samples scored")
    return rows


def _measure(
    frames: np.ndarray, reader: Reader | None, *, fps: Fraction | float, min_motion: float, sharp_at: float
) -> tuple[dict[str, str | None] | None, Temporal]:
    return (dict(reader(frames)) if reader else None), temporal(frames, fps, min_motion, sharp_at)


def score_clips(
    clips: Sequence[np.ndarray], *, fps: Fraction | float, min_motion: float, sharp_at: float, pool_map: Map = map
) -> list[Temporal]:
    """Measures the temporal consistency of real clips, in the same way as that of samples."""
    return list(pool_map(partial(temporal, fps=fps, min_motion=min_motion, sharp_at=sharp_at), list(clips)))


def rank_degradations(
    clips: Sequence[np.ndarray],
    *,
    fps: Fraction | float,
    min_motion: float,
    sharp_at: float,
    count: int,
    names: Sequence[str] = MUST_RANK,
    pool_map: Map = map,
) -> dict[str, Ranking]:
    """Spoils so many clips, evenly picked from all, and counts how often the score notices."""
    picked = [clips[i] for i in np.unique(np.linspace(0, len(clips) - 1, min(count, len(clips))).astype(int))] if len(clips) else []
    return ranking(picked, fps, min_motion, sharp_at, names, pool_map)


def aggregate(
    rows: Sequence[Row],
    *,
    real: Sequence[Temporal] = (),
    ceiling: dict[str, Share] | None = None,
    sharp_at: float,
    ranking: dict[str, Ranking],
    real_ranking: dict[str, Ranking] | None = None,
    bootstrap_samples: int,
    seed: int,
) -> Evaluation:
    """Adds the rows up, every interval by a bootstrap over prompts."""
    if not rows:
        raise ValueError("there is no sample to evaluate; hint: raise `evaluate.num_seen_prompts`")
    judged = [row for row in rows if row["right"] is not None]
    groups = {
        name: following([row for row in judged if row["group"] == name], bootstrap_samples, seed)
        for name in dict.fromkeys(row["group"] for row in judged)
    }
    prompts = [row["text"] for row in judged]
    hits = [_mean_right(row) for row in judged]
    excess = [hit - other for hit, other in zip(hits, _mean_shuffled(judged), strict=True)]
    samples = steadiness([row["temporal"] for row in rows], [row["text"] for row in rows], bootstrap_samples, seed)
    reals = steadiness(real, None, bootstrap_samples, seed) if real else None
    return Evaluation(
        groups=groups or None,
        following=share(hits, prompts, bootstrap_samples, seed) if judged else None,
        above_shuffled=share(excess, prompts, bootstrap_samples, seed) if judged else None,
        following_note=None if judged else NO_READER,
        ceiling=ceiling,
        temporal=samples,
        real=reals,
        temporal_of_real=_over(samples["score"], reals["score"] if reals else None),
        sharp_at=sharp_at,
        ranking=ranking,
        real_ranking=real_ranking,
    )


def following(rows: Sequence[Row], bootstrap_samples: int, seed: int) -> Following:
    """Adds up how samples of one group follow their prompts."""
    prompts = [row["text"] for row in rows]
    right = [row["right"] or {} for row in rows]
    fields = [field for field in (*FIELDS, "triple", "all") if field in right[0]]
    return Following(
        fields={field: share([row[field] for row in right], prompts, bootstrap_samples, seed) for field in fields},
        chance={field: chance(rows, field) for field in fields},
        shuffled={field: float(np.mean(fits_of_others(rows, field))) for field in fields},
        num_prompts=len(set(prompts)),
        num_samples=len(rows),
    )


def steadiness(found: Sequence[Temporal], prompts: Sequence[str] | None, bootstrap_samples: int, seed: int) -> Steadiness:
    """Adds up the temporal consistency of clips: the score of those that move, and how many do."""
    moving = [i for i, clip in enumerate(found) if clip["score"] is not None]
    names = prompts or [str(i) for i in range(len(found))]
    columns: dict[str, list[float]] = {}
    for clip in found:
        for key, value in clip.items():
            if isinstance(value, float) and key != "score":
                columns.setdefault(key, []).append(value)
    return Steadiness(
        score=share([found[i]["score"] or 0.0 for i in moving], [names[i] for i in moving], bootstrap_samples, seed) if moving else None,
        moving_share=share([clip["score"] is not None for clip in found], names, bootstrap_samples, seed),
        means={key: float(np.mean(values)) for key, values in columns.items()},
        num_clips=len(found),
    )


def chance(rows: Sequence[Row], field: str) -> float:
    """How often the commonest label of a field would be right."""
    return max(Counter(_labels(row["truth"] or {}, field) for row in rows).values()) / len(rows)


def _mean_right(row: Row) -> float:
    return float(np.mean([value for field, value in (row["right"] or {}).items() if field in FIELDS]))


def _mean_shuffled(rows: Sequence[Row]) -> list[float]:
    """For each row the mean over fields of how often its reading fits the other prompts of its group."""
    hits = [0.0] * len(rows)
    for group in dict.fromkeys(row["group"] for row in rows):
        members = [i for i, row in enumerate(rows) if row["group"] == group]
        inside = [rows[i] for i in members]
        fields = [field for field in FIELDS if field in (inside[0]["right"] or {})]
        by_field = np.array([fits_of_others(inside, field) for field in fields])  # (fields, members)
        for i, hit in zip(members, by_field.mean(0), strict=True):
            hits[i] = float(hit)
    return hits


def fits_of_others(rows: Sequence[Row], field: str) -> list[float]:
    """For each row the share of the other prompts (by text) of these rows that its reading would be right for."""
    asked = Counter(_labels(row["truth"] or {}, field) for row in rows)
    own = Counter(row["text"] for row in rows)
    hits = []
    for row in rows:
        label, read = _labels(row["truth"] or {}, field), _labels(row["read"] or {}, field)
        others = len(rows) - own[row["text"]]
        fitting = asked[read] - (own[row["text"]] if read == label else 0)
        hits.append(fitting / others if others else 0.0)
    return hits


def _labels(fields: Fields, field: str) -> tuple[str | None, ...]:
    names = {"triple": TRIPLE, "all": FIELDS}.get(field, (field,))
    return tuple(fields.get(name) for name in names)


def _over(score: Share | None, real: Share | None) -> float | None:
    if score is None or real is None:
        return None
    return min(1.0, score["value"] / max(real["value"], 1e-6))
