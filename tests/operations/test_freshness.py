"""What is stale after a change, and that nothing else is."""

import shutil
from pathlib import Path

import pytest

from components.ingest.sources import list_sources
from components.operations.freshness import assess, stage_maker, stage_settings, training_key, weights_of
from components.operations.readings import pin_reading
from components.stages import STAGES, maker
from components.store import readings, tables
from components.store.filters import TRAINING
from tests.operations.pipeline import Pipeline, settings

ONE_SHAPE = ("num_frames", "height", "width", "fps", "max_clips_per_scene", "max_clips_per_video", "crf")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a project of 20 labelled and 20 unlabelled training clips and some held out, all stages finished."""
    pipeline = Pipeline(tmp_path_factory.mktemp("finished"))
    pipeline.add_clips(*range(20), label="a red ball")
    pipeline.add_clips(*range(20, 40))
    pipeline.add_clips(*range(40, 45), split="val")
    pipeline.run()
    return pipeline.project.root


@pytest.fixture
def done(finished: Path, tmp_path: Path) -> Pipeline:
    """A copy of the finished project, for one test."""
    shutil.copytree(finished, tmp_path / "runs")
    return Pipeline(tmp_path / "runs")


def test_nothing_is_stale_after_a_whole_run(done: Pipeline) -> None:
    assert done.stale() == []
    assert {done.assess(stage).why for stage in STAGES} == {"nothing changed"}


def test_everything_is_stale_before_the_first_run(tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path)
    assert pipeline.stale() == list(STAGES)
    assert not pipeline.project.folder.exists()


@pytest.mark.parametrize(
    ("override", "first", "not_touched"),
    [
        ("scenes.min_scene_seconds=0.7", "ingest", ()),
        ("curate.min_motion=0.1", "curate", ("ingest",)),
        ("captioner.steps=11", "train_captioner", ("ingest", "curate", "train_vae")),
        ("vae.steps=11", "train_vae", ("ingest", "curate", "train_captioner", "caption")),
        ("text_encoder.pretrained=some/t5", "encode", ("ingest", "curate", "train_captioner", "caption", "train_vae")),
        ("dit.steps=11", "train_dit", ("ingest", "curate", "train_captioner", "caption", "train_vae", "encode")),
        ("generate.guidance_scale=9", "evaluate", ("ingest", "curate", "train_captioner", "caption", "train_vae", "encode", "train_dit")),
        ("gate.min_vae_psnr=1", "promote", tuple(stage for stage in STAGES if stage != "promote")),
    ],
)
def test_a_setting_makes_its_own_stage_stale_and_nothing_upstream(
    done: Pipeline, override: str, first: str, not_touched: tuple[str, ...]
) -> None:
    done.config = settings(override)
    assert done.stale()[0] == first
    assert set(done.stale()).isdisjoint(not_touched)
    done.run()
    assert done.stale() == []


@pytest.mark.parametrize("override", ["cluster.threads=1", "caption.batch_size=3", "encode.num_actors=0", "root=elsewhere"])
def test_how_a_thing_is_run_makes_nothing_stale(done: Pipeline, override: str) -> None:
    done.config = settings(override)
    assert done.stale() == []


@pytest.mark.parametrize(
    ("stage", "overrides"),
    [
        ("train_captioner", ("captioner.report_every=7", "captioner.checkpoint_every=3", "captioner.retrain_when_grown_by=3")),
        ("train_vae", ("vae.report_every=7", "vae.sample_every=0", "vae.checkpoint_every=3")),
        ("train_dit", ("dit.report_every=7", "dit.validate_every=0", "dit.sample_every=0", "dit.checkpoint_every=3")),
        ("train_dit", ("dit.recompute_activations=true", "dit.compile=true")),
        ("train_dit", ("dit.context_parallel=2", "cluster.num_workers=2")),
    ],
)
def test_how_a_training_reports_and_fits_into_memory_leaves_it_finished_or_goes_on(
    done: Pipeline, stage: str, overrides: tuple[str, ...]
) -> None:
    before = done.assess(stage).key
    record = done.project.record(stage) or {}
    done.project.write_record(stage, {**record, "settings": stage_settings(stage, done.config)})
    done.config = settings(*overrides)
    assert done.stale() == []
    assert done.assess(stage).key == before
    section = stage.removeprefix("train_")
    done.config = settings(*overrides, f"{section}.steps=11")
    assert done.assess(stage).why == f"`{section}.steps` is 11, was {getattr(settings(), section).steps}"


def test_the_changed_setting_is_named_when_the_record_has_the_settings(done: Pipeline) -> None:
    record = done.project.record("train_vae") or {}
    done.project.write_record("train_vae", {**record, "settings": {"vae": done.config.vae.model_dump(mode="json")}})
    done.config = settings("vae.steps=11")
    assert done.assess("train_vae").why == "`vae.steps` is 11, was 10"


def test_one_new_clip_is_all_that_is_left_to_do_and_the_models_serve(done: Pipeline) -> None:
    done.add_clips(90)
    done.run("curate")
    assert done.assess("train_captioner").fresh
    assert done.assess("train_vae").fresh
    assert "a retrain is due at 51 rows, now 41" in done.assess("train_vae").why
    assert done.assess("caption").stale == {"caption": ["c090"]}
    done.run("caption")
    assert done.assess("encode").stale == {"latents": ["c090"], "text_embeds": ["c090"]}
    done.run("encode")
    assert done.assess("train_dit").why == "1 new clip, 40 then and 41 now"  # its share is 0


def test_a_training_is_due_once_its_rows_grew_by_more_than_the_share(done: Pipeline) -> None:
    done.add_clips(*range(100, 110))  # 40 + 25 % = 50
    done.run("curate")
    assert done.assess("train_vae").fresh
    done.add_clips(110)
    done.run("curate")
    assert not done.assess("train_vae").fresh
    assert done.assess("train_captioner").fresh  # no new labels


def test_another_vae_makes_latents_stale_and_text_not(done: Pipeline) -> None:
    done.config = settings("vae.steps=11")
    done.run("train_vae")
    found = done.assess("encode").stale
    assert (len(found["latents"]), found["text_embeds"]) == (45, [])


def test_another_text_encoder_makes_text_stale_and_latents_not(done: Pipeline) -> None:
    done.config = settings("text_encoder.pretrained=some/t5")
    found = done.assess("encode").stale
    assert (found["latents"], len(found["text_embeds"])) == ([], 45)
    done.run("encode")
    before = done.config
    done.config = settings("text_encoder.pretrained=some/t5", "text_encoder.max_tokens=64")
    record = done.project.record("encode") or {}
    done.project.write_record("encode", {**record, "settings": stage_settings("encode", before)})
    assert done.assess("encode").why == "`text_encoder.max_tokens` is 64, was 256"


def test_another_captioner_makes_its_own_captions_stale_and_lent_ones_not(done: Pipeline) -> None:
    done.config = settings("captioner.steps=11")
    done.run("train_captioner")
    assert done.assess("caption").stale["caption"] == [f"c{number:03d}" for number in range(20, 45)]
    done.run("caption")
    found = done.assess("encode").stale
    assert (found["latents"], len(found["text_embeds"])) == ([], 45)  # its text tower changed too


def test_a_manifest_that_changes_one_caption_makes_that_row_stale_alone(done: Pipeline) -> None:
    tables.clips(done.project).update([{"clip_id": "c003", "label_caption": "a blue cube", "label_by": "manifest:blue"}])
    assert done.assess("caption").stale["caption"] == ["c003"]
    done.run("caption")
    assert done.assess("encode").stale == {"latents": [], "text_embeds": ["c003"]}


def test_where_no_captioner_was_trained_only_lent_captions_are_asked_for(tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path)
    pipeline.add_clips(1, label="a red ball")
    pipeline.add_clips(2)
    pipeline.run("ingest", "curate")
    found = pipeline.assess("train_captioner")
    pipeline.record("train_captioner", found, weights="")
    assert weights_of("train_captioner", pipeline.project) == ""
    assert pipeline.assess("train_captioner").fresh
    assert pipeline.assess("caption").stale["caption"] == ["c001"]
    pipeline.run("caption")
    assert pipeline.assess("caption").fresh
    pipeline.add_clips(3, label="a cube")
    pipeline.run("curate")
    assert not pipeline.assess("train_captioner").fresh  # there may be enough labels now


def test_a_pretrained_captioner_reads_no_rows(done: Pipeline) -> None:
    done.config = settings("captioner.pretrained=coca_ViT-B-32:laion2b_s13b_b90k")
    done.run("train_captioner")
    done.add_clips(*range(200, 260), label="more")
    done.run("curate")
    assert done.assess("train_captioner").why == "nothing changed"


def test_a_clip_in_quarantine_is_left_alone(done: Pipeline) -> None:
    done.add_clips(90)
    done.run("curate")
    tables.clips(done.project).update([{"clip_id": "c090", "quarantine": "caption: its pixels do not decode"}])
    assert done.assess("caption").fresh
    assert done.assess("encode").fresh


def test_a_clip_that_a_training_put_aside_makes_nothing_stale(done: Pipeline) -> None:
    for at_once in (["c003"], ["c030", "c031"]):
        tables.clips(done.project).update([{"clip_id": name, "quarantine": "train_vae, step 7: its gradient"} for name in at_once])
        assert done.stale() == []
    assert done.assess("train_vae").rows == 37
    done.config = settings("vae.steps=11")
    done.run()
    assert done.stale() == []
    (head,) = [head for head in readings.heads(done.project) if head["key"] == done.assess("train_vae").key]
    assert head["tables"]["clips"]["rows"] == 37
    read = {row["clip_id"] for row in readings.read_rows(done.project, "train_vae", head["key"])}
    assert read.isdisjoint({"c003", "c030", "c031"})


def test_a_training_that_goes_on_reads_the_clips_that_it_put_aside_itself(done: Pipeline) -> None:
    done.config = settings("vae.steps=11")
    found = done.assess("train_vae")
    begun, head = pin_reading(done.project, found, {}, {})
    tables.clips(done.project).update([{"clip_id": "c003", "quarantine": "train_vae, step 7: its gradient"}])
    again = done.assess("train_vae")
    assert again.key == found.key
    resumed, same = pin_reading(done.project, again, {}, {})
    assert same == head
    assert tables.clips(resumed).keys(TRAINING) == tables.clips(begun).keys(TRAINING)
    assert "c003" in tables.clips(resumed).keys(TRAINING)


@pytest.mark.parametrize("stage", ["train_captioner", "train_vae", "train_dit"])
def test_a_model_whose_folder_is_gone_is_trained_again(done: Pipeline, stage: str) -> None:
    shutil.rmtree(done.model(stage))
    assert done.assess(stage).why == "its model is gone"


@pytest.mark.parametrize("stage", ["train_captioner", "train_vae", "train_dit"])
def test_a_model_with_one_flipped_bit_is_made_again(done: Pipeline, stage: str) -> None:
    file = next(path for path in sorted(done.model(stage).iterdir()) if path.name != "manifest.json")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    found = done.assess(stage)
    assert not found.fresh
    assert found.why == f"its model is damaged: `{file}` is not the file that was written"


def test_a_table_that_is_gone_is_made_again(done: Pipeline) -> None:
    shutil.rmtree(done.project.table("videos"))
    assert done.assess("ingest").why == "its tables are gone"
    shutil.rmtree(done.project.table("samples"))
    assert done.assess("evaluate").why == "its samples are gone"


def test_a_record_that_lacks_a_part_counts_as_none(done: Pipeline) -> None:
    done.project.write_record("train_vae", {"maker": done.assess("train_vae").maker})
    assert done.assess("train_vae").why == "it has not finished yet"
    assert weights_of("train_vae", done.project) == ""


def test_a_run_killed_before_its_record_does_only_what_is_left(tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path)
    pipeline.add_clips(*range(10))
    pipeline.run("ingest", "curate", "train_captioner")
    found = pipeline.assess("caption")
    half = {"caption": found.stale["caption"][:6]}
    pipeline.write("caption", type(found)(**{**found.__dict__, "stale": half}))
    again = pipeline.assess("caption")
    assert not again.fresh
    assert again.todo == 4


def test_moving_the_root_makes_nothing_stale(done: Pipeline, tmp_path: Path) -> None:
    elsewhere = tmp_path / "moved"
    shutil.copytree(done.project.folder, elsewhere / "films")
    done.project = type(done.project)(elsewhere, "films")
    assert done.stale() == []


def test_the_key_of_a_training_follows_maker_and_rows(done: Pipeline) -> None:
    before = done.assess("train_vae")
    assert before.key == training_key(before.maker, before.rows_digest)
    done.add_clips(90)
    done.run("curate")
    after = done.assess("train_vae")
    assert (after.maker == before.maker, after.key == before.key) == (True, False)


def test_a_new_file_of_the_source_is_seen(tmp_path: Path) -> None:
    footage = tmp_path / "footage"
    footage.mkdir()
    (footage / "a.mp4").write_bytes(b"one")
    pipeline = Pipeline(tmp_path / "runs", source=footage)
    pipeline.add_clips(1)
    pipeline.run("ingest")
    assert pipeline.assess("ingest").fresh
    (footage / "b.mp4").write_bytes(b"two")
    found = pipeline.assess("ingest")
    assert (found.fresh, found.why, found.rows) == (False, "2 new or changed files", 2)


def test_more_films_of_the_synthetic_world_are_seen(done: Pipeline) -> None:
    done.config = settings("world.num_films=13")
    assert done.assess("ingest").why == "16 new or changed files"  # the table of this project has none of them


def test_a_stage_nobody_knows_is_refused(done: Pipeline) -> None:
    with pytest.raises(ValueError, match="`dance` is not a stage"):
        stage_maker("dance", done.config, done.project)
    with pytest.raises(ValueError, match="not there"):
        assess("ingest", done.config, done.project, Path("/nowhere"))


def test_new_clips_are_told_from_clips_that_another_model_made(done: Pipeline) -> None:
    done.add_clips(*range(100, 137))
    assert done.assess("curate").why == "37 new clips"
    done.run("curate")
    assert done.assess("caption").why == "37 new clips"
    tables.clips(done.project).update([{"clip_id": "c003", "label_caption": "a blue cube", "label_by": "manifest:blue"}])
    assert done.assess("caption").why == "37 new clips, 1 stale clip"


def test_a_stage_whose_code_changed_says_so_and_what_stands_on_it_names_it(done: Pipeline) -> None:
    record = done.project.record("train_vae") or {}
    revision = STAGES["train_vae"].revision
    done.project.write_record("train_vae", {**record, "revision": revision + 1, "maker": "another"})
    assert done.assess("train_vae").why == f"its code changed, revision {revision} now and {revision + 1} then"
    record = done.project.record("curate") or {}
    done.project.write_record("curate", {**record, "settings": stage_settings("curate", done.config)})
    done.config = settings("curate.min_motion=0.3")
    assert done.assess("train_captioner").why == "`curate` changed: `curate.min_motion` is 0.3, was 0.0"


def test_a_stage_that_was_killed_half_way_says_how_far_it_came(tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path)
    pipeline.add_clips(*range(10), label="a red ball")
    pipeline.run("ingest", "curate", "train_captioner")
    tables.clips(pipeline.project).update([{"clip_id": f"c{n:03d}", "caption_by": "manifest:a red ball"} for n in range(4)])
    found = pipeline.assess("caption")
    assert (found.why, found.todo) == ("it has not finished yet, 4 of 10 rows are done", 6)


def test_files_that_came_are_counted_and_those_that_are_as_they_were_are_not(tmp_path: Path) -> None:
    footage = tmp_path / "footage"
    footage.mkdir()
    for name in ("a.mp4", "b.mp4"):
        (footage / name).write_bytes(b"film")
    pipeline = Pipeline(tmp_path / "runs", source=footage)
    maker = pipeline.assess("ingest").maker
    read = list_sources(footage, None, pipeline.config.footage)
    rows = [{"uri": s.uri, "places": list(s.places), "stat": s.stat, "video_id": s.video_id, "ingested_by": maker} for s in read]
    tables.videos(pipeline.project).append([{**row, "status": "accepted"} for row in rows])
    tables.clips(pipeline.project)
    pipeline.record("ingest", pipeline.assess("ingest"))
    assert (pipeline.assess("ingest").fresh, pipeline.assess("ingest").todo) == (True, 0)
    (footage / "c.mp4").write_bytes(b"film")
    assert (pipeline.assess("ingest").why, pipeline.assess("ingest").todo) == ("1 new or changed file", 1)
    (footage / "a.mp4").write_bytes(b"another film")
    assert pipeline.assess("ingest").todo == 2


def test_settings_of_several_shapes_make_nothing_stale_where_clips_have_one(done: Pipeline) -> None:
    done.config = settings("clip.side_multiple=32", "clip.frames_multiple=8")
    assert done.stale() == []
    as_before = {name: value for name, value in done.config.model_dump(mode="json")["clip"].items() if name in ONE_SHAPE}
    there = done.config.model_dump(mode="json") | {"clip": as_before}
    assert maker("ingest", there) == done.assess("ingest").maker  # of a project from before there were such settings
    record = done.project.record("ingest") or {}
    done.project.write_record("ingest", {**record, "settings": {"clip": done.config.model_dump(mode="json")["clip"]}})
    done.config = settings("clip.max_shapes=4")
    assert done.stale()[:2] == ["ingest", "curate"]
    assert done.assess("ingest").why == "`clip.max_shapes` is 4, was 1"
