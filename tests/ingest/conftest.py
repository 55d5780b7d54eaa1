"""Films of the synthetic world, rendered once: their sidecars are the truth about cuts, transitions and captions."""

import json
from pathlib import Path

import pytest

from components.world.films import render_films

FILMS = 8


@pytest.fixture(scope="session")
def films(tmp_path_factory) -> dict[str, list[tuple[Path, dict]]]:
    """Films of both presets with their sidecars; every fifth boundary of the demo ones is gradual."""
    rendered = {}
    for preset in ("demo", "rich"):
        paths = render_films(
            tmp_path_factory.mktemp(preset), preset, FILMS, seed=41, unseen_films=1, workers=1, gradual_share=0.2, scenes=8
        )
        rendered[preset] = [(path, json.loads(path.with_suffix(".json").read_text())) for path in paths]
    return rendered
