"""Which step cache a request samples with, and the calibration of one for a model: as fast as a stated likeness of its samples allows."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from components.measure.distortion import MAX_PSNR, psnr
from components.models.step_cache import Recording, StepCache, fit_gain

if TYPE_CHECKING:
    from components.generate.generator import Generator
    from components.generate.sampling import Progress

CALIBRATED = "calibrated"
FIRST_THRESHOLD, GROWTH, MOST_TRIES = 0.02, 1.5, 12


def step_cache_of(setting: "float | str | StepCache | None", notes: dict[str, Any], samples: int) -> StepCache | None:
    """Answers the cache of one walk, as the setting `generate.step_cache` asks for it.

    Args:
        setting: None for none; a threshold; `calibrated` for the one of the model's notes.
        notes: of the model, whose calibration says how the blocks' answer moves with what enters them.
        samples: of a batch.

    Raises:
        ValueError: the model is not calibrated.
    """
    if setting is None or isinstance(setting, StepCache):
        return setting
    found = notes.get("step_cache")
    if setting != CALIBRATED:
        return StepCache(float(setting), samples, found["gain"] if found else ())
    if found is None:
        raise ValueError(
            "`generate.step_cache` is `calibrated`, which this model is not; "
            "hint: `kinora calibrate` writes one that is, or give a threshold, for example 0.1"
        )
    return StepCache(found["threshold"], samples, found["gain"])


@dataclass(frozen=True)
class Calibration:
    """What the notes of a model keep.

    Attributes:
        gain, threshold: of `StepCache`; at threshold 0 no larger one was like enough.
        psnr: of the least like of the cached samples to the uncached one, dB; 100 when they are the same.
        min_psnr: what was asked for.
        blocks_ran: the share of passes through the blocks that were left.
        speed_up: of the whole generation, decoding included, on the machine that calibrated.
    """

    gain: list[float]
    threshold: float
    psnr: float
    min_psnr: float
    blocks_ran: float
    speed_up: float
    samples: int
    sampler: str
    num_inference_steps: int


def calibrate(generator: "Generator", prompts: Sequence[str], min_psnr: float, seed: int, progress: "Progress") -> Calibration:
    """Finds the largest threshold whose samples are all at least so much like uncached ones, and measures what it saves.

    Args:
        prompts: a few.
        progress: told tries done, tries in all at most, and "tries".
    """
    settings = generator.settings()
    prompts = [generator.told(prompt) for prompt in prompts]
    seeds = [seed + place for place in range(len(prompts))]
    recording = Recording(0.0, len(prompts))
    plain, _ = _sampled(generator, prompts, seeds, recording)
    gain = fit_gain(recording.seen)
    plain, seconds = _sampled(generator, prompts, seeds, StepCache(0.0, len(prompts)))  # once more, warm
    best = Calibration(gain, 0.0, MAX_PSNR, min_psnr, 1.0, 1.0, len(prompts), settings["sampler"], settings["num_inference_steps"])
    threshold = FIRST_THRESHOLD
    for tries in range(MOST_TRIES):
        progress(tries, MOST_TRIES, "tries")
        cache = StepCache(threshold, len(prompts), gain)
        cached, lap = _sampled(generator, prompts, seeds, cache)
        likeness = min(psnr(one, other) for one, other in zip(plain, cached, strict=True))
        if likeness < min_psnr:
            break
        best = Calibration(
            gain,
            round(threshold, 6),
            round(likeness, 2),
            min_psnr,
            round(cache.ran / cache.asked, 4),
            round(seconds / lap, 3),
            len(prompts),
            settings["sampler"],
            settings["num_inference_steps"],
        )
        threshold *= GROWTH
    return best


def _sampled(generator: "Generator", prompts: Sequence[str], seeds: Sequence[int], cache: StepCache) -> tuple[list[np.ndarray], float]:
    began = time.perf_counter()
    samples = generator.generate(prompts, seeds, rewrite=False, step_cache=cache)
    return [sample.frames for sample in samples], time.perf_counter() - began
