"""Samples of the diffusion transformer while it trains, drawn beside it: training never waits for them."""

import json
import logging
import math
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from components.train.context import Beside

logger = logging.getLogger("kinora")

SAMPLER = "components.generate.preview:main"  # a task of its own, started by name
MOST_OPERATIONS = 2e14  # of all samples after a step: about an hour of the one thread that they have
FEWEST_STEPS = 10


class Sampling:
    """Samples of a training under way, made beside it at the lowest priority and left out while the last ones are still being made.

    Args:
        write: writes a model to a folder, without the parts that lie beside it there.
        notes: what is noted of the model.
        parts: folders that are linked there, by their names.
        prompts: most that are sampled; fewer of a large model, see `affordable`.

    Attributes:
        skipped: how often samples were due while the last ones were still being made.
    """

    def __init__(
        self,
        folder: Path,
        write: Callable[[Path, nn.Module], Any],
        notes: Mapping[str, Any],
        parts: Mapping[str, Path],
        prompts: Sequence[str],
        beside: Beside,
    ) -> None:
        self.folder, self.write, self.notes, self.parts, self.beside = folder, write, notes, parts, beside
        self.prompts = list(prompts)
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

    def __call__(self, step: int, model: nn.Module) -> None:
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

    def _start(self, step: int, model: nn.Module) -> None:
        weights, target = self.folder / ".weights", self.folder / f"step_{step:06d}"
        try:
            self.write(weights, model)
            for name, folder in self.parts.items():  # linked: each has a manifest of its own, and is read once, by the sampler
                (weights / name).symlink_to(folder.resolve(), target_is_directory=True)
        except OSError as error:
            logger.warning("samples after step %d are left out: %s", step, error)
            return
        prompts, steps = affordable(self.notes, sum(value.numel() for value in model.parameters()), len(self.prompts))
        most = self.notes["generate"]["num_inference_steps"]
        if (prompts, steps) != (len(self.prompts), most):
            told = prompts, len(self.prompts), steps, most
            logger.info("samples beside this large a model are of %d of %d prompts, in %d of %d steps", *told)
        if not self._closed:
            said = json.dumps(self.prompts[:prompts])
            self.beside.start(f"sampling after step {step}", SAMPLER, str(weights), str(target), said, str(steps))


def affordable(notes: Mapping[str, Any], weights: int, prompts: int) -> tuple[int, int]:
    """Answers how many prompts are sampled beside a training, and in how many steps: fewer prompts first, where a model is large.

    Args:
        notes: of the model: its shapes of latents, patches and sampling.
        weights: of the model.
        prompts: at most.
    """
    steps: int = notes["generate"]["num_inference_steps"]
    tokens = max(math.prod(shape[1:]) for shape in notes["latents_shapes"]) / math.prod(notes["size"]["patch_size"])
    one_step = 2 * 2 * weights * tokens  # a multiplication and an addition, with the prompt and without
    prompts = max(1, min(prompts, int(MOST_OPERATIONS / (one_step * steps))))
    return prompts, max(min(steps, FEWEST_STEPS), min(steps, int(MOST_OPERATIONS / (one_step * prompts))))
