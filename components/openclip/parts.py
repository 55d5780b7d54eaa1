"""OpenCLIP's own modules, imported one by one.

`import open_clip` brings in torchvision, timm and transformers, about 12 seconds of one core, for things that a CoCa never calls. Its
model, loss and tokenizer files need none of it, so they are loaded from the installed package under a name of our own; a test holds
their numbers against the whole package's.
"""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from types import ModuleType

SHELL = "open_clip_parts"
UNUSED = ("torchvision", "torchvision.ops", "torchvision.ops.misc", "timm")
HIDDEN = "transformers"


@cache
def part(name: str) -> ModuleType:
    """Answers one module of the installed open_clip: `coca_model`, `loss` or `tokenizer`.

    Raises:
        ModuleNotFoundError: open_clip is not installed.
    """
    if "open_clip" in sys.modules:
        return importlib.import_module(f"open_clip.{name}")
    if SHELL not in sys.modules:
        spec = find_spec("open_clip")
        if spec is None or spec.submodule_search_locations is None:
            raise ModuleNotFoundError("open_clip is not installed; hint: `make setup`")
        shell = ModuleType(SHELL)
        shell.__path__ = list(spec.submodule_search_locations)
        sys.modules[SHELL] = shell
    with _without_unused():
        return importlib.import_module(f"{SHELL}.{name}")


@contextmanager
def _without_unused() -> Iterator[None]:
    """Stands empty modules in for torchvision and timm while open_clip's files are read, unless they are there already.

    Of torchvision those files take one class, which only frozen ResNets use; without timm and transformers they go on by themselves.
    Transformers is hidden even where it is there: it would look for what else is, and find the empty modules.
    """
    from torch import nn

    hidden = {name: sys.modules.pop(name) for name in (HIDDEN,) if name in sys.modules}
    sys.modules[HIDDEN] = None  # type: ignore[assignment]
    absent = [name for name in UNUSED if name not in sys.modules]
    for name in absent:
        empty = ModuleType(name)
        empty.__path__ = []
        sys.modules[name] = empty
    if "torchvision.ops.misc" in absent:
        sys.modules["torchvision.ops.misc"].FrozenBatchNorm2d = type("FrozenBatchNorm2d", (nn.Module,), {})  # type: ignore[attr-defined]
    if "timm" in absent:
        sys.modules["timm"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        for name in (*absent, HIDDEN):
            sys.modules.pop(name, None)
        sys.modules.update(hidden)
