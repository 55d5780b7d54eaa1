"""A VAE of diffusers goes the whole road: taken or trained further, its latents cached, a transformer trained on them, videos made."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from components.caption.upsample import build_style
from components.config import load_config
from components.encode.latents import EncodeLatents
from components.encode.licences import LicenceError
from components.encode.load_vae import load_vae
from components.encode.text import EncodeText
from components.generate.generator import Generator
from components.jobs.pretrained_vae import run
from components.media.write import encode_clip
from components.models.pixels import to_pixels
from components.models.sizes import COCA_SIZES
from components.models.weights import digest_folder, load_json
from components.openclip.load import build_coca, save_coca
from components.store import tables
from components.store.project import Project
from components.train.context import TrainContext, read_metrics
from components.train.dit_job import run as train_dit
from components.train.vae_batches import held_out
from components.world.render import render_clips
from tests.encode.test_pretrained_vae import WAN

pytestmark = pytest.mark.slow  # to import diffusers takes longer than all that is tested here

SHAPE = ["clip.num_frames=5", "clip.height=16", "clip.width=16"]
FURTHER = [*SHAPE, "vae.finetune=true", "vae.crop_size=16", "vae.steps=4", "vae.checkpoint_every=2", "vae.report_every=1"]


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a tiny Wan VAE that diffusers saved, with a model card."""
    import diffusers

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("wan") / "tiny-wan"
    diffusers.AutoencoderKLWan(**WAN).save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    return str(folder)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A table of 8 captioned clips to train on and 4 to measure by."""
    frames, _ = render_clips("demo", 12, num_frames=5, height=16, width=16, seed=0)
    project = Project(tmp_path_factory.mktemp("root"), "demo")
    shared = {"num_frames": 5, "fps": "8", "height": 16, "width": 16, "keep": True, "caption": "a red square moves left"}
    splits = ["train"] * 8 + ["val"] * 4
    rows = [
        {"clip_id": f"clip{number:02d}", "video": encode_clip(clip, 8), "split": split, **shared}
        for number, (clip, split) in enumerate(zip(frames, splits, strict=True))
    ]
    tables.clips(project).append(rows)
    return project


def payload(source: str, settings: list[str], project: Project, folder: Path) -> dict[str, Any]:
    return {
        "config": load_config("test", [f"vae.pretrained={source}", *settings]).model_dump(mode="json"),
        "source": source,
        "root": str(project.root),
        "project": project.name,
        "clips_version": None,
        "clips_lifted": [],
        "sheet": str(folder / "sheet.png"),
        "checkpoints": str(folder / "checkpoints"),
        "export": str(folder / "export"),
    }


def test_it_is_taken_as_it_is_measured_and_kept(wan: str, project: Project, tmp_path: Path) -> None:
    run(payload(wan, SHAPE, project, tmp_path), TrainContext.local(tmp_path))
    vae = load_vae(tmp_path / "export")
    clips = to_pixels(torch.cat([batch.frames for batch in held_out(project, 4)]))
    with torch.no_grad():
        error = (vae.decode(vae.encode(clips)).clamp(-1, 1) - clips).square().flatten(1).mean(1)
    ((step, metrics),) = read_metrics(tmp_path / "metrics.jsonl")
    assert (step, sorted(metrics)) == (1, ["val_psnr"])
    assert metrics["val_psnr"] == pytest.approx(float((10 * torch.log10(4 / error)).mean()), rel=1e-5)
    assert vae.latents_mean.tolist() == pytest.approx(WAN["latents_mean"])
    assert load_json(tmp_path / "export", "vae")["origin"] == {"name": "tiny-wan", "licence": "apache-2.0"}
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")
    other = [*SHAPE, "vae.steps=7", "vae.seed=3"]
    run(payload(wan, other, project, tmp_path / "again"), TrainContext.local(tmp_path / "again"))
    assert digest_folder(tmp_path / "again" / "export") == digest_folder(tmp_path / "export"), "its latents stay fresh"


def test_trained_further_it_gets_better_and_a_killed_training_ends_with_the_same_bits(wan: str, project: Project, tmp_path: Path) -> None:
    run(payload(wan, FURTHER, project, tmp_path / "whole"), TrainContext.local(tmp_path / "whole"))
    metrics = dict(read_metrics(tmp_path / "whole" / "metrics.jsonl"))
    assert metrics[5]["val_psnr"] > metrics[5]["val_pretrained_psnr"] + 0.5
    assert "val_psnr_gain" not in metrics[5], "that is above a PCA, which it did not begin with"
    context = TrainContext.local(tmp_path / "torn")

    def killed(step: int, told: object) -> None:
        if step > 2:  # the checkpoint of step 2 stands
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(payload(wan, FURTHER, project, tmp_path / "torn"), TrainContext(0, 1, "cpu", 1, killed, context.wrap))
    run(payload(wan, FURTHER, project, tmp_path / "torn"), context)
    whole, torn = (load_vae(tmp_path / name / "export").state_dict() for name in ("whole", "torn"))
    assert all(torch.equal(whole[name], torn[name]) for name in whole)
    vae = load_vae(tmp_path / "whole" / "export")
    with torch.no_grad():
        latents = vae.encode(to_pixels(torch.cat([batch.frames for batch in held_out(project, 4)])))
    assert 0.3 < float(latents.std()) < 3.0, "other weights make other latents, so their normalisation is fitted anew"


def test_what_cannot_be_is_said_before_anything_is_trained(wan: str, project: Project, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "diffusion_pytorch_model.safetensors"):
        (bare / name).write_bytes((Path(wan) / name).read_bytes())
    context = TrainContext.local(tmp_path)
    with pytest.raises(LicenceError, match=r"bare` says nothing of its licence; hint: read it, and `--set vae\.licence_checked=true`"):
        run(payload(str(bare), FURTHER, project, tmp_path), context)
    with pytest.raises(ValueError, match=r"`vae\.crop_size` must be a multiple of 8 for this VAE, not 20; the nearest is 16"):
        run(payload(wan, [*FURTHER, "vae.crop_size=20"], project, tmp_path), context)
    others = Project(tmp_path, "others")
    shared = {"num_frames": 4, "height": 16, "width": 16, "keep": True, "split": "train"}
    tables.clips(others).append([{"clip_id": "a", "video": encode_clip(np.zeros((4, 16, 16, 3), np.uint8), 8), **shared}])
    with pytest.raises(ValueError, match=r"a clip of 4 frames does not fit; the nearest are 1 and 5; hint: `clip\.num_frames`"):
        run(payload(wan, SHAPE, others, tmp_path), context)


def test_a_transformer_learns_on_its_latents_and_makes_videos(wan: str, project: Project, tmp_path: Path) -> None:
    given = payload(wan, [*SHAPE, "dit.steps=2", "dit.sample_every=1000"], project, tmp_path)
    run(given, TrainContext.local(tmp_path))
    coca = build_coca(COCA_SIZES["tiny"], ["a red square moves left"], mosaic_frames=4, mean=[0.5] * 3, std=[0.25] * 3, seed=0)
    save_coca(tmp_path / "coca", coca)
    clips = tables.clips(project)
    keys = clips.keys("keep")
    rows = [{"clip_id": key, "video": video, "caption": "a red square moves left"} for key, video in clips.read_blobs("video", keys)]
    for stage in (EncodeLatents(tmp_path / "export"), EncodeText(tmp_path / "coca")):
        clips.update(stage(rows))
    assert clips.read_tensor("latents", keys)[0].shape == (4, 2, 2, 2)
    parts = {"video_vae": str(tmp_path / "export"), "text_encoder": str(tmp_path / "coca")}
    style = build_style(["a red square moves left"])
    train_dit({**given, **parts, "style": style, "export": str(tmp_path / "model")}, TrainContext.local(tmp_path / "dit"))
    (sample,) = Generator.load(tmp_path / "model").generate(["a red square moves left"], [0], num_inference_steps=2)
    assert sample.frames.shape == (5, 16, 16, 3)
    with pytest.raises(ValueError, match="never saw clips of 7 frames at 16x16, only clips of 1 and 5 frames; hint: `--num-frames 5`"):
        Generator.load(tmp_path / "model").generate(["a red square moves left"], [0], num_frames=7)
    tuned = {**given["config"], "dit": {**given["config"]["dit"], "finetune": "champion", "lora_rank": 2}}
    further = {**given, **parts, "style": style, "config": tuned, "base": str(tmp_path / "model"), "export": str(tmp_path / "tuned")}
    train_dit({**further, "checkpoints": str(tmp_path / "further")}, TrainContext.local(tmp_path / "further"))
    assert Generator.load(tmp_path / "tuned").generate(["a red square moves left"], [0], num_inference_steps=2)[0].frames.shape[0] == 5
