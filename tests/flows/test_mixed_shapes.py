"""One whole run on a folder of films of several aspects and lengths, whose clips have several shapes from end to end."""

import csv
import json
from pathlib import Path

import pytest

from components.media.write import encode_png, write_video
from components.stages import STAGES
from components.store.project import Project
from components.store.tables import clips, samples
from tests.flows.command import kinora
from tests.jobs.test_shapes import FILMS, film

pytestmark = pytest.mark.long

SETTINGS = [
    "clip.max_shapes=4", "clip.num_frames=17", "clip.height=48", "clip.width=48",
    "curate.val_share=0.2", "curate.labelled_share=1.0",
]  # fmt: skip


def mixed_folder(folder: Path) -> Path:
    """Films of five sizes and some pictures, with a manifest of captions."""
    folder.mkdir()
    said = []
    for number in range(15):
        num_frames, height, width = list(FILMS.values())[number % len(FILMS)]
        write_video(folder / f"film{number}.mp4", film(num_frames + number, height, width, seed=number), 8)
        said.append((f"film{number}.mp4", f"waves number {number % 4} that slide"))
    for number in range(4):
        (folder / f"still{number}.png").write_bytes(encode_png(film(1, 48, 64, seed=number)[0]))
        said.append((f"still{number}.png", f"waves number {number}"))
    with (folder / "manifest.csv").open("w", newline="") as handle:
        csv.writer(handle).writerows([("file", "caption"), *said])
    return folder


def test_clips_of_several_shapes_go_all_the_way_to_a_verdict(tmp_path: Path) -> None:
    source = mixed_folder(tmp_path / "mixed")
    several = [text for setting in SETTINGS for text in ("--set", setting)]
    done = kinora(tmp_path, "run", "--profile", "test", "--source", str(source), *several)
    assert done.returncode == 0, done.stderr[-4000:] + done.stdout[-2000:]
    project = Project(tmp_path / "runs", "mixed")
    assert [stage for stage in STAGES if project.record(stage) is None] == []
    rows = clips(project).read(["num_frames", "height", "width", "latents_shape"], "keep = true")
    shapes = {(row["num_frames"], row["height"], row["width"]) for row in rows}
    assert 2 <= len(shapes) <= 4
    for row in rows:
        assert row["latents_shape"][1:] == [1 + (row["num_frames"] - 1) // 4, row["height"] // 8, row["width"] // 8]
    made = samples(project).read(["num_frames", "height", "width"])
    assert {(row["num_frames"], row["height"], row["width"]) for row in made} <= shapes
    shown = kinora(tmp_path, "show", "shapes", "--profile", "test", "--project", "mixed", *several, "--json")
    assert {(shape["num_frames"], shape["height"], shape["width"]) for shape in json.loads(shown.stdout)["shapes"]} >= shapes
