"""Settings: every profile loads, overrides win, and a mistake answers in one sentence with the way out."""

import json
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from components.config import SettingsError, find_settings_file, load_config
from components.models.sizes import DIT_SIZES
from components.sections import Config
from components.stages import STAGES

OTHER_TASKS = ("first_frame", "prefix", "suffix", "first_and_last", "key_frames")
PROFILES = ("test", "laptop", "gpu", "cluster", "servers")


@pytest.fixture(autouse=True)
def in_the_repository(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)
    monkeypatch.delenv("KINORA_CONFIG", raising=False)


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_loads(profile: str) -> None:
    load_config(profile)


def test_the_profiles_are_those_that_are_tested(repository: Path) -> None:
    assert set(yaml.safe_load((repository / "pipelines.yaml").read_text())["profiles"]) == set(PROFILES)


def test_the_defaults_are_the_laptop_profile() -> None:
    assert load_config() == load_config("laptop")


def test_an_override_wins_over_the_profile_which_wins_over_the_defaults() -> None:
    assert load_config().dit.steps != load_config("test").dit.steps
    assert load_config("test", ["dit.steps=77"]).dit.steps == 77
    assert load_config("test", ["dit.steps=77"]).dit.batch_size == load_config("test").dit.batch_size
    assert load_config("test", ["dit.steps=77", "dit.steps=78"]).dit.steps == 78


@pytest.mark.parametrize(
    ("override", "section", "name", "value"),
    [
        ("captioner.pretrained=ViT-B-32:laion", "captioner", "pretrained", "ViT-B-32:laion"),
        ("captioner.pretrained=", "captioner", "pretrained", None),
        ("footage.extensions=[mp4, mov]", "footage", "extensions", ("mp4", "mov")),
        ("cluster.use_gpu=true", "cluster", "use_gpu", True),
        ("vae.learning_rate=1e-4", "vae", "learning_rate", 1e-4),
        ("world={num_films: 3}", "world", "num_films", 3),
    ],
)
def test_values_are_written_as_yaml(override: str, section: str, name: str, value: object) -> None:
    assert getattr(getattr(load_config(None, [override]), section), name) == value


def test_a_pretrained_vae_says_itself_what_it_encodes() -> None:
    assert load_config(None, ["vae.pretrained=OWNER/NAME", "clip.num_frames=10", "vae.crop_size=60"]).clip.num_frames == 10


def test_a_size_may_be_named_or_given_in_parts() -> None:
    named = load_config(None, ["dit.size=tiny"]).dit.size
    assert named.hidden_size == 64
    parts = "dit.size={hidden_size: 96, depth: 3, num_heads: 2, patch_size: [1, 2, 2]}"
    assert load_config(None, [parts]).dit.size.depth == 3
    one = load_config("test", ["dit.size.depth=3"]).dit.size
    assert (one.depth, one.hidden_size) == (3, named.hidden_size)


def test_settings_survive_json_so_a_checkpoint_can_hold_them() -> None:
    for profile in PROFILES:
        config = load_config(profile)
        assert Config.model_validate(json.loads(json.dumps(config.model_dump(mode="json")))) == config


@pytest.mark.parametrize("storage", ["s3://films", "s3://films/kinora", "gs://films/kinora", "file:///srv/kinora"])
def test_a_storage_is_the_uri_of_a_folder(storage: str) -> None:
    assert load_config(None, [f"cluster.storage={storage}"]).cluster.storage == storage


@pytest.mark.parametrize(
    ("storage", "why"),
    [
        ("ftp://films", "is none of s3, gs, file"),
        ("/srv/kinora", "is none of s3, gs, file"),
        ("s3:///films", "names no folder"),
        ("file://srv/kinora", "names no folder"),
        ("s3://key:secret@films", "holds more than a place"),
        ("s3://films?endpoint_override=x", "holds more than a place"),
    ],
)
def test_what_is_no_storage_is_refused_with_the_way_out(storage: str, why: str) -> None:
    with pytest.raises(SettingsError, match=f"{why}.*hint: "):
        load_config(None, [f"cluster.storage={storage}"])


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_config().dit.steps = 3  # type: ignore[misc]


def test_no_setting_has_a_second_default_in_python() -> None:
    """One default in one place: a field with a Python default would hide a line missing from pipelines.yaml."""

    def defaults(model: type[BaseModel]) -> list[str]:
        found = []
        for name, field in model.model_fields.items():
            if not field.is_required():
                found.append(f"{model.__name__}.{name}")
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                found += defaults(field.annotation)
        return found

    assert defaults(Config) == []


@pytest.mark.parametrize(
    ("profile", "override", "sentence"),
    [
        ("latop", None, "`latop` is not a profile; did you mean `laptop`?"),
        ("zzz", None, "`zzz` is not a profile; the names are cluster, gpu, laptop, servers, test"),
        (None, "dit.stps=3", "`dit.stps` is not a setting; did you mean `dit.steps`?"),
        (None, "ditt.steps=3", "`ditt` is not a setting; did you mean `dit`?"),
        (None, "vae.latent_chanels=3", "`vae.latent_chanels` is not a setting; did you mean `vae.size.latent_channels`?"),
        (None, "vae.size.latent_chanels=3", "`vae.size.latent_chanels` is not a setting; did you mean `vae.size.latent_channels`?"),
        (None, "dit.steps=many", "`dit.steps` = 'many': "),
        (None, "dit.steps=0", "`dit.steps` = 0: "),
        (None, "generate.step_cache=-1", "`generate.step_cache` = -1: input should be greater than or equal to 0, or input should be 'cal"),
        (None, "generate.num_inference_steps=1001", "`generate.num_inference_steps` = 1001: input should be less than or equal to 1000"),
        (None, "dit.steps", "`--set dit.steps` is not `key=value`"),
        (None, "dit=3", "`dit` = 3: "),
        (None, "dit..steps=3", "`dit.`"),
        (None, "dit.steps.more=3", "`dit.steps` = "),
        (None, "dit.size=huge", "`huge` is not a size; the sizes are tiny, demo, 1.3b, 5b, 14b"),
        (None, "clip.num_frames=10", "`clip.num_frames` must be 1 + a multiple of 4, as `vae.size` is, not 10; the nearest are 9 and 13"),
        (None, "clip.height=30", "`clip.height` must be a multiple of 8, as `vae.size` is, not 30; the nearest are 24 and 32"),
        (None, "clip.width=5", "`clip.width` must be a multiple of 8, as `vae.size` is, not 5; the nearest is 8"),
        (
            None,
            "vae.size.temporal_compression_ratio=3",
            "`clip.num_frames` must be 1 + a multiple of 3, as `vae.size` is, not 9; the nearest are 7 and 10",
        ),
        ("gpu", "vae.size.spatial_compression_ratio=24", "`vae.crop_size` must be a multiple of 24"),
        (None, "vae.crop_size=60", "a patch of `vae.size`, not 60; the nearest are 56 and 64"),
        (None, "vae.crop_size=4", "a patch of `vae.size`, not 4; the nearest is 8"),
        (None, "vae.min_crop_size=20", "`vae.min_crop_size` must be a multiple of 8"),
        (None, "vae.min_crop_size=72", "`vae.min_crop_size` 72 is above `vae.crop_size` 64; swap them"),
        (None, "vae.perceptual_loss_weight=0.5", "`vae.perceptual_loss_weight` 0.5 asks for `vae.perceptual_weights`"),
        (None, "vae.finetune=true", "`vae.finetune` is of a pretrained VAE, and `vae.pretrained` names none"),
        (None, "vae.max_downscale=0.5", "`vae.max_downscale` = 0.5: input should be greater than or equal to 1"),
        (None, "world.min_scene_frames=99", "`world.min_scene_frames` is above `world.max_scene_frames`"),
        (None, "curate.val_share=1.5", "`curate.val_share` = 1.5: "),
        (None, "dit.steps=[1", "the value of `--set dit.steps=[1` is not YAML"),
        (None, "vae.learning_rate=.nan", "`vae.learning_rate` = nan: "),
    ],
)
def test_a_mistake_answers_in_one_sentence(profile: str | None, override: str | None, sentence: str) -> None:
    with pytest.raises(SettingsError) as raised:
        load_config(profile, [override] if override else [])
    said = str(raised.value)
    assert sentence in said
    assert "\n" not in said
    assert "pydantic" not in said.lower()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("defaults: [", "is not YAML"),
        ("profiles: {}", "has no `defaults` mapping"),
        ("just words", "has no `defaults` mapping"),
        ("defaults: {root: runs}\nextras: 1", "`extras` is not one of defaults, profiles, deployments"),
        ("defaults: {root: runs}", "`world` is missing"),
        ("defaults: {root: runs}\nprofiles: 3", "`profiles`"),
        ("defaults: {root: runs}\nprofiles: {laptop: 3}", "is not a mapping"),
    ],
)
def test_a_broken_settings_file_is_named(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError) as raised:
        load_config("laptop" if "profiles: {laptop" in text else None, file=str(path))
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_settings_file_is_the_explicit_one_then_the_environments_then_the_nearest_upwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Path
) -> None:
    for name in ("explicit.yaml", "environment.yaml", "pipelines.yaml"):
        (tmp_path / name).write_text("defaults: {}")
    deeper = tmp_path / "a" / "b"
    deeper.mkdir(parents=True)
    monkeypatch.chdir(deeper)
    assert find_settings_file() == tmp_path / "pipelines.yaml"
    monkeypatch.setenv("KINORA_CONFIG", str(tmp_path / "environment.yaml"))
    assert find_settings_file() == tmp_path / "environment.yaml"
    assert find_settings_file(str(tmp_path / "explicit.yaml")) == tmp_path / "explicit.yaml"
    with pytest.raises(SettingsError, match="is not there"):
        find_settings_file(str(tmp_path / "absent.yaml"))
    monkeypatch.delenv("KINORA_CONFIG")
    monkeypatch.chdir("/")
    assert find_settings_file() == repository / "pipelines.yaml"


def test_stages_are_shaped_by_sections_that_exist() -> None:
    for stage in STAGES.values():
        assert set(stage.sections) <= set(Config.model_fields)
        assert set(stage.upstream) <= set(STAGES)


@pytest.mark.parametrize(("profile", "device"), [("laptop", "cpu"), ("test", "cpu"), ("gpu", "cuda"), ("cluster", "cuda")])
def test_networks_compute_where_the_profile_trains(profile: str, device: str) -> None:
    config = load_config(profile)
    assert {config.caption.device, config.encode.device} == {device}
    assert config.cluster.use_gpu == (device == "cuda")


@pytest.mark.parametrize("profile", ["laptop", "test", "gpu"])
def test_the_actors_of_one_machine_share_its_one_gpu(profile: str) -> None:
    config = load_config(profile)
    assert config.caption.num_actors * config.caption.gpus_per_actor <= 1
    assert config.encode.num_actors * config.encode.gpus_per_actor <= 1


def test_a_group_of_workers_is_of_a_fixed_size_unless_fewer_may_go_on() -> None:
    assert load_config("test").cluster.fewest_workers == 1
    assert load_config("test", ["cluster.num_workers=3"]).cluster.fewest_workers == 3
    assert load_config("test", ["cluster.num_workers=3", "cluster.min_workers=2"]).cluster.fewest_workers == 2


def test_a_judge_of_reconstructions_that_comes_after_the_last_step_is_refused() -> None:
    late = ["vae.adversarial_weight=0.1", "vae.adversarial_from_step=450"]
    with pytest.raises(SettingsError, match=r"`vae.adversarial_from_step` 450 leaves none of 450 `vae.steps`; set it lower, or "):
        load_config(None, late)
    assert load_config(None, [*late, "vae.steps=451"]).vae.adversarial_from_step == 450


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["cluster.min_workers=2"], "`cluster.min_workers` 2 is more than `cluster.num_workers` 1"),
        (
            ["cluster.num_workers=5", "vae.batch_size=4"],
            "`vae.batch_size` 4 is less than `cluster.num_workers` 5; hint: `--set vae.batch_size=5`",
        ),
        (
            ["dit.size=demo", "dit.context_parallel=3"],
            "`dit.context_parallel` 3 does not divide the 8 heads of `dit.size`; the nearest are 2 and 4",
        ),
        (
            ["dit.context_parallel=2", "cluster.num_workers=3"],
            "`cluster.num_workers` 3 does not make groups of `dit.context_parallel` 2; the nearest are 2 and 4",
        ),
    ],
)
def test_more_workers_than_there_is_work_for_are_refused(overrides: list[str], sentence: str) -> None:
    with pytest.raises(SettingsError) as raised:
        load_config("test", overrides)
    assert sentence in str(raised.value)


def test_the_shape_that_stands_for_clips_of_several_is_the_commonest_of_several_frames() -> None:
    shapes = [(1, 64, 64)] * 9 + [(9, 32, 64)] * 3 + [(9, 64, 64)] * 3 + [(17, 32, 32)]
    one, several = load_config().clip, load_config(None, ["clip.max_shapes=4"]).clip
    assert one.as_most(shapes) == one
    most = several.as_most(shapes)
    assert (most.num_frames, most.height, most.width, most.fps) == (9, 64, 64, several.fps)
    assert several.as_most([(1, 64, 64)]) == several


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["clip.side_multiple=12"], "`clip.side_multiple` must be a multiple of 8, as `vae.size` is, not 12; the nearest are 8 and 16"),
        (["clip.frames_multiple=6"], "`clip.frames_multiple` must be a multiple of 4, as `vae.size` is, not 6; the nearest are 4 and 8"),
        (["clip.side_multiple=128"], "`clip.height` times `clip.width` holds no shape of 128 x 128 pixels"),
    ],
)
def test_multiples_of_planned_shapes_fit_the_vae_and_the_largest_shape(overrides: list[str], sentence: str) -> None:
    load_config(None, overrides)  # of no account where clips have one shape
    with pytest.raises(SettingsError) as error:
        load_config(None, ["clip.max_shapes=4", *overrides])
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["dit.size.num_heads=16"], "`dit.size.num_heads` 16 makes heads of 4 channels of `dit.size.hidden_size` 64, and positions need"),
        (["dit.size.num_heads=16"], "from 6 on; the nearest is 8"),
        (["dit.size.num_heads=3"], "`dit.size.num_heads` 3 does not divide `dit.size.hidden_size` 64; the nearest are 2 and 4"),
        (["dit.size.num_heads=0"], "`dit.size.num_heads` must be above 0, not 0"),
        (["dit.size.text_size=100"], "`dit.size.text_size` 100 does not divide into its 3 heads; the nearest are 99 and 102"),
        (["dit.size.patch_size=[1, 0, 2]"], "`dit.size.patch_size` must be above 0, not (1, 0, 2)"),
        (["dit.size.refiner_depth=-1"], "`dit.size.refiner_depth` must be 0 or above, not -1"),
        (["dit.packing=true"], "`dit.packing` fills a budget of tokens, and `dit.tokens_per_batch` sets none; set one, or `dit.packing`"),
        (["dit.tasks.text=0"] + [f"dit.tasks.{name}=0" for name in OTHER_TASKS], "`dit.tasks` gives no task a share; hint: `--set dit.t"),
        (["dit.timestep_shift=0"], "`dit.timestep_shift` = 0: input should be greater than 0"),
        (["generate.timestep_shift=-1"], "`generate.timestep_shift` = -1: input should be greater than 0"),
        (
            ["dit.tokens_per_batch=11"],
            "`dit.tokens_per_batch` 11 is less than the 12 tokens of a clip; hint: `--set dit.tokens_per_batch=12`",
        ),
        (
            ["dit.tokens_per_batch=47", "cluster.num_workers=4", "dit.packing=true"],
            "`dit.tokens_per_batch` 47 is less than the 12 tokens of a clip, of which each of 4 workers needs one; hint: `--set dit.token",
        ),
    ],
)
def test_a_transformer_that_cannot_be_trained_is_refused_before_anything_runs(overrides: list[str], sentence: str) -> None:
    with pytest.raises(SettingsError) as error:
        load_config("test", overrides)
    assert sentence in str(error.value)


def test_what_a_training_makes_no_use_of_is_not_held_against_it() -> None:
    many = ["cluster.num_workers=64", "captioner.batch_size=64", "vae.batch_size=64", "dit.batch_size=32"]
    with pytest.raises(SettingsError, match=r"`dit.batch_size` 32 is less than `cluster.num_workers` 64"):
        load_config("test", many)
    assert load_config("test", [*many, "dit.tokens_per_batch=768"]).dit.batch_size == 32
    further = ["dit.finetune=champion", "dit.size.num_heads=3", "clip.height=36", "dit.tokens_per_batch=1"]
    assert load_config("test", further).dit.size.num_heads == 3  # the model that is named has a size, and a video VAE, of its own


def test_adapters_are_of_the_champion_where_no_model_is_named() -> None:
    assert load_config("test", ["dit.lora_rank=4"]).dit.finetune == "champion"
    assert load_config("test", ["dit.lora_rank=4", "dit.finetune=models:/other/2"]).dit.finetune == "models:/other/2"
    assert load_config("test").dit.finetune is None


def test_each_size_by_name_can_be_built() -> None:
    for size in DIT_SIZES:
        load_config(None, [f"dit.size={size}"])
