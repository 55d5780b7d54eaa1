"""What cannot be had of a pretrained VAE is said in one sentence, before diffusers is asked."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from components.encode.load_vae import load_vae
from components.encode.pretrained_vae import PretrainedVaeError
from components.encode.pretrained_weights import take
from components.models.sizes import VAE_SIZES
from components.models.vae import VideoVae, save_vae
from components.models.weights import save_folder


def test_a_vae_of_our_own_is_read_as_one(tmp_path: Path) -> None:
    save_vae(tmp_path / "vae", VideoVae(VAE_SIZES["tiny"]), {})
    assert isinstance(load_vae(tmp_path / "vae"), VideoVae)


def a_folder(place: Path, name: str, weights: str) -> str:
    place.mkdir(exist_ok=True)
    (place / "config.json").write_text(json.dumps({"_class_name": name}))
    (place / weights).write_bytes(b"")
    return str(place)


def test_weights_that_are_not_safetensors_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        PretrainedVaeError, match=r"has diffusion_pytorch_model.bin and no safetensors, and nothing is unpickled here; hint: "
    ):
        take(a_folder(tmp_path, "AutoencoderKLWan", "diffusion_pytorch_model.bin"))


def test_a_codec_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        PretrainedVaeError, match=r"is an AutoencoderKL, which is no video VAE that can be used; there are AutoencoderKLWan, "
    ):
        take(a_folder(tmp_path, "AutoencoderKL", "model.safetensors"))


@pytest.mark.parametrize(("name", "hint"), [("", "has no config.json; hint: a folder"), ("nowhere", "is not there; hint: a folder")])
def test_a_place_without_a_vae_is_refused(name: str, hint: str, tmp_path: Path) -> None:
    with pytest.raises(PretrainedVaeError, match=hint):
        take(str(tmp_path / name))


def test_where_diffusers_is_missing_one_sentence_names_the_way_out(tmp_path: Path) -> None:
    """In a process whose importer refuses it, for a checkpoint of theirs and for a folder of ours that holds one."""
    folder = a_folder(tmp_path / "theirs", "AutoencoderKLWan", "model.safetensors")
    save_folder(tmp_path / "ours", {}, {"vae": {"codec": "AutoencoderKLWan", "config": {}}})
    script = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "diffusers":
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
from components.encode.load_vae import load_vae
from components.encode.pretrained_weights import take
for ask in (lambda: take({folder!r}), lambda: load_vae({str(tmp_path / "ours")!r})):
    try:
        ask()
    except ValueError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    said = "an AutoencoderKLWan needs diffusers, which is not installed; hint: `pip install 'diffusers>=0.42,<0.43'`"
    assert done.stdout.splitlines() == [said, said]
