"""Tries a champion as a user would: loads it from the registry, generates a few videos, and takes it back where they are no videos."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from components.generate.generator import Generator, MismatchedModelError
from components.jobs.run import Run
from components.jobs.samples import evenly
from components.measure.quality import quality
from components.models.weights import DamagedFolderError
from components.registry import gates, models
from components.report.sheets import sample_sheet
from components.sections import Config
from components.store import tables
from components.store.filters import KEPT

if TYPE_CHECKING:
    from torch import nn

KIND: models.Kind = "text-to-video"
NUM_VIDEOS = 4
MOST_FAULTY = 0.5  # share of the videos; one that shows nothing may be an odd prompt
DEFAULT_PROMPT = "something moves from left to right"


class ChampionRefusedError(ValueError):
    """The champion makes no videos; the message says why, and who is champion now."""


@dataclass(frozen=True)
class Checked:
    """What became of a check: the version that serves, one line about it, and a picture of what it made."""

    version: int | None
    said: str
    sheet: Path | None


def check_champion(run: Run) -> Checked:
    """Generates a few videos with the project's champion; the previous champion serves again where it fails.

    Raises:
        ChampionRefusedError: the champion failed.
    """
    champion = models.find(run.project, KIND, models.CHAMPION)
    if champion is None:
        return Checked(None, f"project `{run.project.name}` has no champion yet, so there is nothing to check", None)
    sheet = run.project.sheet("champion.png")
    fault = _fault_of(run, champion, sheet)
    if fault is None:
        return Checked(champion.number, f"version {champion.number} of `{champion.name}` makes videos", sheet)
    raise ChampionRefusedError(_take_back(run, champion, fault))


def frames_fault(frames: np.ndarray, config: Config) -> str | None:
    """Answers why frames, uint8 (T, H, W, 3), are no video worth showing, or None."""
    found = quality(frames)
    if found.contrast < config.curate.min_contrast or not config.curate.min_luma <= found.luma <= config.curate.max_luma:
        return "blank"
    if found.repeat_share is not None and found.repeat_share > config.gate.max_repeat_share:
        return "frozen"
    return None


def _fault_of(run: Run, champion: models.Version, sheet: Path) -> str | None:
    try:
        generator = Generator.load(models.download(run.project, champion), run.config.encode.device)
    except (DamagedFolderError, MismatchedModelError, FileNotFoundError) as error:
        return f"it does not load: {error}"
    if not (_finite(generator.model) and _finite(generator.vae)):
        return "its weights are not all finite numbers"
    prompts = _prompts(run)
    videos = [sample.frames for sample in generator.generate(prompts, range(len(prompts)))]
    sheet.parent.mkdir(parents=True, exist_ok=True)
    sample_sheet(sheet, videos)
    faults = [fault for frames in videos if (fault := frames_fault(frames, run.config)) is not None]
    if len(faults) <= MOST_FAULTY * len(videos):
        return None
    return f"{len(faults)} of {len(videos)} videos are {' or '.join(sorted(set(faults)))}"


def _finite(network: "nn.Module") -> bool:
    return all(bool(torch.isfinite(value).all()) for value in network.state_dict().values() if value.is_floating_point())


def _prompts(run: Run) -> Sequence[str]:
    """Answers captions of the project's own clips as prompts, as many as videos are to be made."""
    found: list[str] = []
    if tables.exists(run.project, "clips"):
        rows = tables.clips(run.project).read(["caption"], f"{KEPT} AND caption IS NOT NULL")
        found = list(evenly(sorted({row["caption"] for row in rows if row["caption"].strip()}), NUM_VIDEOS))
    found = found or [DEFAULT_PROMPT]
    return [found[number % len(found)] for number in range(NUM_VIDEOS)]


def _take_back(run: Run, champion: models.Version, fault: str) -> str:
    """Makes the previous champion champion again and answers the sentence about it."""
    named = f"version {champion.number} of `{champion.name}` failed its check ({fault})"
    now = models.find(run.project, KIND, models.CHAMPION)
    if now is None or now.number != champion.number:
        return f"{named}; another champion was chosen meanwhile, which serves"
    try:
        previous = models.rollback(run.project, KIND)
    except models.ModelNotFoundError:
        return f"{named} and there is no earlier champion to go back to; hint: `kinora run` trains another"
    refused = gates.Verdict([gates.Check("generates", None, None, None, False, fault)])
    models.promote(run.project, KIND, champion, refused, previous)  # writes the verdict down, which `kinora show models` prints
    return f"{named}; version {previous.number} is the champion again"
