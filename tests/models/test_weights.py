import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from components.models.weights import (
    LINKED_BYTES,
    DamagedFolderError,
    copy_folder,
    digest_folder,
    load_json,
    load_tensors,
    save_folder,
    verify_folder,
)


def saved(folder: Path, value: float = 1.0) -> str:
    return save_folder(folder, {"vae": {"weight": torch.full((5,), value)}}, {"vae": {"latent_channels": 16}})


def test_a_folder_comes_back_as_it_was_saved(tmp_path: Path):
    saved(tmp_path / "vae")
    assert torch.equal(load_tensors(tmp_path / "vae", "vae")["weight"], torch.ones(5))
    assert load_json(tmp_path / "vae", "vae") == {"latent_channels": 16}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vae"]


def test_the_digest_is_of_the_content_not_of_the_place(tmp_path: Path):
    assert saved(tmp_path / "a") == saved(tmp_path / "b" / "c") != saved(tmp_path / "d", 2.0)
    assert digest_folder(tmp_path / "a") == saved(tmp_path / "a")


def test_a_folder_takes_the_place_of_an_older_one_whole(tmp_path: Path):
    save_folder(tmp_path / "vae", {"old": {"x": torch.ones(1)}}, {})
    saved(tmp_path / "vae")
    assert sorted(path.name for path in (tmp_path / "vae").iterdir()) == ["manifest.json", "vae.json", "vae.safetensors"]


def test_a_failed_save_leaves_the_old_folder_and_no_rest(tmp_path: Path):
    before = saved(tmp_path / "vae")
    with pytest.raises(TypeError):
        save_folder(tmp_path / "vae", {}, {"vae": object()})
    assert digest_folder(tmp_path / "vae") == before
    assert [path.name for path in tmp_path.iterdir()] == ["vae"]


def test_folders_and_files_travel_inside(tmp_path: Path):
    saved(tmp_path / "vae")
    (tmp_path / "words.txt").write_text("red\n")
    save_folder(
        tmp_path / "t2v",
        {"dit": {"w": torch.zeros(2)}},
        {"dit": {}},
        folders={"video-vae": tmp_path / "vae"},
        files={"words.txt": tmp_path / "words.txt"},
    )
    verify_folder(tmp_path / "t2v")
    assert digest_folder(tmp_path / "t2v" / "video-vae") == digest_folder(tmp_path / "vae")
    (tmp_path / "t2v" / "video-vae" / "vae.json").write_text("{}")
    with pytest.raises(DamagedFolderError, match="is not the file that was written"):
        verify_folder(tmp_path / "t2v")


def test_a_large_file_of_a_part_lies_on_the_disk_once(tmp_path: Path):
    """As a text encoder of billions of weights does, which each checkpoint's samples and each model are exported with."""
    large, small = torch.zeros(LINKED_BYTES // 4), torch.zeros(2)
    save_folder(tmp_path / "encoder", {"large": {"w": large}, "small": {"w": small}}, {})
    save_folder(tmp_path / "t2v", {}, {}, folders={"text-encoder": tmp_path / "encoder"})
    names = {name: (tmp_path / "t2v" / "text-encoder" / f"{name}.safetensors").stat().st_nlink for name in ("large", "small")}
    assert names == {"large": 2, "small": 1}
    shutil.rmtree(tmp_path / "encoder")
    verify_folder(tmp_path / "t2v" / "text-encoder")


@pytest.mark.parametrize("damage", ["cut", "flip", "gone", "unlisted"])
def test_a_damaged_file_is_never_loaded(tmp_path: Path, damage: str):
    saved(tmp_path / "vae")
    path = tmp_path / "vae" / "vae.safetensors"
    match damage:
        case "cut":
            os.truncate(path, 10)
        case "flip":
            blob = bytearray(path.read_bytes())
            blob[-1] ^= 128
            path.write_bytes(blob)
        case "gone":
            path.unlink()
        case "unlisted":
            listed = json.loads((tmp_path / "vae" / "manifest.json").read_text())
            del listed["files"]["vae.safetensors"]
            (tmp_path / "vae" / "manifest.json").write_text(json.dumps(listed))
    with pytest.raises(DamagedFolderError):
        load_tensors(tmp_path / "vae", "vae")


def test_a_folder_without_a_manifest_was_never_finished(tmp_path: Path):
    (tmp_path / "vae").mkdir()
    with pytest.raises(DamagedFolderError, match="never finished"):
        digest_folder(tmp_path / "vae")


def test_a_copy_differs_in_the_notes_that_are_told_and_in_nothing_else(tmp_path):
    save_folder(tmp_path / "inner", {}, {"vae": [1]})
    before = save_folder(tmp_path / "one", {"dit": {"a": torch.ones(2)}}, {"dit": {"x": 1}}, folders={"vae": tmp_path / "inner"})
    after = copy_folder(tmp_path / "one", tmp_path / "two", {"dit": {"x": 2}})
    assert before != after == digest_folder(tmp_path / "two")
    verify_folder(tmp_path / "two")
    assert load_json(tmp_path / "two", "dit") == {"x": 2}
    assert digest_folder(tmp_path / "two" / "vae") == digest_folder(tmp_path / "inner")
    assert torch.equal(load_tensors(tmp_path / "two", "dit")["a"], torch.ones(2))
