"""The captioner's job on a real table: what it learns from, what it exports, and its three ways."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from components.caption.coca import READS, WRITES, CaptionClips
from components.config import load_config
from components.media.write import encode_clip
from components.openclip.load import CaptionerError, load_coca
from components.sections import Config
from components.store import tables
from components.store.project import Project
from components.train.captioner_batches import captioner_batches, channel_statistics, read_judged, read_labelled
from components.train.captioner_job import mosaic_of, run
from components.train.context import TrainContext, read_metrics
from components.world.render import render_clips
from components.world.vocabulary import caption


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Six clips that lend their label, two of the validation split with a truth, and four that nobody may learn from."""
    frames, scenes = render_clips("demo", 12, num_frames=9, height=32, width=32, seed=0)
    rows = []
    for number, (clip, scene) in enumerate(zip(frames, scenes, strict=True)):
        rows.append(
            {
                "clip_id": f"clip{number:02d}",
                "video": encode_clip(clip, 8),
                "label_caption": caption(scene),
                "label_by": "sidecar:0",
                "lent": number < 6 or number == 11,
                "truth": json.dumps({"fields": scene.fields, "unseen": False, "scene": 0}),
                "split": "val" if number in (6, 7) else "test" if number == 11 else "train",
                "keep": True,
            }
        )
    project = Project(tmp_path_factory.mktemp("root"), "demo")
    tables.clips(project).append(rows)
    return project


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config("test", ["captioner.steps=2", "captioner.batch_size=4", "captioner.checkpoint_every=2"])


def job(config: Config, project: Project, folder: Path, mode: str) -> Path:
    payload = {
        "config": config.model_dump(mode="json"),
        "root": str(project.root),
        "project": project.name,
        "checkpoints": str(folder / "checkpoints"),
        "clips_version": None,
        "clips_lifted": [],
        "export": str(folder / "export"),
        "mode": mode,
    }
    run(payload, TrainContext.local(folder))
    return folder / "export"


@pytest.fixture(scope="module")
def trained(config: Config, project: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return job(config, project, tmp_path_factory.mktemp("trained"), "train")


def test_only_lent_labels_of_the_training_split_are_read(config: Config, project: Project):
    mosaic = mosaic_of(config.captioner)
    assert len(read_labelled(project, mosaic).captions) == 6
    assert [truth is not None for truth in read_judged(project, mosaic, 10).truths] == [True, True]


def test_it_exports_a_captioner_and_reports_how_well_it_captions(trained: Path):
    coca = load_coca(trained)
    assert (coca.origin, coca.can_caption, coca.text_width) == ("trained", True, 64)
    metrics = dict(read_metrics(trained.parent / "metrics.jsonl"))
    assert metrics[3] == coca.measured
    assert set(coca.measured) == {"val_colour", "val_shape", "val_motion", "val_background", "val_camera", "val_all_fields"}


def test_the_row_stage_takes_lent_labels_and_says_the_rest(trained: Path, config: Config, project: Project):
    rows = tables.clips(project).read(["clip_id", "label_caption", "lent"])[4:8]
    videos = dict(tables.clips(project).read_blobs("video", [row["clip_id"] for row in rows]))
    batch: dict[str, list[Any]] = {name: [row[name] for row in rows] for name in ("clip_id", "label_caption", "lent")}
    batch["video"] = [videos[clip_id] for clip_id in batch["clip_id"]]
    assert {"clip_id", *READS} == set(batch)
    said = CaptionClips(config.caption, trained)(batch)
    assert set(said) == {"clip_id", *WRITES}
    assert said["caption"][:2] == batch["label_caption"][:2]
    assert said["caption_score"][:2] == [None, None]
    for text, score in list(zip(said["caption"], said["caption_score"], strict=True))[2:]:
        assert (text is None) == (score is None)
        assert score is None or score < 0


def test_a_text_encoder_alone_leaves_clips_without_a_caption(config: Config, project: Project, tmp_path: Path, caplog):
    export = job(config, project, tmp_path, "untrained")
    assert "random weights" in caplog.text
    assert not load_coca(export).can_caption
    batch = {"clip_id": ["a", "b"], "video": [b"", b""], "label_caption": ["hands shuffling cups", None], "lent": [True, None]}
    assert CaptionClips(config.caption, export)(batch) == {
        "clip_id": ["a", "b"], "caption": ["hands shuffling cups", None], "caption_score": [None, None],
    }  # fmt: skip


def test_a_pretrained_folder_becomes_the_project_s_own(config: Config, project: Project, trained: Path, tmp_path: Path):
    settings = config.model_copy(update={"captioner": config.captioner.model_copy(update={"pretrained": str(trained)})})
    export = job(settings, project, tmp_path, "pretrained")
    ours, theirs = load_coca(export).model.state_dict(), load_coca(trained).model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_table_without_labels_is_refused_with_a_way_out(config: Config, tmp_path: Path):
    with pytest.raises(CaptionerError, match="lends a caption; hint:"):
        job(config, Project(tmp_path / "root", "bare"), tmp_path, "train")


def test_a_turned_batch_is_told_in_turned_words(trained: Path, config: Config, project: Project):
    labelled, coca = read_labelled(project, mosaic_of(config.captioner)), load_coca(trained)
    settings = config.captioner.model_copy(update={"batch_size": 6})
    batches = captioner_batches(labelled, coca, settings)(0)
    told = {coca.tokenizer.decode([t for t in row.tolist() if 0 < t < coca.tokenizer.sot_token_id]).strip() for row in next(batches).tokens}
    plain = {text.replace(",", " ,") for text in labelled.captions}
    assert told != plain
    assert all(set(text.split()) <= {word for said in plain for word in said.split()} | {"left", "right", "up", "down"} for text in told)


def test_statistics_are_those_of_all_pixels(config: Config, project: Project):
    labelled = read_labelled(project, mosaic_of(config.captioner))
    mean, std = channel_statistics(labelled)
    red = labelled.cells[:, :, 0].double() / 255
    assert (mean[0], std[0]) == (pytest.approx(float(red.mean())), pytest.approx(float(red.std())))
