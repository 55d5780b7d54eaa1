"""What a training put aside stands in the table of clips, and comes back when other settings judge the clips."""

from pathlib import Path

import numpy as np
import pytest

from components.config import load_config
from components.curate.funnel import funnel
from components.jobs.curate import MEASURE_REVISION, curate
from components.jobs.quarantine import put_aside
from components.jobs.run import Run, unseen
from components.media.write import encode_clip
from components.operations.freshness import assess
from components.stages import digest
from components.store import tables
from components.store.filters import TRAINING
from components.store.project import Project
from components.train.quarantine import NAME, QuarantineFile
from components.world.render import render_clips

WHY = "its gradient is not finite"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Six clips that are measured, so that curation needs no Ray."""
    frames, _ = render_clips("demo", 6, num_frames=5, height=16, width=16, seed=0)
    prints = np.random.default_rng(0).integers(2**62, size=(6, 24)).tolist()  # of films that have nothing in common
    project = Project(tmp_path, "demo")
    measures = {"luma": 100.0, "contrast": 50.0, "sharpness": 50.0, "motion": 0.5, "repeat_share": 0.0}
    shared = {**measures, "measured_by": digest({"measure": MEASURE_REVISION}), "num_frames": 5, "crop": [0, 0, 16, 16]}
    tables.clips(project).append(
        [
            {"clip_id": f"clip{n}", "video_id": f"film{n}", "video": encode_clip(clip, 8), "perceptual_hash": prints[n], **shared}
            for n, clip in enumerate(frames)
        ]
    )
    return project


def judge(project: Project, *overrides: str) -> None:
    config = load_config("test", ["curate.val_share=0", "curate.test_share=0", *overrides])
    curate(Run(config, project, None, None, unseen), assess("curate", config, project))


def aside(project: Project) -> dict[str, str]:
    rows = tables.clips(project).read(["clip_id", "quarantine"], "quarantine IS NOT NULL")
    return {row["clip_id"]: row["quarantine"] for row in rows}


def test_a_clip_that_was_put_aside_stays_so_until_other_settings_judge_it(project: Project, tmp_path: Path) -> None:
    judge(project)
    training = tables.clips(project).keys(TRAINING)
    one, other = training[1], training[3]
    checkpoints = tmp_path / "checkpoints"
    assert put_aside(project, "train_vae", checkpoints) == 0
    file = QuarantineFile(checkpoints / NAME)
    file.append(7, WHY, [one, other, "a clip that was taken down since"])
    assert put_aside(project, "train_vae", checkpoints) == 0
    file.append(8, None, [])
    assert put_aside(project, "train_vae", checkpoints) == 3
    expected = dict.fromkeys((one, other), f"train_vae, step 7: {WHY}")
    assert aside(project) == expected
    assert tables.clips(project).keys(TRAINING) == [name for name in training if name not in (one, other)]

    version = tables.clips(project).version
    put_aside(project, "train_vae", checkpoints)
    assert tables.clips(project).version == version, "what was written is not written again"
    assert put_aside(project, "train_dit", checkpoints) == 3
    assert aside(project) == expected

    judge(project)
    assert aside(project) == expected
    steps = funnel([], tables.clips(project).read(["keep", "drop_reason", "quarantine"]))
    assert [(step.kept, step.dropped) for step in steps if step.what == "not in quarantine"] == [(4, 2)]

    judge(project, "curate.min_luma=5")
    assert aside(project) == {}
    assert tables.clips(project).keys(TRAINING) == training
