"""One stage as a process of its own, which Ray's Jobs API or Kubernetes starts: `python -m components.jobs STAGE SPEC`."""

import contextlib
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from types import FrameType

from components.cluster.session import ray_session
from components.jobs.run import Outcome, Run
from components.jobs.spec import JobSpec, read_spec, said_error, said_outcome, said_progress
from components.jobs.stage import BODIES, run_stage

TRIAL = "check_champion"
BAD_INPUT, FAILED, STOPPED = 2, 1, 143
EVERY_SECONDS = 2.0


class StoppedError(BaseException):
    """Somebody asked this job to end; whatever was not committed is done again by the next one."""


def main(arguments: list[str]) -> int:
    """Runs the stage and answers the exit code: 0, 2 for bad input, 1 for a failure, 143 after SIGTERM."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stdout)
    signal.signal(signal.SIGTERM, _stop)
    try:
        stage, spec = _asked(arguments)
        for name, value in spec.environment.items():
            os.environ.setdefault(name, value)  # a node's own address of a server wins
        run = spec.run(Said())
        with contextlib.ExitStack() as sessions:
            outcome = _work(stage)(run, lambda: sessions.enter_context(ray_session(run.config, run.project.root)))
            print(said_outcome(outcome), flush=True)
        return 0
    except StoppedError:
        print("stopped", flush=True)
        return STOPPED
    except Exception as error:
        if not isinstance(error, ValueError | OSError):
            traceback.print_exc(file=sys.stdout)
        print(said_error(error), flush=True)
        return BAD_INPUT if isinstance(error, ValueError | FileNotFoundError) else FAILED


class Said:
    """Prints progress, a line at most every few seconds, so that the log of a long training stays small."""

    def __init__(self) -> None:
        self.last = float("-inf")

    def __call__(self, done: int, total: int, note: str = "") -> None:
        now = time.monotonic()
        if now - self.last >= EVERY_SECONDS or done >= total:
            self.last = now
            print(said_progress(done, total, note), flush=True)


def _asked(arguments: list[str]) -> tuple[str, JobSpec]:
    if len(arguments) != 2 or arguments[0] not in (*BODIES, TRIAL):
        raise ValueError(f"`python -m components.jobs STAGE SPEC` takes a stage, one of {', '.join((*BODIES, TRIAL))}, and a spec in JSON")
    return arguments[0], read_spec(arguments[1])


def _work(stage: str) -> Callable[[Run, Callable[[], object]], Outcome]:
    """Answers what runs a stage; the trial of a champion is none, since nothing of it is ever fresh."""
    if stage != TRIAL:
        return lambda run, ready: run_stage(run, stage, ready)
    from components.jobs.check_champion import try_champion

    return try_champion


def _stop(signum: int, frame: FrameType | None) -> None:
    raise StoppedError("it was asked to end; what it had not committed is done again")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
