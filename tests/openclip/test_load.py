import json
import shutil

import pytest
import torch

from components.models.weights import DamagedFolderError
from components.openclip.load import CaptionerError, build_coca, load_coca, save_coca, source_digest
from components.openclip.mosaic import Mosaic
from tests.openclip.conftest import CAPTIONS, LITTLE


@pytest.fixture
def inputs(little_coca):
    return torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(0)), little_coca.tokenizer(CAPTIONS[:2])


def test_a_saved_folder_loads_with_stock_open_clip_and_gives_the_same_numbers(tmp_path, little_coca, inputs):
    import open_clip

    save_coca(tmp_path / "coca", little_coca)
    stock, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'coca'}")
    with torch.no_grad():
        ours, theirs = little_coca.model(*inputs), stock.eval()(*inputs)
    assert isinstance(stock, open_clip.CoCa)
    for name in ("image_features", "text_features", "logits"):
        assert torch.equal(ours[name], theirs[name]), name
    assert tuple(preprocess.transforms[-1].mean) == little_coca.mean


def test_a_saved_folder_loads_as_it_was(tmp_path, little_coca, inputs):
    digest = save_coca(tmp_path / "coca", little_coca)
    again = load_coca(tmp_path / "coca")
    assert source_digest(tmp_path / "coca") == digest
    assert again.mosaic == little_coca.mosaic
    assert (again.origin, again.max_tokens, again.config) == ("trained", little_coca.max_tokens, little_coca.config)
    assert torch.equal(again.tokenizer(CAPTIONS), little_coca.tokenizer(CAPTIONS))
    with torch.no_grad():
        assert torch.equal(again.model(*inputs)["logits"], little_coca.model(*inputs)["logits"])


def test_any_local_dir_folder_is_a_pretrained_captioner_of_single_pictures(tmp_path, little_coca, inputs):
    save_coca(tmp_path / "ours", little_coca)
    plain = tmp_path / "plain"
    plain.mkdir()
    for name in ("open_clip_config.json", "open_clip_model.safetensors"):
        shutil.copy(tmp_path / "ours" / name, plain / name)
    coca = load_coca(plain)
    assert coca.origin == "pretrained"
    assert coca.mosaic == Mosaic(frames=1, image_size=24, tile=24)
    assert coca.mean == little_coca.mean
    with torch.no_grad():
        assert torch.equal(coca.model(*inputs)["logits"], little_coca.model(*inputs)["logits"])


def test_the_same_seed_builds_the_same_weights_and_leaves_the_world_s_chance_alone(little_coca):
    before = torch.random.get_rng_state()
    again = build_coca(LITTLE, CAPTIONS, mosaic_frames=4, mean=(0.3, 0.3, 0.3), std=(0.2, 0.2, 0.2), seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)
    ours, theirs = little_coca.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_damaged_folder_is_refused(tmp_path, little_coca):
    save_coca(tmp_path / "coca", little_coca)
    with (tmp_path / "coca" / "open_clip_model.safetensors").open("r+b") as handle:
        handle.seek(-1, 2)
        handle.write(b"\x7f")
    with pytest.raises(DamagedFolderError, match="not the file that was written"):
        load_coca(tmp_path / "coca")


def test_what_is_no_captioner_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(CaptionerError, match="hint: a folder"):
        load_coca(tmp_path / "nowhere")
    with pytest.raises(CaptionerError, match=r"open_clip_config\.json"):
        load_coca(tmp_path)
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"embed_dim": 8, "vision_cfg": {}, "text_cfg": {}}}))
    with pytest.raises(CaptionerError, match="without a caption decoder"):
        load_coca(tmp_path)


@pytest.mark.logs_errors
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("coca_ViT-B-33:laion2b_s13b_b90k", "did you mean `coca_ViT-B-32`"),
        ("ViT-B-32:openai", "not a CoCa"),
        ("coca_ViT-B-32:laion", "did you mean `laion2b_s13b_b90k`"),
    ],
)
def test_a_name_that_open_clip_does_not_have_is_answered_with_the_nearest(name, said):
    with pytest.raises(CaptionerError, match=said):
        load_coca(name)


@pytest.mark.logs_errors
def test_weights_that_cannot_be_fetched_are_answered_with_a_way_out(monkeypatch):
    import open_clip

    def offline(*_, **__):
        raise RuntimeError("Failed to download weights for tag 'laion2b_s13b_b90k': offline\nlong story")

    monkeypatch.setattr(open_clip, "create_model", offline)
    with pytest.raises(CaptionerError, match=r"cannot be fetched .*offline.*hint: run once with a network"):
        load_coca("coca_ViT-B-32:laion2b_s13b_b90k")
