"""The process of a benchmark as that of a training: how threads wait and what becomes of freed memory is a large part of a small step."""

import os
import sys

from components.models.trainer_process import environment


def begin_as_training(module: str) -> None:
    """Begins this process anew, once, with the variables that a training's process begins with; before anything is measured.

    Args:
        module: that was started with `-m`.
    """
    wanted = environment(os.environ)
    if wanted != dict(os.environ):
        os.execve(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]], wanted)
