"""The promotion gate: pure functions from evidence to a verdict. What is missing, not finite or uncertain is refused.

Evidence is plain JSON. Every list of one block has one entry a sample (or clip), in the same order; `prompts` names the prompt of
each, because samples of one prompt succeed and fail together: every bound here comes from resampling prompts, not samples. Two
models are compared sample by sample, which needs the same `measured_by`: a digest of prompts, seeds, sampling settings and the
revisions of the measures.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import NormalDist
from typing import Any, Literal, NotRequired, TypedDict

import numpy as np

DEGRADATIONS = ("freeze", "shuffle", "blur")
FEWEST_PROMPTS = 4


class FollowingEvidence(TypedDict):
    """How one group of samples follows its prompts.

    Values are in [0, 1]: 1.0 where the reader sees what the prompt says, 0.0 where not or nothing.

    Attributes:
        prompts: the prompt of each sample.
        correct: by field (colour, shape, motion, camera; `caption` for footage without fields), a value a sample.
        shuffled: the same fields, each sample judged by the prompts of other samples (a mean over several shuffles is fine).
        chance: by field, what blind guessing reaches.
        ceiling: by field, what real clips reach through the VAE; None where there are none.
    """

    prompts: list[str]
    correct: dict[str, list[float]]
    shuffled: dict[str, list[float]]
    chance: dict[str, float]
    ceiling: dict[str, float | None]


class TemporalEvidence(TypedDict):
    """How samples hold together over time, all groups in one block.

    Attributes:
        prompts: the prompt of each sample; only prompts that ask for motion are listed.
        moving: 1.0 where the sample's motion is above the floor of real clips, else 0.0.
        repeated: share of frames of each sample that repeat the one before.
        consistency: 0 to 1, higher is steadier; None where the sample does not move, which counts as 0.
        ranked: by degradation (freeze, shuffle, blur), the share of degraded copies of moving samples that scored below their
            sample; None where no sample moved.
        real: the mean consistency of real held-out clips, beside the candidate's in every table; None without any.
    """

    prompts: list[str]
    moving: list[float]
    repeated: list[float]
    consistency: list[float | None]
    ranked: dict[str, float | None]
    real: float | None


class TextToVideoEvidence(TypedDict):
    """What `evaluate` says of a text-to-video model.

    Attributes:
        model: digest of its weights folder.
        measured_by: digest of everything that two models must share to be compared.
        following: by group: `seen`, `unseen`, or `held-out` for footage without a vocabulary.
        temporal: of all samples.
    """

    model: str
    measured_by: str
    following: dict[str, FollowingEvidence]
    temporal: TemporalEvidence


class CaptionerEvidence(TypedDict):
    """What held-out clips say of a captioner: by field, 1.0 where its caption is right; `clips` names clip (or video) of each."""

    model: str
    measured_by: str
    clips: list[str]
    correct: dict[str, list[float]]


class VaeEvidence(TypedDict):
    """What held-out clips say of a VAE.

    Attributes:
        psnr: dB a clip; pca_psnr: of the closed-form PCA of the same shape, when it was measured.
        ssim: a clip; None where a frame is smaller than its window.
        first_frame_bias: levels of 255 by which a first frame's mean colour is off, compared with later ones.
        correct: by field, 1.0 where the reader reads the reconstruction right; empty for footage without fields.
        checked: of a few clips what must hold of any, as `evaluate.vae_checks` finds it: lookahead, chunks, seam_psnr.
        latents: mean and standard deviation by channel over all clips; of normalised latents 0 and 1.
    """

    model: str
    measured_by: str
    clips: list[str]
    psnr: list[float]
    pca_psnr: NotRequired[list[float]]
    ssim: list[float | None]
    first_frame_bias: list[float]
    correct: dict[str, list[float]]
    checked: dict[str, list[float]]
    latents: dict[str, list[float]]


@dataclass(frozen=True)
class Check:
    """One rule: its figure, the bound that counts, what it must reach, and a sentence for people."""

    name: str
    value: float | None
    bound: float | None
    needs: float | None
    holds: bool
    sentence: str


@dataclass
class Verdict:
    """Promote only when every check holds; the reasons are the sentences of those that do not."""

    checks: list[Check] = field(default_factory=list)

    @property
    def outcome(self) -> Literal["promote", "reject"]:
        return "promote" if self.checks and all(check.holds for check in self.checks) else "reject"

    @property
    def reasons(self) -> list[str]:
        return [check.sentence for check in self.checks if not check.holds]

    def as_json(self) -> dict[str, Any]:
        return {"outcome": self.outcome, "reasons": self.reasons, "checks": [asdict(check) for check in self.checks]}


def decide_text_to_video(candidate: Mapping[str, Any], champion: Mapping[str, Any] | None, gate: Any) -> Verdict:
    """Judges a text-to-video model: follows its prompts, moves, holds together, and is as good as the champion.

    Args:
        candidate: TextToVideoEvidence. champion: the same of the model in service, or None.
        gate: the settings' `gate` section.
    """
    verdict = Verdict()
    if not _whole(verdict, lambda: _check_text_to_video(candidate)):
        return verdict
    ask = _Asker(verdict, gate)
    for group, block in sorted(candidate["following"].items()):
        prompts = block["prompts"]
        correct, shuffled = _mean_of(block["correct"]), _mean_of(block["shuffled"])
        chance = float(np.mean(list(block["chance"].values())))
        ask.above(f"following.{group}", correct, prompts, gate.min_following, f"samples of {group} prompts follow them")
        ask.above(
            f"above_shuffled.{group}",
            correct - shuffled,
            prompts,
            gate.min_above_shuffled,
            f"{group} samples fit their own prompts better than other samples' prompts",
        )
        ask.above(f"above_chance.{group}", correct - chance, prompts, 0.0, f"{group} samples beat guessing", strictly=True)
    temporal = candidate["temporal"]
    prompts = temporal["prompts"]
    ask.above("moving_share", _array(temporal["moving"]), prompts, gate.min_moving_share, "samples move")
    ask.below("repeated_share", _array(temporal["repeated"]), prompts, gate.max_repeat_share, "frames repeat the one before")
    ask.above("consistency", _conditional(temporal), prompts, gate.min_temporal, "moving samples hold together")
    for name in DEGRADATIONS:
        ranked = _array([temporal["ranked"][name] or 0.0])
        ask.share(f"ranked.{name}", ranked, gate.min_ranked_share, f"the measure puts a {name} copy below its sample")
    if champion is not None and _comparable(verdict, candidate, champion, lambda: _check_text_to_video(champion)):
        groups = sorted(candidate["following"])
        theirs = [_mean_of(champion["following"][group]["correct"]) for group in groups]
        ours = [_mean_of(candidate["following"][group]["correct"]) for group in groups]
        named = [f"{group}/{prompt}" for group in groups for prompt in candidate["following"][group]["prompts"]]
        ask.as_good("following", np.concatenate(ours), np.concatenate(theirs), named, gate.margin)
        ask.as_good("consistency", _conditional(temporal), _conditional(champion["temporal"]), prompts, gate.margin)
    return verdict


def decide_captioner(candidate: Mapping[str, Any], champion: Mapping[str, Any] | None, gate: Any) -> Verdict:
    """Judges a captioner by the fields of its captions of held-out clips: CaptionerEvidence."""
    verdict = Verdict()
    if not _whole(verdict, lambda: _check_clips(candidate, ())):
        return verdict
    ask = _Asker(verdict, gate)
    if not candidate["correct"]:
        _refuse(verdict, "fields", "no field of a held-out caption was judged")
    for name, values in sorted(candidate["correct"].items()):
        ask.share(f"field.{name}", _array(values), gate.min_caption_field, f"captions name the {name} right")
    if champion is not None and _comparable(verdict, candidate, champion, lambda: _check_clips(champion, ())):
        ask.as_good("captions", _mean_of(candidate["correct"]), _mean_of(champion["correct"]), candidate["clips"], gate.margin)
    return verdict


def decide_vae(candidate: Mapping[str, Any], champion: Mapping[str, Any] | None, gate: Any) -> Verdict:
    """Judges a VAE by its reconstructions of held-out clips, and by what must hold of any clip: VaeEvidence."""
    verdict = Verdict()
    if not _whole(verdict, lambda: _check_vae(candidate)):
        return verdict
    ask = _Asker(verdict, gate)
    psnr, clips = _array(candidate["psnr"]), candidate["clips"]
    checked, latents = candidate["checked"], candidate["latents"]
    ask.all_below("causality", checked["lookahead"], gate.max_vae_difference, "how far frames change when another future follows")
    ask.all_below("chunks", checked["chunks"], gate.max_vae_difference, "how far a clip in chunks is from the whole")
    ask.all_above("tile_seams", checked["seam_psnr"], gate.min_vae_seam_psnr, "dB of tiles against the whole")
    bias = _array(candidate["first_frame_bias"])
    ask.below("first_frame_bias", bias, clips, gate.max_vae_first_frame_bias, "levels by which first frames are off")
    ask.all_below("latents_mean", np.abs(latents["mean"]), gate.max_vae_latents_mean, "how far a latent channel's mean is from 0")
    ask.all_above("latents_std", latents["std"], gate.min_vae_latents_std, "the deviation of the flattest latent channel")
    ask.all_below("latents_std_most", latents["std"], 1.0 / gate.min_vae_latents_std, "the deviation of the widest latent channel")
    similar = [(value, clip) for value, clip in zip(candidate["ssim"], clips, strict=True) if value is not None]
    if similar:
        values, named = zip(*similar, strict=True)
        ask.above("ssim", _array(values), named, gate.min_vae_ssim, "the SSIM of reconstructions")
    ask.above("psnr", psnr, clips, gate.min_vae_psnr, "the PSNR of reconstructions in dB")
    if candidate.get("pca_psnr"):
        ask.above("above_pca", psnr - _array(candidate["pca_psnr"]), clips, 0.0, "dB above a PCA of the same shape", strictly=True)
    for name, values in sorted(candidate["correct"].items()):
        ask.share(f"reader.{name}", _array(values), gate.min_vae_reader, f"the reader reads the {name} of reconstructions")
    if champion is not None and _comparable(verdict, candidate, champion, lambda: _check_vae(champion)):
        theirs = _array(champion["psnr"])
        ask.as_good("psnr", psnr, theirs, clips, gate.margin * float(theirs.mean()))
        if candidate["correct"]:
            ask.as_good("reader", _mean_of(candidate["correct"]), _mean_of(champion["correct"]), clips, gate.margin)
    return verdict


def lower_bound(values: np.ndarray, prompts: Sequence[str], confidence: float, samples: int) -> float:
    """Answers a one-sided lower confidence bound of the mean, resampling prompts.

    The smaller of a percentile bootstrap over prompts, which knows skew, and a t bound, which knows that few prompts are few.
    The resampling is seeded: the same evidence has the same verdict.
    """
    names, index = np.unique(np.asarray(prompts, dtype=str), return_inverse=True)
    if len(names) < FEWEST_PROMPTS:
        return -math.inf
    sums = np.bincount(index, weights=values)
    counts = np.bincount(index).astype(float)
    drawn = np.random.default_rng(0).integers(0, len(names), size=(samples, len(names)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    percentile = float(np.quantile(means, 1.0 - confidence))
    mean = float(sums.sum() / counts.sum())
    residual = sums - mean * counts
    spread = math.sqrt(float((residual**2).sum()) * len(names) / (len(names) - 1)) / float(counts.sum())
    return min(percentile, mean - _t_quantile(confidence, len(names) - 1) * spread)


def _t_quantile(confidence: float, freedom: int) -> float:
    """Student's t by its expansion around the normal, within 2 % from three degrees of freedom on."""
    z = NormalDist().inv_cdf(confidence)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


class _Asker:
    """Adds checks to a verdict; a bound is one-sided at the gate's confidence."""

    def __init__(self, verdict: Verdict, gate: Any) -> None:
        self.verdict = verdict
        self.gate = gate

    def _lower(self, values: np.ndarray, prompts: Sequence[str]) -> float:
        return lower_bound(values, prompts, self.gate.confidence, self.gate.bootstrap_samples)

    def above(self, name: str, values: np.ndarray, prompts: Sequence[str], needs: float, what: str, strictly: bool = False) -> None:
        """The mean's lower bound must reach `needs`."""
        bound = self._lower(values, prompts)
        self._add(name, values, bound, needs, bound > needs if strictly else bound >= needs, what)

    def below(self, name: str, values: np.ndarray, prompts: Sequence[str], needs: float, what: str) -> None:
        """The mean's upper bound must not pass `needs`."""
        bound = -self._lower(-values, prompts)
        self._add(name, values, bound, needs, bound <= needs, what)

    def share(self, name: str, values: np.ndarray, needs: float, what: str) -> None:
        """The mean itself must reach `needs`."""
        self._add(name, values, None, needs, float(values.mean()) >= needs, what)

    def all_below(self, name: str, values: Sequence[float] | np.ndarray, needs: float, what: str) -> None:
        """The largest must not pass `needs`."""
        self._worst(name, float(max(values)), needs, float(max(values)) <= needs, what, "at most")

    def all_above(self, name: str, values: Sequence[float] | np.ndarray, needs: float, what: str) -> None:
        """The smallest must reach `needs`."""
        self._worst(name, float(min(values)), needs, float(min(values)) >= needs, what, "at least")

    def _worst(self, name: str, value: float, needs: float, holds: bool, what: str, how: str) -> None:
        self.verdict.checks.append(Check(name, value, None, needs, holds, f"{name}: {what}: {value:.3g} at worst, needs {how} {needs:.3g}"))

    def as_good(self, name: str, ours: np.ndarray, theirs: np.ndarray, prompts: Sequence[str], margin: float) -> None:
        """The paired difference to the champion must not fall below -margin, with confidence."""
        if ours.shape != theirs.shape:
            _refuse(self.verdict, f"champion.{name}", f"the champion's {name} was measured on other samples; hint: evaluate it again")
            return
        difference = ours - theirs
        bound, upper = self._lower(difference, prompts), -self._lower(-difference, prompts)
        worse = "it is worse than the champion" if upper < 0 else "it is not shown to be as good as the champion"
        mean = float(difference.mean())
        holds = bound >= -margin
        said = "it is as good as the champion" if holds else worse
        sentence = f"{name}: {said} (difference {mean:+.3f}, at least {bound:+.3f}, allowed {-margin:+.3f})"
        self.verdict.checks.append(Check(f"champion.{name}", mean, bound if math.isfinite(bound) else None, -margin, holds, sentence))

    def _add(self, name: str, values: np.ndarray, bound: float | None, needs: float, holds: bool, what: str) -> None:
        mean = float(values.mean())
        sure = "" if bound is None else f", {bound:.3f} for sure" if math.isfinite(bound) else ", too few prompts to be sure"
        bound = bound if bound is not None and math.isfinite(bound) else None
        sentence = f"{name}: {what}: {mean:.3f}{sure}, needs {needs:.3f}"
        self.verdict.checks.append(Check(name, mean, bound, needs, holds, sentence))


def _array(values: Sequence[float]) -> np.ndarray:
    return np.asarray(values, dtype=np.float64)


def _mean_of(fields: Mapping[str, Sequence[float]]) -> np.ndarray:
    return np.mean([_array(values) for _, values in sorted(fields.items())], axis=0)


def _conditional(temporal: Mapping[str, Any]) -> np.ndarray:
    """Consistency above the motion floor, 0 below it: standing still earns nothing."""
    pairs = zip(temporal["consistency"], temporal["moving"], strict=True)
    return _array([0.0 if not moving or value is None else value for value, moving in pairs])


def _comparable(verdict: Verdict, candidate: Mapping[str, Any], champion: Mapping[str, Any], check: Any) -> bool:
    if candidate["model"] == champion.get("model"):
        _refuse(verdict, "champion", "it is the champion already")
        return False
    if candidate["measured_by"] != champion.get("measured_by"):
        _refuse(verdict, "champion", "the champion was measured with other prompts or measures; hint: evaluate it again")
        return False
    return _whole(verdict, check, "champion's ")


def _refuse(verdict: Verdict, name: str, sentence: str) -> None:
    verdict.checks.append(Check(name, None, None, None, False, sentence))


def _whole(verdict: Verdict, check: Any, whose: str = "") -> bool:
    """Adds a refusal when evidence is missing, of uneven length or not finite."""
    try:
        check()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        said = f"`{error.args[0]}` is missing" if isinstance(error, KeyError) else str(error)
        _refuse(verdict, "evidence", f"the {whose}evidence cannot be used: {said}; hint: run `evaluate` again")
        return False
    return True


def _check_text_to_video(evidence: Mapping[str, Any]) -> None:
    _check_name(evidence)
    if not evidence["following"]:
        raise ValueError("no group of prompts was sampled")
    for group, block in evidence["following"].items():
        count = len(block["prompts"])
        if not block["correct"] or set(block["correct"]) != set(block["shuffled"]) or set(block["correct"]) != set(block["chance"]):
            raise ValueError(f"following.{group} does not have `correct`, `shuffled` and `chance` for the same fields")
        for kind in ("correct", "shuffled"):
            for name, values in block[kind].items():
                _check_values(f"following.{group}.{kind}.{name}", values, count, 0.0, 1.0)
        _check_values(f"following.{group}.chance", list(block["chance"].values()), len(block["chance"]), 0.0, 1.0)
    temporal = evidence["temporal"]
    count = len(temporal["prompts"])
    _check_values("temporal.moving", temporal["moving"], count, 0.0, 1.0)
    _check_values("temporal.repeated", temporal["repeated"], count, 0.0, 1.0)
    pairs = zip(temporal["consistency"], temporal["moving"], strict=True)
    _check_values("temporal.consistency", [0.0 if value is None and not moving else value for value, moving in pairs], count, 0.0, 1.0)
    for name in DEGRADATIONS:
        share = temporal["ranked"][name]
        _check_values(f"temporal.ranked.{name}", [0.0 if share is None else share], 1, 0.0, 1.0)


def _check_clips(evidence: Mapping[str, Any], extra: Sequence[str]) -> None:
    _check_name(evidence)
    count = len(evidence["clips"])
    for name, values in evidence["correct"].items():
        _check_values(f"correct.{name}", values, count, 0.0, 1.0)
    for name in extra:
        _check_values(name, evidence[name], count, -math.inf, math.inf)
    if evidence.get("pca_psnr"):
        _check_values("pca_psnr", evidence["pca_psnr"], count, -math.inf, math.inf)


def _check_vae(evidence: Mapping[str, Any]) -> None:
    _check_clips(evidence, ("psnr", "first_frame_bias"))
    count = len(evidence["clips"])
    _check_values("ssim", [0.0 if value is None else value for value in evidence["ssim"]], count, -1.0, 1.0)
    for name in ("lookahead", "chunks", "seam_psnr"):
        _check_values(f"checked.{name}", evidence["checked"][name], len(evidence["checked"][name]), 0.0, math.inf)
    for name in ("mean", "std"):
        _check_values(f"latents.{name}", evidence["latents"][name], len(evidence["latents"]["mean"]), -math.inf, math.inf)


def _check_name(evidence: Mapping[str, Any]) -> None:
    for name in ("model", "measured_by"):
        if not isinstance(evidence[name], str) or not evidence[name]:
            raise ValueError(f"`{name}` is empty")


def _check_values(name: str, values: Sequence[Any], count: int, low: float, high: float) -> None:
    if not count or len(values) != count:
        raise ValueError(f"`{name}` has {len(values)} values for {count} samples")
    for value in values:
        if not isinstance(value, int | float) or not math.isfinite(value) or not low <= value <= high:
            raise ValueError(f"`{name}` holds {value!r}, which is not a number of its range")
