"""What the parameters of the stages' flows mean, said once: Prefect shows it beside the fields of a run's form."""

import inspect
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

ARGUMENTS = """Args:
    project: Where the run lives below the root; empty is the name of the source, or `demo`.
    source: The folder of footage; empty is the synthetic world.
    manifest: A CSV file with captions, sources and rights of the footage, each `file` relative to it; empty takes `manifest.csv` beside it.
    profile: The profile of pipelines.yaml; empty takes its defaults.
    overrides: Settings that win over the profile, one `section.name=value` each, for example `dit.steps=200`.
"""


def described(function: Callable[P, R]) -> Callable[P, R]:
    """Adds the meaning of the parameters to a flow's docstring, which is where Prefect looks for it."""
    function.__doc__ = f"{inspect.getdoc(function)}\n\n{ARGUMENTS}"
    return function
