"""What the verbs that write videos share: a file that can be written, a device, a bar."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.sections import Config
from flows.commands.options import Invocation

if TYPE_CHECKING:
    from components.registry.models import Version


def mp4_file(output: str) -> Path:
    """Answers the path of an MP4 file that can be written.

    Raises:
        ValueError: another suffix, no such folder, or a folder of that name.
    """
    path = Path(output)
    if path.suffix.lower() != ".mp4":
        raise ValueError(f"`{output}` is not an MP4 file; hint: `-o {path.with_suffix('.mp4') if path.name else 'video.mp4'}`")
    if not path.parent.is_dir():
        raise ValueError(f"the folder `{path.parent}` of `-o` is not there; hint: `mkdir -p {path.parent}`")
    if path.is_dir():
        raise ValueError(f"`{output}` is a folder; hint: name a file in it")
    return path


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
    named = {override.partition("=")[0].strip() for override in asked.overrides}
    said = {name: value for name, value in asked.config.generate.model_dump().items() if f"generate.{name}" in named}
    return ({} if version is None else version.generate) | said


def device_of(config: Config) -> str:
    """Answers where a network computes, for torch."""
    if not config.cluster.use_gpu:
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


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
