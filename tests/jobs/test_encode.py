"""Encoding captions: what a text encoder does not read of them is counted and said."""

from pathlib import Path

import pytest

from components.config import load_config
from components.jobs import encode as stage
from components.jobs.run import Run, unseen
from components.models.sizes import COCA_SIZES
from components.openclip.load import build_coca, save_coca
from components.store import tables
from components.store.project import Project

SHORT = "a red square moves left"


@pytest.mark.parametrize(
    ("captions", "said"),
    [
        ([SHORT, "a blue ring"], []),
        (
            [SHORT, f"{SHORT} and {SHORT} and {SHORT}", f"{SHORT} or {SHORT} or {SHORT}", SHORT],
            [
                "2 of 3 captions are longer than the text encoder reads, and are cut at 8 tokens; "
                "hint: `text_encoder.pretrained` names one that reads more"
            ],
        ),
    ],
)
def test_captions_that_are_cut_are_counted_in_one_line(
    captions: list[str], said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    save_coca(tmp_path / "coca", build_coca(COCA_SIZES["tiny"], [SHORT], mosaic_frames=4, mean=[0.5] * 3, std=[0.25] * 3, seed=0))
    monkeypatch.setattr(stage, "text_encoder_folder", lambda config, project: tmp_path / "coca")
    project = Project(tmp_path / "root", "films")
    shared = {"video": b"", "keep": True, "split": "train", "caption_by": "a person"}
    keys = [f"clip{number}" for number in range(len(captions))]
    tables.clips(project).append([{"clip_id": key, "caption": caption, **shared} for key, caption in zip(keys, captions, strict=True)])
    run = Run(load_config("test", ["encode.num_actors=0"]), project, None, None, unseen)
    assert stage._encode_texts(run, keys) == len(set(captions))
    assert [record.message for record in caplog.records if record.name == "kinora"] == said
    read = [embeds.shape[0] for embeds in tables.clips(project).read_tensor("text_embeds", keys)]
    assert max(read) <= 8
