"""Tries a champion as a user would: loads it from the registry, generates a few videos, and takes it back where they are no videos."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from components.cluster.rows import map_batches
from components.jobs.run import Outcome, Run, timed
from components.jobs.stage import at_once
from components.measure.quality import quality
from components.models.weights import DamagedFolderError
from components.registry import gates, models
from components.report.sheets import sample_sheet
from components.sections import Config
from components.store import mirror, tables
from components.store.choice import evenly
from components.store.filters import KEPT
from components.store.turns import working

if TYPE_CHECKING:
    from torch import nn

NAME = "check_champion"  # of its job
KIND: models.Kind = "text-to-video"
NUM_VIDEOS = 4
MOST_FAULTY = 0.5  # share of the videos; one that shows nothing may be an odd prompt
DEFAULT_PROMPT = "something moves from left to right"


class ChampionRefusedError(ValueError):
    """The champion makes no videos; the message says why, and who is champion now."""


class Trial:
    """Generates with a model's folder; what is wrong with it is an answer, so that it comes back whole from another machine.

    Args:
        sampling: settings of the section `generate`, in place of those of the model's notes.
    """

    def __init__(self, config: Config, folder: str, sampling: Mapping[str, Any]) -> None:
        self.config, self.folder, self.sampling = config, folder, sampling

    def __call__(self, prompts: Sequence[str]) -> tuple[str | None, list[np.ndarray]]:
        """Answers why the model makes no videos, or None, and the frames that it made, uint8 (T, H, W, 3) each."""
        from components.generate.contract import MismatchedModelError
        from components.generate.generator import Generator

        try:
            generator = Generator.load(self.folder, self.config.encode.device)
        except (DamagedFolderError, MismatchedModelError, FileNotFoundError) as error:
            return f"it does not load: {error}", []
        if not (_finite(generator.model) and _finite(generator.vae)):
            return "its weights are not all finite numbers", []
        videos = [sample.frames for sample in generator.generate(prompts, range(len(prompts)), **self.sampling)]
        faults = [fault for frames in videos if (fault := frames_fault(frames, self.config)) is not None]
        if len(faults) <= MOST_FAULTY * len(videos):
            return None, videos
        return f"{len(faults)} of {len(videos)} videos are {' or '.join(sorted(set(faults)))}", videos


def try_champion(run: Run, ready: Callable[[], object] = at_once) -> Outcome:
    """Generates a few videos with the project's champion; its aliases stay where they are.

    Args:
        ready: brings up the Ray whose actor generates; not called where `encode.num_actors` is 0.

    Returns:
        Of a `version`, which is null without a champion, its `fault`, null where it makes videos, and what there is to show.
    """
    with working(run.project):
        mirror.pull(run.project)
        champion = models.find(run.project, KIND, models.CHAMPION)
        if champion is None:
            return nothing_to_try(run)
        (fault, videos), seconds = timed(lambda: _tried(run, champion, ready))
        images = {}
        if videos:
            sheet = run.project.sheet("champion.png")
            sheet.parent.mkdir(parents=True, exist_ok=True)
            images["videos"] = str(sample_sheet(sheet, videos))
        mirror.push(run.project)
        said = f"version {champion.number} of `{champion.name}` {'makes videos' if fault is None else f'fails: {fault}'}"
        result = {"version": champion.number, "fault": fault, "show": {"images": images, "markdown": {"verdict": said}}}
        return Outcome(NAME, "run", said, seconds, result)


def nothing_to_try(run: Run) -> Outcome:
    """Answers the outcome of a project without a champion."""
    why = f"project `{run.project.name}` has no champion yet, so there is nothing to check"
    return Outcome(NAME, "skip", why, 0.0, {"version": None, "fault": None})


def conclude(run: Run, tried: Outcome) -> str:
    """Answers the sentence about a trial; where the champion failed, the previous one serves again.

    Raises:
        ChampionRefusedError: the champion failed.
    """
    version, fault = tried.result["version"], tried.result["fault"]
    if fault is not None:
        raise ChampionRefusedError(_take_back(run, models.lookup(run.project, KIND, str(version)), fault))
    return tried.why


def frames_fault(frames: np.ndarray, config: Config) -> str | None:
    """Answers why frames, uint8 (T, H, W, 3), are no video worth showing, or None."""
    found = quality(frames)
    if found.contrast < config.curate.min_contrast or not config.curate.min_luma <= found.luma <= config.curate.max_luma:
        return "blank"
    if found.repeat_share is not None and found.repeat_share > config.gate.max_repeat_share:
        return "frozen"
    return None


def _tried(run: Run, champion: models.Version, ready: Callable[[], object]) -> tuple[str | None, list[np.ndarray]]:
    try:
        folder = models.download(run.project, champion)
    except (DamagedFolderError, FileNotFoundError) as error:
        return f"it does not load: {error}", []
    encode = run.config.encode
    if encode.num_actors:
        ready()
    answers = map_batches(
        Trial,
        (run.config, str(folder), champion.generate),
        [_prompts(run)],
        num_actors=min(1, encode.num_actors),
        cpus_per_actor=encode.cpus_per_actor,
        gpus_per_actor=encode.gpus_per_actor,
        project=run.project,
    )
    (answer,) = (found for _, found in answers)
    return answer


def _finite(network: "nn.Module") -> bool:
    import torch

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
