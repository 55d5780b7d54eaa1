"""Where `dit.finetune` names a model its video VAE and text encoder serve: what that leaves to do, and what cannot be trained further."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from components.models.weights import digest_folder, load_json, save_folder
from components.operations.finetune import Base, NoBaseError, _found, base_model, moves
from components.operations.freshness import (
    check_encoded,
    latents_maker,
    serving_base,
    serving_folder,
    serving_weights,
    text_encoder_folder,
    text_encoder_weights,
    weights_of,
)
from components.operations.plan import SourceSpec, plan
from components.registry.models import ModelNotFoundError
from components.store import tables
from components.store.project import Project
from tests.operations.pipeline import Pipeline, settings, text_to_video

WORLD = SourceSpec(None, None)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return text_to_video(tmp_path / "another" / "model")


@pytest.fixture
def done(tmp_path: Path) -> Pipeline:
    """A project of its own VAE and captioner, finished."""
    pipeline = Pipeline(tmp_path / "runs")
    pipeline.add_clips(*range(12), label="a red ball")
    pipeline.add_clips(12, split="val")
    pipeline.run()
    return pipeline


def running(pipeline: Pipeline) -> dict[str, str]:
    return {stage.stage: stage.why for stage in plan(pipeline.config, pipeline.project, WORLD) if stage.action == "run"}


def test_a_new_project_trains_no_vae_and_is_encoded_by_those_of_the_model(base: Path, tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path / "runs", f"dit.finetune={base}", "dit.lora_rank=2")
    assert list(running(pipeline)) == ["ingest", "curate", "train_captioner", "caption", "encode", "train_dit", "evaluate", "promote"]
    pipeline.add_clips(*range(12), label="a cat")
    pipeline.run()
    assert pipeline.stale() == []
    assert pipeline.project.record("train_vae") is None
    assert serving_folder("train_vae", pipeline.config, pipeline.project) == base / "video-vae"
    assert text_encoder_folder(pipeline.config, pipeline.project) == base / "text-encoder"
    assert pipeline.assess("train_vae").why == f"the video VAE of `{base}` serves, as `dit.finetune` says"
    assert serving_weights("train_vae", pipeline.config, pipeline.project) == digest_folder(base / "video-vae")
    assert serving_weights("train_captioner", pipeline.config, pipeline.project) == weights_of("train_captioner", pipeline.project)
    assert weights_of("train_captioner", pipeline.project) not in ("", text_encoder_weights(pipeline.config, pipeline.project))
    check_encoded(pipeline.config, pipeline.project)


def test_the_captioner_of_the_model_describes_what_too_little_is_labelled_for(base: Path, tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path / "runs", f"dit.finetune={base}")
    pipeline.add_clips(*range(12))
    pipeline.run("ingest", "curate")
    assert pipeline.assess("train_captioner").why == f"the captioner of `{base}` serves, as `dit.finetune` says"
    assert serving_folder("train_captioner", pipeline.config, pipeline.project) == base / "text-encoder"
    pipeline.run()
    assert pipeline.stale() == []
    pipeline.config = settings(f"dit.finetune={base}", "captioner.pretrained=some:captioner")
    assert serving_base("train_captioner", pipeline.config, pipeline.project) is None
    knows_none = text_to_video(tmp_path / "mute", text_encoder=untrained(tmp_path / "untrained"))
    pipeline.config = settings(f"dit.finetune={knows_none}")
    assert serving_base("train_captioner", pipeline.config, pipeline.project) is None


def untrained(folder: Path) -> Path:
    save_folder(folder, {}, {"kinora": {"origin": "untrained"}})
    return folder


def test_switching_a_model_on_and_off_makes_just_what_it_serves_for_stale(done: Pipeline, base: Path) -> None:
    assert base_model(done.config, done.project) is None
    done.config = settings(f"dit.finetune={base}")
    assert running(done) == {
        "encode": f"`dit.finetune` is {base}, was None",
        "train_dit": f"`dit.finetune` is {base}, was None",
        "evaluate": "after `train_dit`",
        "promote": "after `evaluate`",
    }
    assert [len(keys) for keys in done.assess("encode").stale.values()] == [13, 13]
    done.run()
    done.add_clips(*range(20, 40), label="a cat")  # many more, and the VAE is not trained again
    assert "train_vae" not in running(done)
    done.run("ingest", "curate")
    assert done.assess("train_vae").fresh
    done.config = settings()
    assert done.assess("train_vae").why.startswith("20 new clips, 12 then")
    assert done.assess("encode").why == f"`dit.finetune` is None, was {base}"
    done.run()
    check_encoded(done.config, done.project)
    assert done.stale() == []


def test_a_model_of_the_projects_own_leaves_what_is_encoded_and_trains_no_vae_for_new_footage(done: Pipeline, tmp_path: Path) -> None:
    champion = text_to_video(tmp_path / "champion", done.model("train_vae"), done.model("train_captioner"))
    done.config = settings(f"dit.finetune={champion}", "dit.lora_rank=2")
    assert done.stale() == ["train_dit"]
    done.add_clips(*range(20, 40), label="a cat")
    done.run("ingest", "curate", "train_captioner", "caption")
    assert done.assess("train_vae").fresh
    assert len(done.assess("encode").stale["latents"]) == 20
    done.run()
    check_encoded(done.config, done.project)
    assert done.stale() == []


def test_another_model_of_the_same_vae_and_text_encoder_leaves_what_is_encoded(done: Pipeline, base: Path, tmp_path: Path) -> None:
    done.config = settings(f"dit.finetune={base}")
    done.run()
    later = text_to_video(tmp_path / "later", base / "video-vae", base / "text-encoder")
    assert digest_folder(later) != digest_folder(base)
    done.config = settings(f"dit.finetune={later}")
    assert done.stale() == ["train_dit"]


def test_a_folder_that_is_written_anew_is_another_model(done: Pipeline, base: Path, tmp_path: Path) -> None:
    done.config = settings(f"dit.finetune={base}")
    done.run()
    other = text_to_video(tmp_path / "other", base / "video-vae", base / "text-encoder")
    shutil.rmtree(base)
    other.rename(base)
    _found.cache_clear()  # as a new process has it
    assert done.stale() == ["train_dit"]
    assert done.assess("train_dit").why == f"`{base}` is another model than it was"
    done.run()
    assert done.stale() == []


@pytest.fixture
def registered(base: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Lets every name mean one version, by its address and the digest of its weights."""
    known = _found(Project(base.parent, "films"), str(base), None)

    def means(address: str, weights: str) -> None:
        def found(project: Project, reference: str, tracking: str | None) -> Base:
            return replace(known, reference=reference, name=address, weights=weights)

        monkeypatch.setattr("components.operations.finetune._found", found)

    return means


@pytest.mark.parametrize(
    ("reference", "address", "leaves"),
    [
        ("champion", "models:/films-text-to-video/3", True),
        ("previous-champion", "models:/films-text-to-video/3", True),
        ("models:/films-text-to-video@champion", "models:/films-text-to-video/3", True),
        ("models:/films-text-to-video/latest", "models:/films-text-to-video/3", True),
        ("3", "models:/films-text-to-video/3", False),
        ("models:/films-text-to-video/3", "models:/films-text-to-video/3", False),
        ("models:/m-0123abc", "models:/films-text-to-video/3", False),
        ("models:/others-text-to-video@champion", "models:/others-text-to-video/3", False),
        ("models:/others-text-to-video/latest", "models:/others-text-to-video/3", False),
    ],
)
def test_a_name_that_the_projects_own_runs_move_makes_no_training_stale(
    reference: str, address: str, leaves: bool, done: Pipeline, registered: Callable[[str, str], None]
) -> None:
    done.config = settings(f'dit.finetune="{reference}"')
    registered(address, "one")
    base = base_model(done.config, done.project)
    assert base is not None
    assert moves(base, done.project) is leaves
    done.run()
    assert done.assess("train_dit").why == "nothing changed"
    registered(address.replace("3", "4"), "another")
    found = done.assess("train_dit")
    assert found.fresh is leaves
    if leaves:
        assert found.why.startswith(f"nothing changed, though `{reference}` is another model by now; hint: ")
        assert "`--set dit.finetune=models:/films-text-to-video/4`" in found.why
        registered(address.replace("3", "4"), weights_of("train_dit", done.project))  # the one that was made of it
        assert done.assess("train_dit").why == "nothing changed"
    else:
        assert found.why == f"`{reference}` is another model than it was"


def test_what_is_no_model_or_another_kind_is_refused_before_any_stage(base: Path, tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path / "runs", f"dit.finetune={tmp_path / 'nowhere'}")
    for named, error, sentence in (
        (tmp_path / "nowhere", ModelNotFoundError, "is not a folder; hint: "),
        (base / "video-vae", NoBaseError, "is no text-to-video model, so `dit.finetune` cannot go on from it; hint: "),
    ):
        pipeline.config = settings(f"dit.finetune={named}")
        with pytest.raises(error, match=sentence):
            pipeline.assess("ingest")
        with pytest.raises(error, match=sentence):
            plan(pipeline.config, pipeline.project, WORLD)
    assert not pipeline.project.folder.exists()


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            ["clip.num_frames=10"],
            r"`clip.num_frames` must be 1 \+ a multiple of 8, as the video VAE of `.*` is, not 10; the nearest are 9 and",
        ),
        (["clip.height=36"], r"`clip.height` must be a multiple of 8, as the video VAE of `.*` is, not 36"),
        (["dit.context_parallel=4", "cluster.num_workers=4"], r"`dit.context_parallel` 4 does not divide the 2 heads of `.*`; the nearest"),
        (["dit.tokens_per_batch=7"], r"`dit.tokens_per_batch` 7 is less than the 8 tokens of a clip; hint: `--set dit.tokens_per_batch=8`"),
        (
            ["dit.lora_rank=64"],
            r"`dit.lora_rank` 64 is not below 64, the width of the narrowest layer of `.*`; hint: `--set dit.lora_rank=16",
        ),
    ],
)
def test_clips_and_workers_must_fit_the_model_and_not_the_settings_it_replaces(tmp_path: Path, overrides: list[str], sentence: str) -> None:
    slow = text_to_video(tmp_path / "slow", frames=8)  # a latent holds eight frames
    pipeline = Pipeline(tmp_path / "runs", f"dit.finetune={slow}", *overrides)
    with pytest.raises(ValueError, match=sentence):
        base_model(pipeline.config, pipeline.project)
    assert load_json(slow, "dit")["size"]["num_heads"] == 2


def test_a_training_is_refused_what_another_vae_or_text_encoder_made(done: Pipeline, base: Path) -> None:
    check_encoded(done.config, done.project)
    done.config = settings("vae.seed=1")
    done.run("train_vae")
    with pytest.raises(ValueError, match=r"the latents of 13 clips are of another video VAE .* now; hint: `kinora run encode` with the"):
        check_encoded(done.config, done.project)
    done.run("encode")
    check_encoded(done.config, done.project)
    done.config = settings("vae.seed=1", "text_encoder.pretrained=./t5")  # and `kinora run encode` has not taken it
    with pytest.raises(ValueError, match="the text embeddings of 13 clips are of another text encoder"):
        check_encoded(done.config, done.project)
    done.config = settings("vae.seed=1", f"dit.finetune={base}")
    clips = tables.clips(done.project)
    clips.update([{"clip_id": "c003", "latents_by": latents_maker(done.config, done.project)}])  # killed halfway
    with pytest.raises(ValueError, match="the latents of 12 clips"):
        check_encoded(done.config, done.project)


def test_clips_that_nobody_encoded_yet_are_no_hindrance_but_some_must_be(done: Pipeline, tmp_path: Path) -> None:
    done.add_clips(90, label="a red ball")
    done.run("curate", "caption")
    check_encoded(done.config, done.project)
    early = Pipeline(tmp_path / "early")
    early.add_clips(*range(12), label="a red ball")
    early.run("ingest", "curate", "train_captioner", "caption", "train_vae")
    with pytest.raises(ValueError, match="no clip of the training split has latents and text embeddings; hint: `kinora run encode`"):
        check_encoded(early.config, early.project)
