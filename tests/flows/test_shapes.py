"""`kinora show shapes`: which shapes clips have, their tokens, and where the rest of the footage went."""

import json
from pathlib import Path

from components.config import load_config
from components.ingest.shapes import Piece, plan_shapes
from components.operations.shapes import RECORD
from components.store.project import Project
from components.store.tables import clips
from tests.flows.conftest import Say

SEVERAL = ("--profile", "test", "--project", "mixed", "--set", "clip.max_shapes=3")


def mixed(root: Path) -> None:
    """A project with clips of two shapes and the plan that they were cut by."""
    project = Project(root, "mixed")
    sizes = [(9, 32, 32)] * 6 + [(5, 16, 48)] * 2
    names = ("num_frames", "height", "width")
    clips(project).append([{"clip_id": f"c{i}", "keep": i > 0, **dict(zip(names, size, strict=True))} for i, size in enumerate(sizes)])
    clip = load_config("test", ["clip.max_shapes=3"]).clip
    plan = plan_shapes([Piece(32, 32, 27)] * 2 + [Piece(16, 48, 12)], clip, 0.5)
    project.write_record(RECORD, {"maker": "ingest", "files": 3, "plan": plan.as_dict()})


def test_shapes_clips_tokens_and_losses_are_printed(tmp_path: Path, say: Say) -> None:
    mixed(tmp_path / "runs")
    code, out, err = say("show", "shapes", *SEVERAL)
    assert code == 0, err
    lines = [line.split() for line in out.splitlines()]
    assert ["9", "32", "32", "6", "5", "12", "0.0%", "85.7%"] in lines  # 3 x 2 x 2 tokens each
    assert ["5", "16", "48", "2", "2", "6", "0.0%", "14.3%"] in lines
    assert any(line[:1] == ["kept"] for line in lines)
    assert "cut off at the end of a scene" in out
    assert "12.5% of all tokens" in err
    assert "nothing is padded" in err
    code, out, err = say("show", "shapes", *SEVERAL, "--json")
    told = json.loads(out)
    assert [shape["tokens"] for shape in told["shapes"]] == [12, 6]
    assert (told["padding"], told["padding_to_largest"]) == (0.0, 0.125)


def test_sides_that_end_within_a_patch_are_shown_with_the_way_out(tmp_path: Path, say: Say) -> None:
    mixed(tmp_path / "runs")
    code, out, err = say("show", "shapes", *SEVERAL, "--set", "dit.size=demo")
    assert code == 0, err
    lines = [line.split() for line in out.splitlines()]
    assert ["9", "32", "32", "6", "5", "3", "75.0%", "81.8%"] in lines  # 4x4 of 8x8 latents
    assert ["5", "16", "48", "2", "2", "2", "81.2%", "18.2%"] in lines
    assert "76.1% of what tokens hold is padding, since a patch is 64 pixels wide" in err
    assert "hint: `--set clip.side_multiple=64`" in err


def test_without_clips_it_says_how_to_get_some(say: Say) -> None:
    code, _, err = say("show", "shapes", *SEVERAL)
    assert code != 0
    assert "has no clips" in err
    assert "kinora run" in err
