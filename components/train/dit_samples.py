"""Samples of the diffusion transformer while it trains, drawn beside it: training never waits for them."""

import json
import logging
import math
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.train.context import Beside

if TYPE_CHECKING:
    from torch import nn

logger = logging.getLogger("kinora")

SAMPLER = "components.generate.preview:main"  # a task of its own, started by name
MOST_OPERATIONS = 2e14  # of all samples after a step: about an hour of the one thread that they have
FEWEST_STEPS = 10
TOO_MANY_OPERATIONS = 5 * MOST_OPERATIONS  # of one sample in the fewest steps: beyond it, nobody would wait


class Sampling:
    """Samples of a training under way, made beside it at the lowest priority and left out while the last ones are still being made.

    Args:
        write: writes a model to a folder, without the parts that lie beside it there.
        notes: what is noted of the model.
        parts: folders that are linked there, by their names.
        prompts: most that are sampled; fewer of a large model, see `affordable`, and it is said at once.
        weights: of the model.

    Attributes:
        skipped: how often samples were due while the last ones were still being made.
    """

    def __init__(
        self,
        folder: Path,
        write: Callable[[Path, "nn.Module"], Any],
        notes: Mapping[str, Any],
        parts: Mapping[str, Path],
        prompts: Sequence[str],
        beside: Beside,
        weights: int,
    ) -> None:
        self.folder, self.write, self.notes, self.parts, self.beside = folder, write, notes, parts, beside
        self.drawn = affordable(notes, weights, len(prompts))
        self.prompts = list(prompts)[: self.drawn.prompts]
        if prompts:
            self._say_if_fewer(len(prompts))
        self.skipped = 0
        self._writing: threading.Thread | None = None
        self._closed = False

    def is_wanted(self, step: int) -> bool:
        """Tells whether samples can be made after a step; where they cannot, that is said and counted."""
        if not self.prompts:
            return False
        if not self._is_busy():
            return True
        self.skipped += 1
        logger.info("no samples are made after step %d: those before are still being made", step)
        return False

    def __call__(self, step: int, model: "nn.Module") -> None:
        """Starts sampling from a model that no later step moves; leaves `step_N.png` and `step_N.mp4` in the folder."""
        self._writing = threading.Thread(target=self._start, args=(step, model), name="samples", daemon=True)
        self._writing.start()

    def close(self) -> None:
        """Ends what still runs: the samples of the finished model are about to be made."""
        self._closed = True
        if self._is_busy():
            logger.info("the last samples beside the training were still being made, and are left out")
        if self._writing is not None:
            self._writing.join()
        self.beside.close()
        shutil.rmtree(self.folder / ".weights", ignore_errors=True)

    def _is_busy(self) -> bool:
        return (self._writing is not None and self._writing.is_alive()) or self.beside.is_busy()

    def _start(self, step: int, model: "nn.Module") -> None:
        weights, target = self.folder / ".weights", self.folder / f"step_{step:06d}"
        try:
            self.write(weights, model)
            for name, folder in self.parts.items():  # linked: each has a manifest of its own, and is read once, by the sampler
                (weights / name).symlink_to(folder.resolve(), target_is_directory=True)
        except OSError as error:
            logger.warning("samples after step %d are left out: %s", step, error)
            return
        if not self._closed:
            how = json.dumps(self.prompts), str(self.drawn.steps), "images" if self.drawn.images else "videos"
            self.beside.start(f"sampling after step {step}", SAMPLER, str(weights), str(target), *how)

    def _say_if_fewer(self, prompts: int) -> None:
        drawn, most = self.drawn, self.notes["generate"]["num_inference_steps"]
        if not drawn.prompts:
            logger.info(
                "no samples are made beside this large a model, even one would take more than five hours; hint: smaller clips by `clip` or "
                "a smaller `dit.size` give some, and `kinora generate` makes those of the finished model"
            )
        elif (drawn.prompts, drawn.steps, drawn.images) != (prompts, most, False):
            told = "of one frame, " if drawn.images else "", drawn.prompts, prompts, drawn.steps, most
            logger.info("samples beside this large a model are %sof %d of %d prompts, in %d of %d steps", *told)


@dataclass(frozen=True)
class Drawn:
    """How many prompts are sampled beside a training, in how many steps, and whether of one frame each."""

    prompts: int
    steps: int
    images: bool = False


def affordable(notes: Mapping[str, Any], weights: int, prompts: int) -> Drawn:
    """Answers what is sampled beside a training: of a large model fewer prompts, then fewer steps, then one frame, then nothing.

    Args:
        notes: of the model: its shapes of latents, patches and sampling.
        weights: of the model.
        prompts: at most.
    """
    most: int = notes["generate"]["num_inference_steps"]
    fewest = min(most, FEWEST_STEPS)
    shapes = notes["latents_shapes"]
    for images, seen in ((False, shapes), (True, [shape for shape in shapes if shape[1] == 1])):
        tokens = max((math.prod(shape[1:]) for shape in seen), default=0) / math.prod(notes["size"]["patch_size"])
        one_step = 2 * 2 * weights * tokens  # a multiplication and an addition, with the prompt and without
        if tokens and one_step * fewest <= TOO_MANY_OPERATIONS:
            prompts = max(1, min(prompts, int(MOST_OPERATIONS / (one_step * most))))
            return Drawn(prompts, max(fewest, min(most, int(MOST_OPERATIONS / (one_step * prompts)))), images)
    return Drawn(0, 0)
