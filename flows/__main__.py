"""The `kinora` command: finds the verb, and says every mistake in one sentence with the way out."""

import difflib
import errno
import logging
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import FrameType

import click

from components.store.secret_names import without_password

VERBS = {
    "run": "Footage to a promoted model: do what is stale, skip the rest.",
    "generate": "A prompt, images and videos to a video file.",
    "calibrate": "Find how much of sampling may be left out for a stated likeness.",
    "reconstruct": "A video and what the video VAE makes of it, side by side.",
    "plan": "Say what `kinora run` would do, without doing it.",
    "status": "Say what a run is doing; -w follows it.",
    "show": "Print settings, funnel, clips, shapes, models, or what made a video.",
    "promote": "Make the candidate the champion by hand.",
    "rollback": "Make the previous champion the champion again.",
    "lineage": "Walk from a model to its source files, or from a file to the models that read it.",
    "forget": "Take a file's footage down, and mark the models that read it.",
    "gc": "Remove what nothing refers to.",
    "up": "Start Prefect, MLflow, Ray and the serving of deployments on this machine.",
    "down": "Stop the servers that `kinora up` started.",
    "deploy": "Register the scheduled flows of pipelines.yaml with Prefect.",
    "doctor": "Check this machine and installation.",
}
FLOWS = Path(__file__).resolve().parent
OURS = (FLOWS, FLOWS.parent / "components")  # and nothing else beside them, where libraries may lie too
OF_FILES = ("generate", "calibrate", "reconstruct")  # verbs that read and write what a person names
RESUMES = "the same command resumes where it was"
BAD_INPUT, FAILED, INTERRUPTED, TERMINATED = 2, 1, 130, 143


class TerminatedError(BaseException):
    """Somebody sent SIGTERM."""


class Verbs(click.Group):
    """The verbs, each imported when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command:
        if name not in VERBS:
            close = difflib.get_close_matches(name, VERBS, n=1)
            tip = f"did you mean `kinora {close[0]}`?" if close else f"the verbs are {', '.join(VERBS)}"
            raise click.UsageError(f"`{name}` is not a verb; hint: {tip}")
        command: click.Command = getattr(import_module(f"flows.commands.{name}"), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="kinora", message="kinora %(version)s")
def kinora() -> None:
    """From footage to a text-to-video model of your own, with one command: `kinora run`."""


class Remarks(logging.Formatter):
    """Log lines as the command speaks: `warning: ...`."""

    def format(self, record: logging.LogRecord) -> str:
        return f"{record.levelname.lower()}: {without_password(record.getMessage())}"


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line and leaves with its exit code: 0, 2 for bad input, 1 for a failure, 130 after Ctrl-C, 143 after SIGTERM."""
    remarks = logging.StreamHandler()
    remarks.setFormatter(Remarks())
    logger = logging.getLogger("kinora")
    logger.addHandler(remarks)
    logger.propagate = False  # Prefect's handler of all logs would say it again
    signal.signal(signal.SIGTERM, _terminate)
    sys.exit(_exit_code(sys.argv[1:] if arguments is None else arguments))


def _exit_code(arguments: list[str]) -> int:
    try:
        code = kinora.main(arguments, prog_name="kinora", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except (click.Abort, KeyboardInterrupt):  # click has ended the line already
        return _ended("interrupted", arguments, INTERRUPTED)
    except TerminatedError:
        return _ended("terminated", arguments, TERMINATED)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 0
    except click.ClickException as error:
        return say(error.format_message(), BAD_INPUT)
    except BrokenPipeError:  # the reader of a pipe left; nothing is to be said to nobody
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        sentence, code = explain(error, next(iter(arguments), ""))
        if sentence is None:
            click.echo(without_password(traceback.format_exc()), err=True)
            sentence = "this is a fault of Kinora's own, not of what you typed; hint: the lines above say where"
        return say(sentence, code)


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise TerminatedError


def _ended(how: str, arguments: list[str], code: int) -> int:
    hint = f"; {RESUMES}" if arguments[:1] == ["run"] else ""
    click.echo(f"{how}{hint}", err=True)
    return code


def explain(error: BaseException, verb: str = "run") -> tuple[str | None, int]:
    """Answers one sentence and an exit code for an error of a verb, or None for one that nobody foresaw."""
    ours = _is_ours(error)  # whoever says it himself knows which port, and who has it
    for cause in _causes(error):
        text = str(cause).lower()
        full = any(words in text for words in ("no space left on device", "disk quota exceeded", "disk is full"))
        if full or getattr(cause, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            again = RESUMES if verb == "run" else "run the same command again"
            return f"the disk is full; hint: free some space, then {again}", FAILED
        if not ours and (getattr(cause, "errno", None) == errno.EADDRINUSE or "address already in use" in text):
            return f"a port is taken: {_first_line(cause)}; hint: stop what listens there, or leave the port to Kinora", FAILED
    if ours:
        return " ".join(str(error).split()), BAD_INPUT if isinstance(error, ValueError | FileNotFoundError) else FAILED
    if isinstance(error, PermissionError) and error.filename is not None:
        way = "name another file, or give yourself its rights" if verb in OF_FILES else "`--set root=FOLDER` moves all runs elsewhere"
        return f"`{error.filename}` may not be written or read by you; hint: {way}", FAILED
    if isinstance(error, OSError) and error.filename is not None:
        return f"`{error.filename}`: {error.strerror}", FAILED
    return None, FAILED


def say(sentence: str, code: int) -> int:
    """Prints an error in two lines, what is wrong and the way out, and answers the exit code."""
    what, _, hint = without_password(sentence).partition("; hint: ")
    click.echo(f"error: {what}", err=True)
    if hint:
        click.echo(f"hint: {hint}", err=True)
    return code


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _is_ours(error: BaseException) -> bool:
    """Answers whether Kinora raised an error on purpose: a class of ours, or a `raise` of words in a file of ours."""
    if isinstance(error, AssertionError | LookupError) or (isinstance(error, OSError) and error.errno is not None):
        return False
    if type(error).__module__.split(".")[0] in ("components", "flows"):
        return True
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return False
    last = frames[-1]
    return any(Path(last.filename).is_relative_to(folder) for folder in OURS) and (last.line or "").startswith("raise ")


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0][:200]


if __name__ == "__main__":
    main()
