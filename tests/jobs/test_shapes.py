"""A real mixed folder: films of several aspects and lengths and a picture become clips of few shapes, which every later stage takes."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from components.encode.latents import EncodeLatents
from components.ingest.shapes import Plan
from components.jobs import shapes
from components.jobs.measuring import conditions_of
from components.jobs.run import Run, unseen
from components.jobs.stage import run_stage
from components.media.read import decode_clip
from components.media.write import encode_png, write_video
from components.models.sizes import VAE_SIZES
from components.models.vae import VideoVae, save_vae
from components.openclip.mosaic import Mosaic, cells
from components.operations.freshness import assess
from components.operations.shapes import clip_shapes, recorded_plan
from components.store.project import Project
from components.store.tables import clips, videos
from components.train.vae_batches import held_out, training_clips, vae_batches
from components.train.views import draw_view, seen
from tests.operations.pipeline import settings

FILMS = {  # frames at 8 a second, height, width
    "wide-long": (40, 36, 64), "wide-short": (10, 72, 128), "tall": (31, 64, 36), "square": (22, 48, 48), "panorama": (26, 24, 96),
}  # fmt: skip
PLANNED = ("clip.num_frames=17", "clip.height=48", "clip.width=48", "caption.num_actors=0", "curate.val_share=0.3")
CONFIG = settings("clip.max_shapes=4", *PLANNED)


def film(num_frames: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Waves that slide, without a cut."""
    y, x = np.mgrid[:height, :width] / min(height, width)
    colours = np.random.default_rng([seed, height, width]).uniform(0, 6, 3)
    waves = [np.sin(4 * x[..., None] + 3 * y[..., None] + colours - 0.15 * t) for t in range(num_frames)]
    return (128 + 90 * np.stack(waves)).astype(np.uint8)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A project whose mixed folder was ingested and curated."""
    folder = tmp_path_factory.mktemp("mixed")
    for name, (num_frames, height, width) in FILMS.items():
        write_video(folder / f"{name}.mp4", film(num_frames, height, width), 8)
    (folder / "still.png").write_bytes(encode_png(film(1, 48, 64)[0]))
    found = Run(CONFIG, Project(tmp_path_factory.mktemp("runs"), "mixed"), folder, None, unseen)
    for stage in ("ingest", "curate"):
        run_stage(found, stage)
    return found


def test_every_file_becomes_clips_of_at_most_four_shapes_that_they_decode_to(run: Run) -> None:
    assert videos(run.project).count("status = 'accepted'") == len(FILMS) + 1
    table = clips(run.project)
    rows = {row["clip_id"]: row for row in table.read(["clip_id", "num_frames", "height", "width", "crop", "kind"])}
    planned = recorded_plan(run.project)
    assert planned is not None
    known = {(shape.num_frames, shape.height, shape.width) for shape in Plan.of(planned["plan"]).shapes.shapes}
    assert {(row["num_frames"], row["height"], row["width"]) for row in rows.values()} <= known
    assert 2 <= len(known) <= 4
    for key, blob in table.read_blobs("video", sorted(rows)):
        row = rows[key]
        assert decode_clip(blob).shape == (row["num_frames"], row["height"], row["width"], 3)
        assert row["crop"][2] * row["height"] == pytest.approx(row["crop"][3] * row["width"], rel=0.05)  # nothing is squeezed


def test_the_planned_loss_is_what_the_clips_lack_of_the_footage(run: Run) -> None:
    total = sum(num_frames * height * width for num_frames, height, width in FILMS.values()) + 48 * 64
    rows = clips(run.project).read(["num_frames", "crop"])
    kept = sum(row["num_frames"] * row["crop"][2] * row["crop"][3] for row in rows)
    planned = recorded_plan(run.project)
    assert planned is not None
    assert Plan.of(planned["plan"]).kept == pytest.approx(kept / total, abs=0.02)


def test_later_footage_is_cut_to_the_same_shapes(run: Run, tmp_path: Path) -> None:
    before = recorded_plan(run.project)
    assert run.source is not None
    write_video(run.source / "later.mp4", film(60, 90, 60, seed=1), 8)
    try:
        assert not assess("ingest", CONFIG, run.project, run.source).fresh
        run_stage(run, "ingest")
        assert recorded_plan(run.project) == before
        assert len(clip_shapes(CONFIG, run.project).shapes) <= 4
        later = [row["video_id"] for row in videos(run.project).read(["video_id", "uri", "num_clips"]) if row["uri"].endswith("later.mp4")]
        assert clips(run.project).count(f"video_id = '{later[0]}'") > 1
    finally:
        (run.source / "later.mp4").unlink()


@pytest.mark.parametrize("later", ["image", "video"])
def test_a_kind_that_comes_later_gets_a_shape_and_what_was_planned_stays(later: str, tmp_path: Path) -> None:
    folder = tmp_path / "footage"
    folder.mkdir()

    def add(kind: str) -> None:
        if kind == "image":
            (folder / "still.png").write_bytes(encode_png(film(1, 48, 64)[0]))
        else:
            for name in ("wide-short", "tall"):
                write_video(folder / f"{name}.mp4", film(*FILMS[name]), 8)

    found = Run(settings(*PLANNED, "clip.max_shapes=2"), Project(tmp_path / "runs", "later"), folder, None, unseen)
    add("video" if later == "image" else "image")
    run_stage(found, "ingest")
    first = recorded_plan(found.project)
    add(later)
    run_stage(found, "ingest")
    second = recorded_plan(found.project)
    assert first is not None
    assert second is not None
    assert not Plan.of(first["plan"]).shapes.of_kind(still=later == "image")
    assert set(Plan.of(first["plan"]).shapes.shapes) < set(Plan.of(second["plan"]).shapes.shapes)
    assert (second["maker"], second["files"]) == (first["maker"], 3)
    assert videos(found.project).count("status = 'accepted'") == 3
    assert clips(found.project).count(f"kind = '{later}'") > 0


def test_a_kind_that_is_not_among_the_files_looked_at_has_a_shape_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "LOOKED_AT", 1)
    folder = tmp_path / "footage"
    folder.mkdir()
    write_video(folder / "film.mp4", film(22, 48, 48), 8)
    (folder / "still.png").write_bytes(encode_png(film(1, 48, 64)[0]))
    found = Run(CONFIG, Project(tmp_path / "runs", "unseen"), folder, None, unseen)
    run_stage(found, "ingest")
    assert videos(found.project).count("status = 'accepted'") == 2


def test_every_later_stage_takes_clips_of_mixed_shapes(run: Run, tmp_path: Path) -> None:
    measured = clips(run.project).read(["kind", "motion", "luma"], "measured_by IS NOT NULL")
    assert len(measured) > len(FILMS)
    assert all(row["luma"] is not None and (row["motion"] is None) == (row["kind"] == "image") for row in measured)
    keys = clips(run.project).keys()
    rows = [{"clip_id": key, "video": blob} for key, blob in clips(run.project).read_blobs("video", keys)]
    assert {tuple(cells(decode_clip(row["video"]), Mosaic(4, 32, 8)).shape) for row in rows} == {(4, 3, 16, 16)}
    of_shape = training_clips(run.project)
    batches = vae_batches(run.project, of_shape, 2, seed=0)(0)
    for _, batch in zip(range(2 * len(of_shape)), batches, strict=False):
        view = draw_view(CONFIG.vae, batch.frames.shape[1:4], 2, 4, 8, torch.Generator().manual_seed(0))
        assert seen(batch.frames, view).shape[1] == 3
    assert all(batch.frames.ndim == 5 for batch in held_out(run.project, 8))
    save_vae(tmp_path / "vae", VideoVae(VAE_SIZES["tiny"]).eval(), {})
    encoded = {row["clip_id"]: row["latents_shape"] for row in EncodeLatents(tmp_path / "vae")(rows)}
    sizes = clips(run.project).read(["clip_id", "num_frames", "height", "width"])
    assert encoded == {row["clip_id"]: [16, 1 + (row["num_frames"] - 1) // 4, row["height"] // 8, row["width"] // 8] for row in sizes}


def test_tokens_of_each_shape_are_counted(run: Run) -> None:
    found = clip_shapes(CONFIG, run.project)
    for shape in found.shapes:
        latents = 1 + (shape.num_frames - 1) // 4, shape.height // 8, shape.width // 8
        assert shape.tokens == latents[0] * -(-latents[1] // 2) * -(-latents[2] // 2)
    assert sum(shape.clips for shape in found.shapes) == clips(run.project).count()
    tokens = [shape.tokens for shape in found.shapes for _ in range(shape.clips) if shape.tokens]
    assert found.padding_to_largest == pytest.approx(1 - sum(tokens) / (max(tokens) * len(tokens)))
    assert (found.padding, found.side_multiple) == (0.0, None)


def test_models_are_measured_on_clips_of_the_shape_that_most_have(run: Run) -> None:
    table = clips(run.project)
    rows = table.read(["clip_id", "num_frames", "height", "width", "video_id"], "keep = true")
    for split in ("train", "val"):  # half of the clips of each film
        table.update([{"clip_id": row["clip_id"], "split": split} for row in rows[split == "val" :: 2]])
    held_out = Counter((row["num_frames"], row["height"], row["width"]) for row in rows[1::2] if row["num_frames"] > 1)
    conditions = conditions_of(run)
    shape = conditions.clip.num_frames, conditions.clip.height, conditions.clip.width
    assert held_out[shape] == max(held_out.values())
    assert {frames.shape for frames in conditions.real.frames} == {(*shape, 3)}
    assert {row["clip_id"] for row in conditions.real.rows} <= {row["clip_id"] for row in rows[1::2]}
