"""What the verbs that write videos share: a file that can be written, a device, a bar."""

import errno
import shlex
import stat
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from components.sections import Config
from flows.commands.options import Invocation

if TYPE_CHECKING:
    from components.registry.models import Version

ON_CPU = "`--set cluster.use_gpu=false` computes on the CPU"


def mp4_file(output: str) -> Path:
    """Answers the path of an MP4 file that can be written.

    Raises:
        ValueError: another suffix, no such folder, one that may not be written, a folder of that name, or a name that is too long.
    """
    path = Path(output)
    if path.suffix.lower() != ".mp4":
        raise ValueError(f"`{output}` is not an MP4 file; hint: `-o {path.with_suffix('.mp4') if path.name else 'video.mp4'}`")
    if not path.parent.is_dir():
        raise ValueError(f"the folder `{path.parent}` of `-o` is not there; hint: `mkdir -p {shlex.quote(str(path.parent))}`")
    check_writable(path.parent)
    check_name(path, f"`{output}`")
    return path


def check_name(path: Path, what: str) -> None:
    """Looks whether a file can have a name, whether or not there is one.

    Raises:
        ValueError: a folder has it, or it is too long.
    """
    try:
        is_folder = stat.S_ISDIR(path.stat().st_mode)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise ValueError(f"the name of {what} is too long; hint: `-o` with a shorter one") from error
    if is_folder:
        raise ValueError(f"{what} is a folder; hint: `-o` another file")


def check_writable(folder: Path) -> None:
    """Looks whether something can be written into a folder, or it can be made.

    Raises:
        ValueError: it may not be written.
    """
    there = next(place for place in (folder, *folder.parents) if place.exists())
    try:  # rights alone do not say it: nobody may write into /sys, whatever his rights
        with tempfile.NamedTemporaryFile(prefix=".draft-", dir=there):
            pass
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ValueError(f"the folder `{there}` of `-o` may not be written by you; hint: `-o` in another folder") from error


def check_apart(target: Path, given: Iterable[str | Path], what: str) -> None:
    """Looks whether a file that is to be written is none of those that were given.

    Raises:
        ValueError: it is one of them.
    """
    for file in given:
        if target.exists() and Path(file).exists() and target.samefile(file):
            raise ValueError(f"{what} is the given `{file}` itself; hint: `-o` another file")


def sampling_of(asked: Invocation, version: "Version | None" = None) -> dict[str, Any]:
    """Answers the settings of sampling: those that a command line names, and others that a version was evaluated with.

    What is in neither is as the model's notes say, all of it where the model is a folder, of which no version is known.
    """
    named = {name for override in asked.overrides if sets_sampling(override) for name in _named_in(override)}
    said = {name: value for name, value in asked.config.generate.model_dump().items() if name in named}
    return ({} if version is None else version.generate) | said


def sets_sampling(override: str) -> bool:
    """Answers whether `--set KEY=VALUE` is of the section `generate`."""
    return override.partition("=")[0].strip().partition(".")[0] == "generate"


def _named_in(override: str) -> list[str]:
    """Answers which settings of its section an override names: one, or those of a mapping."""
    key, _, value = override.partition("=")
    name = key.strip().partition(".")[2]
    return [name] if name else list(yaml.safe_load(value))


def device_of(config: Config) -> str:
    """Answers where a network computes, for torch."""
    if not config.cluster.use_gpu:
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


@contextmanager
def gpu_memory(hint: str) -> Iterator[None]:
    """Says in one sentence that a GPU's memory is too small, with what would take less of it.

    Raises:
        RuntimeError: it is.
    """
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise RuntimeError(f"the GPU's memory is too small for this; hint: {hint}") from error


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int | None, str], None] | None]:
    """Lends a callback (done, total, note) that moves a bar on stderr; None where nobody watches."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(file=sys.stderr), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total, note: bar.update(task, completed=done, total=total)
