"""The VAE's job on a real table: what it exports and reports, and the batches it draws."""

from pathlib import Path

import numpy as np
import pytest
import torch

from components.config import SettingsError, load_config
from components.media.read import decode_clip
from components.media.write import encode_clip
from components.models.pixels import to_frames, to_pixels
from components.models.vae import load_vae
from components.models.weights import load_json
from components.sections import Config
from components.store import tables
from components.store.project import Project
from components.train.context import TrainContext, read_metrics
from components.train.vae_batches import held_out, sample_of, training_clips, vae_batches
from components.train.vae_job import run
from components.world.render import render_clips


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A table of 14 clips to train on, one of them an image, 4 to measure by, and some that nobody may read."""
    frames, _ = render_clips("demo", 20, num_frames=5, height=16, width=16, seed=0)
    splits = ["train"] * 14 + ["val"] * 4 + ["test", "train"]
    project = Project(tmp_path_factory.mktemp("root"), "demo")
    rows = []
    for number, (clip, split) in enumerate(zip(frames, splits, strict=True)):
        shown = clip[:1] if number == 3 else clip
        rows.append(
            {
                "clip_id": f"clip{number:02d}", "video": encode_clip(shown, 8), "num_frames": len(shown), "height": 16, "width": 16,
                "split": split, "keep": number != 19,
            }
        )  # fmt: skip
    tables.clips(project).append(rows)
    return project


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config(
        "test", ["clip.num_frames=5", "clip.height=16", "clip.width=16", "vae.steps=4", "vae.checkpoint_every=2", "vae.sample_every=2"]
    )


def payload(config: Config, project: Project, folder: Path) -> dict[str, object]:
    return {
        "config": config.model_dump(mode="json"),
        "root": str(project.root),
        "project": project.name,
        "clips_version": None,
        "clips_lifted": [],
        "sheet": str(folder / "sheet.png"),
        "checkpoints": str(folder / "checkpoints"),
        "export": str(folder / "export"),
    }


def test_it_exports_a_vae_that_codes_and_reports_how_well(config: Config, project: Project, tmp_path: Path) -> None:
    run(payload(config, project, tmp_path), TrainContext.local(tmp_path))
    vae = load_vae(tmp_path / "export")
    clips = to_pixels(torch.cat([batch.frames for batch in held_out(project, 4)]))
    with torch.no_grad():
        latents = vae.encode(clips)
        assert (vae.decode(latents) - clips).square().mean() < 0.1
    assert 0.3 < float(latents.std()) < 3.0
    notes = load_json(tmp_path / "export", "vae")
    assert notes["latents_std"] == vae.latents_std.tolist()
    assert notes["clip"] == {"num_frames": 5, "height": 16, "width": 16, "fps": 8}
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")
    assert not list((tmp_path / "export").glob("*.png")), "a picture of footage is no part of a model"
    metrics = dict(read_metrics(tmp_path / "metrics.jsonl"))
    assert sorted(metrics) == [2, 4, 5]
    assert metrics[5]["val_psnr"] == pytest.approx(metrics[5]["val_pca_psnr"] + metrics[5]["val_psnr_gain"])
    assert notes["measured"] == metrics[5]


def test_its_samples_show_held_out_clips_beside_their_reconstructions(config: Config, project: Project, tmp_path: Path) -> None:
    run(payload(config, project, tmp_path), TrainContext.local(tmp_path))
    samples = tmp_path / "checkpoints" / "samples"
    assert sorted(path.name for path in samples.iterdir()) == [f"step_{n:06d}.{kind}" for n in (2, 4) for kind in ("mp4", "png")]
    clips = torch.cat([batch.frames for batch in held_out(project, 4)]).numpy()  # (4, 5, 16, 16, 3)
    shown = decode_clip((samples / "step_000004.mp4").read_bytes())  # (5, 4 * 16, 2 * 16, 3)
    assert shown.shape == (5, 64, 32, 3)
    inputs, made = (half.reshape(5, 4, 16, 16, 3).swapaxes(0, 1).astype(float) for half in np.split(shown, 2, axis=2))
    assert np.abs(inputs - clips).mean() < 12.0, "but for what the video's own code loses"
    vae = load_vae(tmp_path / "export")
    with torch.no_grad():
        expected = to_frames(vae.decode(vae.encode(to_pixels(torch.from_numpy(clips))))).numpy()
    assert np.abs(made - expected).mean() < 12.0
    assert np.abs(inputs - expected[[1, 2, 3, 0]]).mean() > 12.0


def test_a_perceptual_loss_without_weights_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"`vae.perceptual_loss_weight` 0.1 asks for `vae.perceptual_weights`, .* set it to 0"):
        load_config("test", ["vae.perceptual_loss_weight=0.1"])
    settings = load_config("test", ["vae.perceptual_loss_weight=0.1", f"vae.perceptual_weights={tmp_path / 'none.safetensors'}"])
    with pytest.raises(ValueError, match=r"`vae.perceptual_weights` = `.*none.safetensors` has no safetensors; hint: "):
        run(payload(settings, Project(tmp_path, "empty"), tmp_path), TrainContext.local(tmp_path))


def test_a_killed_job_ends_with_the_same_export(config: Config, project: Project, tmp_path: Path) -> None:
    run(payload(config, project, tmp_path / "whole"), TrainContext.local(tmp_path / "whole"))
    context = TrainContext.local(tmp_path / "torn")

    def killed(step: int, metrics: object) -> None:
        if step > 2:  # the checkpoint of step 2 stands
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(payload(config, project, tmp_path / "torn"), TrainContext(0, 1, "cpu", 1, killed, context.wrap))
    run(payload(config, project, tmp_path / "torn"), context)
    whole, torn = (load_vae(tmp_path / name / "export").state_dict() for name in ("whole", "torn"))
    assert all(torch.equal(whole[name], torn[name]) for name in whole)


def test_without_a_validation_split_nothing_is_measured(config: Config, tmp_path: Path) -> None:
    frames, _ = render_clips("demo", 4, num_frames=5, height=16, width=16, seed=0)
    project = Project(tmp_path, "small")
    shared = {"num_frames": 5, "height": 16, "width": 16, "split": "train", "keep": True}
    tables.clips(project).append([{"clip_id": f"{n}", "video": encode_clip(clip, 8), **shared} for n, clip in enumerate(frames)])
    run(payload(config, project, tmp_path), TrainContext.local(tmp_path))
    assert load_json(tmp_path / "export", "vae")["measured"] == {}
    assert not (tmp_path / "sheet.png").exists()


def test_nothing_to_train_on_is_said_in_one_sentence(config: Config, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no clip is left to train the video VAE on; hint: `kinora show funnel`"):
        run(payload(config, Project(tmp_path, "empty"), tmp_path), TrainContext.local(tmp_path))


def images(folder: Path, count: int = 6, videos: int = 0) -> Project:
    """A table of as many images to train on and to measure by, and of some videos."""
    frames, _ = render_clips("demo", 2 * count, num_frames=5, height=16, width=16, seed=0)
    project, shared = Project(folder, "images"), {"height": 16, "width": 16, "keep": True}
    rows = []
    for number, clip in enumerate(frames):
        shown = clip[: 5 if number < videos else 1]
        row = {"clip_id": f"clip{number:02d}", "video": encode_clip(shown, 8), "num_frames": len(shown)}
        rows.append(row | shared | {"split": "train" if number < count else "val"})
    tables.clips(project).append(rows)
    return project


def test_footage_of_images_alone_trains_a_vae_that_knows_still_clips(config: Config, tmp_path: Path) -> None:
    project = images(tmp_path)
    run(payload(config, project, tmp_path), TrainContext.local(tmp_path))
    vae = load_vae(tmp_path / "export")
    pictures = to_pixels(torch.cat([batch.frames for batch in held_out(project, 6)]))
    still = pictures.expand(-1, -1, 5, -1, -1)
    with torch.no_grad():
        for clips in (pictures, still):
            assert (vae.decode(vae.encode(clips)) - clips).square().mean() < 0.1
    assert dict(read_metrics(tmp_path / "metrics.jsonl"))[5]["val_psnr"] > 10.0


def test_a_sample_is_of_videos_unless_there_are_next_to_none(tmp_path: Path) -> None:
    few, none = (images(tmp_path / str(videos), 10, videos) for videos in (2, 1))
    assert [tuple(batch.frames.shape) for batch in sample_of(few, training_clips(few), 256)] == [(2, 5, 16, 16, 3)]
    assert [tuple(batch.frames.shape) for batch in sample_of(none, training_clips(none), 256)] == [(9, 1, 16, 16, 3)]


def test_clips_of_a_length_that_the_vae_does_not_encode_are_refused_before_a_step(project: Project, tmp_path: Path) -> None:
    other = load_config("test", ["clip.num_frames=7", "vae.size.temporal_compression_ratio=3", "clip.height=16", "clip.width=16"])
    with pytest.raises(ValueError, match="a clip of 5 frames does not fit; the nearest are 4 and 7"):
        run(payload(other, project, tmp_path), TrainContext.local(tmp_path))
    assert not (tmp_path / "checkpoints").exists()


def test_batches_hold_each_training_clip_once_an_epoch_and_no_other(project: Project) -> None:
    shapes = training_clips(project)
    assert {shape: len(ids) for shape, ids in shapes.items()} == {(5, 16, 16): 13, (1, 16, 16): 1}
    stream = vae_batches(project, shapes, batch_size=4, seed=0)(0)
    epoch = [next(stream) for _ in range(5)]
    seen = [name for batch in epoch for name in set(batch.clip_ids)]
    assert set(seen) == {f"clip{number:02d}" for number in range(14)}
    assert all(len(batch.frames) == len(batch.clip_ids) == 4 for batch in epoch)
    assert sorted(tuple(batch.frames.shape[1:]) for batch in epoch) == [(1, 16, 16, 3)] + [(5, 16, 16, 3)] * 4


def test_batches_from_a_later_step_are_those_of_the_whole_run(project: Project) -> None:
    shapes = training_clips(project)
    batches = vae_batches(project, shapes, batch_size=4, seed=0)
    stream, later = batches(0), batches(7)
    whole = [next(stream) for _ in range(12)]
    for expected in whole[7:]:
        batch = next(later)
        assert batch.clip_ids == expected.clip_ids
        assert torch.equal(batch.frames, expected.frames)


def test_workers_share_a_batch(project: Project) -> None:
    shapes = training_clips(project)
    together = next(vae_batches(project, shapes, 4, seed=1)(2))
    parts = [next(vae_batches(project, shapes, 4, 1, rank, 3)(2)) for rank in range(3)]
    assert sorted(name for part in parts for name in part.clip_ids) == sorted(together.clip_ids)
    assert [len(part.clip_ids) for part in parts] == [2, 1, 1]
    with pytest.raises(ValueError, match=r"`vae.batch_size` of 4 leaves some of 5 workers without a clip"):
        vae_batches(project, shapes, 4, 1, 0, 5)


def test_samples_are_spread_and_held_out_clips_are_the_validation_split_s(project: Project) -> None:
    sample = [name for batch in sample_of(project, training_clips(project), 6) for name in batch.clip_ids]
    assert sample == [f"clip{number:02d}" for number in (0, 2, 5, 7, 9, 11)]
    assert [name for batch in held_out(project, 3) for name in batch.clip_ids] == ["clip14", "clip15", "clip16"]
    frames, _ = render_clips("demo", 20, num_frames=5, height=16, width=16, seed=0)
    error = np.abs(held_out(project, 1)[0].frames[0].numpy().astype(float) - frames[14]).mean()
    assert error < 6.0
