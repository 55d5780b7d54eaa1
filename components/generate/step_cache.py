"""Which step cache a request samples with, and the calibration of one for a model: as fast as a stated likeness of its samples allows."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from components.measure.distortion import MAX_PSNR, psnr
from components.models.step_cache import Recording, StepCache, fit_gain

if TYPE_CHECKING:
    from components.generate.generator import Generator
    from components.generate.sampling import Progress

CALIBRATED = "calibrated"
SETTINGS = ("sampler", "num_inference_steps", "guidance_scale", "guidance_interval", "guidance_rescale", "timestep_shift")

Maker = Callable[[int], StepCache]  # of the cache of one walk, for so many samples
Cache = TypeVar("Cache", bound=StepCache)
FIRST_THRESHOLD, GROWTH, MOST_TRIES = 0.02, 1.5, 12


def step_cache_of(setting: float | str | Maker | None, notes: dict[str, Any], samples: int) -> StepCache | None:
    """Answers the cache of one walk, as the setting `generate.step_cache` asks for it.

    Args:
        setting: None for none; a threshold; `calibrated` for the one of the model's notes; or what makes one.
        notes: of the model, whose calibration says how the blocks' answer moves with what enters them.
        samples: of a batch.

    Raises:
        ValueError: the model is not calibrated.
    """
    if setting is None:
        return None
    if callable(setting):
        return setting(samples)
    if setting == CALIBRATED:
        calibrated = _calibration(notes)
        return StepCache(calibrated["threshold"], samples, calibrated["gain"])
    found = notes.get("step_cache")
    return StepCache(float(setting), samples, found["gain"] if found else ())


def uncalibrated(settings: dict[str, Any], notes: dict[str, Any]) -> list[str]:
    """Answers a sentence where the calibrated cache is asked for under other settings than it was calibrated with.

    Args:
        settings: of the section `generate`, all of them.
        notes: of the model.

    Raises:
        ValueError: the model is not calibrated.
    """
    if settings["step_cache"] != CALIBRATED:
        return []
    found = _calibration(notes)
    other = [name for name in SETTINGS if name in found and _plain(found[name]) != _plain(settings[name])]
    if not other:
        return []
    differing = ", ".join(f"`{name}` {_plain(found[name])} and not {_plain(settings[name])}" for name in other)
    options = " ".join(f"--set generate.{name}={str(_plain(settings[name])).replace(' ', '')}" for name in other)
    return [f"the step cache was calibrated with {differing}, so how like its samples are is not known; hint: `kinora calibrate {options}`"]


def _calibration(notes: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] | None = notes.get("step_cache")
    if found is None:
        raise ValueError(
            "`generate.step_cache` is `calibrated`, which this model is not; "
            "hint: `kinora calibrate` writes one that is, or give a threshold, for example 0.1"
        )
    return found


def _plain(value: Any) -> Any:
    """Answers a setting as JSON keeps it."""
    return list(value) if isinstance(value, tuple) else value


@dataclass(frozen=True)
class Calibration:
    """What the notes of a model keep.

    Attributes:
        gain, threshold: of `StepCache`; at threshold 0 no larger one was like enough.
        psnr: of the least like of the cached samples to the uncached one, dB; 100 when they are the same.
        min_psnr: what was asked for.
        blocks_ran: the share of passes through the blocks that were left.
        speed_up: of the whole generation, decoding included.
        device: on which that was measured: the name of a GPU, or how many threads a CPU had.
    """

    gain: list[float]
    threshold: float
    psnr: float
    min_psnr: float
    blocks_ran: float
    speed_up: float
    device: str
    samples: int
    sampler: str
    num_inference_steps: int
    guidance_scale: float
    guidance_interval: tuple[float, float]
    guidance_rescale: float
    timestep_shift: float


def check_min_psnr(min_psnr: float) -> None:
    """Looks whether a likeness can be asked for.

    Raises:
        ValueError: it is no finite number above 0.
    """
    if not 0 < min_psnr < math.inf:
        raise ValueError(f"`--min-psnr` is a finite number of dB above 0, not {min_psnr}; hint: 40 hardly shows, 30 does")


def calibrate(
    generator: "Generator", prompts: Sequence[str], min_psnr: float, seed: int, progress: "Progress", **sampling: Any
) -> Calibration:
    """Finds the largest threshold whose samples are all at least so much like uncached ones, and measures what it saves.

    Args:
        prompts: a few.
        progress: told tries done, tries in all at most, and "tries".
        sampling: settings of the section `generate`, by name, that the cache is to be used with.

    Raises:
        ValueError: a likeness that is none, or a step cache among the settings.
    """
    check_min_psnr(min_psnr)
    if sampling.pop("step_cache", None) is not None:
        raise ValueError("`generate.step_cache` is what a calibration finds; hint: leave it out")
    settings = generator.settings(**sampling)
    prompts = generator.told_all(prompts)
    seeds = [seed + place for place in range(len(prompts))]

    def sampled(cache: Callable[[int], Cache]) -> tuple[list[np.ndarray], float, list[Cache]]:
        caches: list[Cache] = []

        def of_walk(samples: int) -> StepCache:
            caches.append(cache(samples))
            return caches[-1]

        began = time.perf_counter()
        samples = generator.generate(prompts, seeds, rewrite=False, step_cache=of_walk, **sampling)
        return [sample.frames for sample in samples], time.perf_counter() - began, caches

    recordings = sampled(partial(Recording, 0.0))[2]
    gain = fit_gain([seen for recording in recordings for seen in recording.seen])
    plain, seconds, _ = sampled(partial(StepCache, 0.0))  # once more, warm
    said = {name: settings[name] for name in SETTINGS}
    device = device_name(generator.device)
    best = Calibration(gain, 0.0, MAX_PSNR, min_psnr, 1.0, 1.0, device, len(prompts), **said)
    threshold = FIRST_THRESHOLD
    for tries in range(MOST_TRIES):
        progress(tries, MOST_TRIES, "tries")
        cached, lap, caches = sampled(partial(StepCache, threshold, gain=gain))
        likeness = min(psnr(one, other) for one, other in zip(plain, cached, strict=True))
        if likeness < min_psnr:
            break
        ran = sum(cache.ran for cache in caches) / sum(cache.asked for cache in caches)
        found = (round(threshold, 6), round(likeness, 2), min_psnr, round(ran, 4), round(seconds / lap, 3))
        best = Calibration(gain, *found, device, len(prompts), **said)
        threshold *= GROWTH
    return best


def device_name(device: str) -> str:
    """Answers what a speed was measured on: a GPU by its name, a CPU by its threads."""
    import torch

    return torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else f"{torch.get_num_threads()} CPU threads"
