"""Weights are trained further only where their licence clearly allows it, or a person says that it does."""

from pathlib import Path

import pytest

from components.encode.licences import LicenceError, check_may_change, licence_of


@pytest.mark.parametrize(
    ("source", "licence"),
    [
        ("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "apache-2.0"),
        ("zai-org/CogVideoX-2b", "apache-2.0"),
        ("THUDM/CogVideoX-5b", "the CogVideoX licence"),
        ("hunyuanvideo-community/HunyuanVideo", "the Tencent Hunyuan community licence"),
        ("somebody/video-vae", None),
    ],
)
def test_the_licence_of_an_id_is_known_for_the_families_that_are_supported(source: str, licence: str | None) -> None:
    assert licence_of(source) == licence


@pytest.mark.parametrize(
    ("head", "licence"),
    [
        ("license: mit\nlanguage: en", "mit"),
        ('license: "apache-2.0"', "apache-2.0"),
        ("license: other\nlicense_name: tencent-hunyuan-community", "tencent-hunyuan-community"),
        ("license: other", "other"),
        ("language: en", None),
    ],
)
def test_a_folder_is_under_the_licence_of_its_model_card(head: str, licence: str | None, tmp_path: Path) -> None:
    (tmp_path / "vae").mkdir()
    (tmp_path / "README.md").write_text(f"---\n{head}\n---\n# A VAE\nlicense: mit\n")
    assert licence_of(str(tmp_path)) == licence_of(str(tmp_path / "vae")) == licence


def test_conditions_are_a_person_s_to_check(tmp_path: Path) -> None:
    check_may_change("Wan-AI/Wan2.1-T2V-14B-Diffusers", checked=False)
    with pytest.raises(
        LicenceError, match=r"the LTX-Video licence, which has conditions; hint: read it, and `--set vae\.licence_checked=true`"
    ):
        check_may_change("Lightricks/LTX-Video", checked=False)
    with pytest.raises(LicenceError, match=f"`{tmp_path}` says nothing of its licence"):
        check_may_change(str(tmp_path), checked=False)
    check_may_change(str(tmp_path), checked=True)
