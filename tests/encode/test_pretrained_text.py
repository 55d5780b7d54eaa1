"""T5 and UMT5 of transformers go the whole road: taken, kept, their embeddings cached, a transformer trained on them, videos made."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from components.caption.upsample import build_style
from components.config import load_config
from components.encode.pretrained_text import PretrainedTextError, load_pretrained_text, save_pretrained_text, take
from components.encode.text import EncodeText, load_text_encoder
from components.generate.contract import MismatchedModelError
from components.generate.generator import Generator
from components.jobs.encode import encode
from components.jobs.run import Run, unseen
from components.models.sizes import VAE_SIZES
from components.models.vae import VideoVae, save_vae
from components.models.weights import load_json
from components.operations.freshness import assess, latents_maker, text_encoder_folder
from components.store import tables
from components.store.project import Project
from components.train.context import TrainContext
from components.train.dit_job import run as train_dit

CAPTIONS = ["a red square moves left over a striped background", "a blue ring moves up"]
SHAPE = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
KINDS = {"t5": "T5ForConditionalGeneration", "umt5": "UMT5EncoderModel"}  # of which the first has a decoder that nobody needs


def tokenizer() -> Any:
    """A T5 tokenizer whose pieces were learned from the captions."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import T5Tokenizer

    learner = Tokenizer(models.Unigram())
    learner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    marks = ["<pad>", "</s>", "<unk>"]
    learner.train_from_iterator(CAPTIONS, trainers.UnigramTrainer(vocab_size=80, special_tokens=marks, unk_token="<unk>"))
    pieces = [name for name, _ in sorted(learner.get_vocab().items(), key=lambda item: item[1])]
    return T5Tokenizer(vocab=[(piece, -float(place)) for place, piece in enumerate(pieces)], extra_ids=0)


def checkpoint(place: Path, family: str, seed: int = 0) -> Path:
    """A folder as transformers saves it."""
    import transformers

    torch.manual_seed(seed)
    words = tokenizer()
    kind = getattr(transformers, KINDS[family])
    kind(kind.config_class(vocab_size=len(words), **SHAPE)).save_pretrained(place)
    words.save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {family: checkpoint(tmp_path_factory.mktemp(family) / f"tiny-{family}", family) for family in KINDS}


@pytest.mark.slow  # to import transformers takes longer than all that is tested here
@pytest.mark.parametrize("family", KINDS)
def test_it_encodes_as_transformers_does_text_by_text(folders: dict[str, Path], family: str) -> None:
    import transformers

    encoder = take(str(folders[family]), 64, "float32")
    stock = getattr(transformers, {"t5": "T5EncoderModel", "umt5": "UMT5EncoderModel"}[family]).from_pretrained(folders[family]).eval()
    words = transformers.AutoTokenizer.from_pretrained(folders[family])
    texts = [*CAPTIONS, ""]
    embeds, mask = encoder(texts)
    assert embeds.shape[2] == encoder.width == 32
    for text, found, kept in zip(texts, embeds, mask, strict=True):
        with torch.no_grad():
            expected = stock(**words(text, return_tensors="pt")).last_hidden_state[0]
        torch.testing.assert_close(found[kept], expected, atol=1e-5, rtol=1e-5)
        assert not found[~kept].any()
    assert mask[2].sum() == 1, "the empty prompt is its end mark"
    assert encoder.cut(CAPTIONS[0]) == (CAPTIONS[0], "")
    short = take(str(folders[family]), 8, "float32")
    heard, left_out = short.cut(CAPTIONS[0])
    assert CAPTIONS[0] in (heard + left_out, f"{heard} {left_out}")
    assert left_out
    torch.testing.assert_close(short([heard])[0], short([CAPTIONS[0]])[0], atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("family", KINDS)
def test_what_is_kept_encodes_the_same_without_the_checkpoint(folders: dict[str, Path], family: str, tmp_path: Path) -> None:
    shutil.copytree(folders[family], tmp_path / "source")
    taken = take(str(tmp_path / "source"), 64, "float32")
    digest = save_pretrained_text(tmp_path / "kept", taken, {})
    assert save_pretrained_text(tmp_path / "again", take(str(folders[family]), 64, "float32"), {}) == digest
    shutil.rmtree(tmp_path / "source")
    kept = load_text_encoder(tmp_path / "kept")
    assert all(torch.equal(one, other) for one, other in zip(kept(CAPTIONS), taken(CAPTIONS), strict=True))
    for settings in ((64, "bfloat16"), (16, "float32")):
        assert save_pretrained_text(tmp_path / "other", take(str(folders[family]), *settings), {}) != digest
    half = load_pretrained_text(tmp_path / "other").model
    assert {value.dtype for value in half.state_dict().values()} == {torch.float32}


@pytest.mark.slow
def test_a_text_that_is_too_long_keeps_its_end_mark(folders: dict[str, Path]) -> None:
    encoder = take(str(folders["t5"]), 6, "bfloat16")
    embeds, mask = encoder([" ".join(CAPTIONS), ""])
    assert mask.sum(1).tolist() == [6, 1]
    assert embeds.dtype == torch.float32
    assert encoder.tokenizer.encode(" ".join(CAPTIONS)).tokens[-1] == "</s>"


@pytest.mark.slow
def test_it_is_found_below_a_pipeline_of_diffusers(folders: dict[str, Path], tmp_path: Path) -> None:
    """As Wan keeps it, and as models do that have a CLIP beside it."""
    for below, apart in (("text_encoder", "tokenizer"), ("text_encoder_2", "tokenizer_2")):
        place = tmp_path / below
        shutil.copytree(folders["umt5"], place / below, ignore=shutil.ignore_patterns("token*"))
        shutil.copytree(folders["umt5"], place / apart, ignore=shutil.ignore_patterns("model*", "config.json"))
        if below.endswith("2"):
            (place / "text_encoder").mkdir()
            (place / "text_encoder" / "config.json").write_text('{"model_type": "clip_text_model"}')
        found, expected = take(str(place), 64, "float32")(CAPTIONS), take(str(folders["umt5"]), 64, "float32")(CAPTIONS)
        assert torch.equal(found[0], expected[0])


@pytest.mark.slow
def test_what_cannot_be_taken_is_said_in_one_sentence(folders: dict[str, Path], tmp_path: Path) -> None:
    other, bare, pickled, wordless, cut = (tmp_path / name for name in ("other", "bare", "pickled", "wordless", "cut"))
    for place in (other, bare):
        place.mkdir()
    (other / "config.json").write_text('{"model_type": "bert"}')
    for place, left_out in ((pickled, "model*"), (wordless, "token*"), (cut, "nothing")):
        shutil.copytree(folders["t5"], place, ignore=shutil.ignore_patterns(left_out))
    (pickled / "pytorch_model.bin").write_bytes(b"")
    config = (cut / "config.json").read_text()
    (cut / "config.json").write_text(config.replace('"num_layers": 2', '"num_layers": 3'))
    for place, message in (
        (other, "is a bert, which is no text encoder that can be used; there are t5, mt5, umt5"),
        (bare, "has no config.json; hint: a folder as transformers saves it"),
        (pickled, "has pytorch_model.bin and no safetensors, and nothing is unpickled here; hint: "),
        (wordless, "has no tokenizer that can be used"),
        (cut, r"are not of the shape of its config.json \(`encoder.block.2"),
        (tmp_path / "nowhere", "is not there; hint: a folder as transformers saves it, or an id of the hub"),
    ):
        with pytest.raises(PretrainedTextError, match=message):
            take(str(place), 64, "float32")


def test_where_transformers_is_missing_one_sentence_names_the_way_out(tmp_path: Path) -> None:
    """In a process whose importer refuses it, for a checkpoint of theirs and for a folder of ours that holds one."""
    (tmp_path / "text_encoder.json").write_text("{}")
    script = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "transformers":
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
from components.encode.pretrained_text import take
from components.encode.text import load_text_encoder
for ask in (lambda: take({str(tmp_path)!r}, 64, "float32"), lambda: load_text_encoder({str(tmp_path)!r})):
    try:
        ask()
    except ValueError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    wanted = "`pip install 'transformers>=5.24,<6' 'sentencepiece>=0.2'`"
    assert done.stdout.splitlines() == [f"a T5 text encoder needs transformers, which is not installed; hint: {wanted}"] * 2


@pytest.mark.slow
def test_a_transformer_learns_by_it_and_makes_videos_with_it_alone(folders: dict[str, Path], tmp_path: Path) -> None:
    chosen = [f"text_encoder.pretrained={folders['umt5']}", "text_encoder.dtype=float32"]
    config = load_config("test", [*chosen, "encode.num_actors=0", "dit.steps=2", "dit.sample_every=1000"])
    project = Project(tmp_path / "root", "films")
    clips = tables.clips(project)
    latents = np.random.default_rng(0).standard_normal((16, 3, 4, 4)).astype(np.float16)
    made = {"latents": latents, "latents_shape": list(latents.shape), "latents_by": latents_maker(config, project)}
    shared = {"num_frames": 9, "fps": "8", "height": 32, "width": 32, "keep": True, "split": "train", "caption_by": "a person", **made}
    clips.append([{"clip_id": f"clip{number}", "video": b"", "caption": CAPTIONS[number % 2], **shared} for number in range(8)])
    run = Run(config, project, None, None, unseen)
    assert encode(run, assess("encode", config, project))["summary"] == "0 clips and 2 captions encoded"
    folder = text_encoder_folder(config, project)
    assert folder is not None
    assert load_json(folder, "text_encoder")["origin"] == {"name": "tiny-umt5"}
    assert not any(assess("encode", config, project).stale.values())
    shutil.rmtree(folder)
    assert encode(run, assess("encode", config, project))["summary"] == "0 clips and 0 captions encoded", "it was the same one"

    save_vae(tmp_path / "vae", VideoVae(VAE_SIZES["tiny"]), {})
    payload = {
        "config": config.model_dump(mode="json"),
        "root": str(project.root),
        "project": project.name,
        "clips_version": None,
        "clips_lifted": [],
        "checkpoints": str(tmp_path / "checkpoints"),
        "export": str(tmp_path / "model"),
        "video_vae": str(tmp_path / "vae"),
        "text_encoder": str(folder),
        "style": build_style(CAPTIONS),
    }
    train_dit(payload, TrainContext.local(tmp_path))
    generator = Generator.load(tmp_path / "model")
    (sample,) = generator.generate([CAPTIONS[0]], [0], num_inference_steps=2)
    assert sample.frames.shape == (9, 32, 32, 3)

    other = checkpoint(tmp_path / "tiny-umt5", "umt5", seed=1)
    save_pretrained_text(tmp_path / "model" / "text-encoder", take(str(other), 256, "float32"), {})
    with pytest.raises(MismatchedModelError, match="`text_encoder` is not what the diffusion transformer was trained with"):
        Generator.load(tmp_path / "model")


def test_the_empty_prompt_is_what_the_encoder_says_of_no_words(tmp_path: Path) -> None:
    """Of a captioner, whose folder does not keep it."""
    from components.models.sizes import COCA_SIZES
    from components.openclip.load import build_coca, save_coca
    from components.train.dit_job import _empty_prompt

    save_coca(tmp_path, build_coca(COCA_SIZES["tiny"], CAPTIONS, mosaic_frames=4, mean=[0.5] * 3, std=[0.25] * 3, seed=0))
    np.testing.assert_array_equal(_empty_prompt(tmp_path).numpy(), EncodeText(tmp_path).encode([""])[0].astype(np.float32))
