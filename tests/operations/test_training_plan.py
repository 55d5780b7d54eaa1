"""A training is planned from the table's own shapes, and what does not fit is named with what would make it fit."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from components.config import load_config
from components.models.sizes import VAE_SIZES, DitSize
from components.models.weights import new_folder
from components.operations import training_facts, training_plan
from components.operations.preflight import Bucket, Network, Way, memory, work
from components.operations.training_plan import TrainingPlan, plan_training
from components.sections import Config
from components.store import tables
from components.store.project import Project
from components.train.dit_rehearsal import Rehearsed, Spec
from tests.operations.pipeline import REPOSITORY

MIB, GIB = 2**20, 2**30


def settings(*overrides: str) -> Config:
    return load_config("test", overrides, file=str(REPOSITORY / "pipelines.yaml"))


def films(folder: Path, clips: int) -> Project:
    """A project of clips to train on, encoded to two shapes of latents, twice as many of the shorter ones."""
    project = Project(folder, "films")
    shared = {"keep": True, "split": "train", "text_embeds": np.zeros((12, 64), np.float16), "text_shape": [12, 64]}
    rows = []
    for number in range(clips):
        shape, side = ((16, 3, 4, 4), 32) if number < 2 * clips // 3 else ((16, 1, 8, 8), 64)
        pixels = {"num_frames": 4 * shape[1] - 3, "height": side, "width": side}
        encoded = {"latents": np.zeros(shape, np.float16), "latents_shape": list(shape)}
        rows.append({"clip_id": f"clip{number:04d}", **pixels, **encoded, **shared})
    tables.clips(project).append(rows)
    return project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return films(tmp_path, 24)


@pytest.fixture
def crowded(tmp_path: Path) -> Project:
    return films(tmp_path, 3072)


def arithmetic(config: Config, project: Project, worker_bytes: int | None = None) -> TrainingPlan:
    return plan_training(config, project, worker_bytes, seconds=0)


def test_buckets_are_the_shapes_of_the_latents_and_their_share_of_the_steps(project: Project) -> None:
    found = arithmetic(settings(), project)
    assert [(bucket.latents, bucket.clips, bucket.tokens) for bucket in found.buckets] == [
        ((16, 1, 8, 8), 8, 8 * 16),
        ((16, 3, 4, 4), 8, 8 * 12),
    ]
    assert [bucket.share for bucket in found.buckets] == [pytest.approx(1 / 3), pytest.approx(2 / 3)]
    assert (found.steps, found.seconds) == (10, None)
    assert found.tokens == round(10 * (128 / 3 + 2 * 96 / 3 * (1 - 0.05 * 2 / 3))), "a twentieth of the steps see one of three frames"


def test_clips_without_a_caption_make_no_step(project: Project) -> None:
    chosen = settings("dit.steps=1000", "dit.max_epochs=10")
    assert arithmetic(chosen, project).steps == 30
    mute = {"keep": True, "split": "train", "num_frames": 9, "height": 32, "width": 32}
    latents = {"latents": np.zeros((16, 3, 4, 4), np.float16), "latents_shape": [16, 3, 4, 4]}
    tables.clips(project).append([{"clip_id": f"mute{number}", **mute, **latents} for number in range(40)])
    assert arithmetic(chosen, project).steps == 30


def test_a_budget_of_tokens_fills_each_shape_for_itself(project: Project) -> None:
    found = arithmetic(settings("dit.tokens_per_batch=50"), project)
    assert [(bucket.clips, bucket.tokens) for bucket in found.buckets] == [(3, 48), (4, 48)]
    packed = arithmetic(settings("dit.tokens_per_batch=50", "dit.packing=true"), project)
    assert [(bucket.latents, bucket.clips) for bucket in packed.buckets] == [((16, 1, 8, 8), 3), ((16, 3, 4, 4), 4)]
    assert [bucket.share for bucket in packed.buckets] == [pytest.approx(0.4), pytest.approx(0.6)], "of the tokens"
    with pytest.raises(ValueError, match=r"`dit\.tokens_per_batch` of 14 leaves it without a clip.*--set dit\.tokens_per_batch=16"):
        arithmetic(settings("dit.tokens_per_batch=14"), project)


def taken(found: TrainingPlan, chosen: tuple[str, ...]) -> list[Config]:
    """The settings with each of the ways out, as the command line takes them."""
    return [settings(*chosen, *(part for part in way.split() if part != "--set")) for way in found.ways_out]


@pytest.mark.parametrize("budget", [(), ("dit.tokens_per_batch=20000",), ("dit.tokens_per_batch=20000", "dit.packing=true")])
def test_a_way_out_that_is_taken_lets_it_fit(crowded: Project, budget: tuple[str, ...]) -> None:
    chosen = ("dit.batch_size=1024", *budget)
    room = max(bucket.num_bytes for bucket in arithmetic(settings(*chosen), crowded).buckets) - 10 * MIB
    found = arithmetic(settings(*chosen), crowded, room)
    assert not all(bucket.fits for bucket in found.buckets)
    assert found.ways_out
    for changed in taken(found, chosen):
        assert all(bucket.fits for bucket in arithmetic(changed, crowded, room).buckets)


def test_a_way_out_says_what_else_the_settings_ask_for(project: Project) -> None:
    chosen = ("dit.size=5b", "dit.batch_size=32", "cluster.use_gpu=true")
    found = arithmetic(settings(*chosen), project, 22 * GIB)
    assert [way.partition(" --set cluster.num_workers=16 ")[2] for way in found.ways_out] == [
        "--set captioner.batch_size=16 --set vae.batch_size=16"
    ]
    for changed in taken(found, chosen):
        assert (changed.vae.batch_size, changed.dit.batch_size) == (16, 32)
        assert all(bucket.fits for bucket in arithmetic(changed, project, 22 * GIB).buckets)


def test_a_clip_that_is_too_long_for_one_worker_is_shared_out(tmp_path: Path) -> None:
    chosen = ("dit.size=1.3b", "dit.batch_size=1", "cluster.use_gpu=true", "clip.num_frames=257", "clip.height=720", "clip.width=1280")
    found = arithmetic(settings(*chosen), Project(tmp_path, "films"), 48 * GIB)
    assert found.buckets[0].fits is False
    assert found.ways_out
    assert all("dit.context_parallel=" in way for way in found.ways_out)
    for changed in taken(found, chosen):
        plan = arithmetic(changed, Project(tmp_path, "films"), 48 * GIB)
        assert (plan.buckets[0].clips, plan.buckets[0].fits) == (1, True)


def test_a_group_of_workers_has_a_share_of_the_clips(project: Project) -> None:
    groups = (
        "dit.batch_size=1024",
        "cluster.num_workers=1024",
        "dit.context_parallel=2",
        "vae.batch_size=1024",
        "captioner.batch_size=1024",
    )
    found = arithmetic(settings("cluster.num_workers=2", "dit.context_parallel=2", "dit.batch_size=1"), project)
    assert [(bucket.clips, bucket.tokens) for bucket in found.buckets] == [(1, 16), (1, 12)]
    shared, alone = arithmetic(settings(*groups), project), arithmetic(settings("dit.batch_size=2"), project)
    assert shared.buckets[0].num_bytes < alone.buckets[0].num_bytes + 2 * MIB, "a group has two clips, and gradients have their room"
    with pytest.raises(ValueError, match=r"`dit\.tokens_per_batch` of 30 leaves some of 2 workers without a clip"):
        arithmetic(settings("cluster.num_workers=4", "dit.context_parallel=2", "dit.tokens_per_batch=30"), project)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """What is noted of a finished model, of another size than that of the settings."""
    size = asdict(DitSize(96, 3, 4, (1, 4, 4), text_size=32))
    noted = {
        "dit": {"size": size, "latent_channels": 16, "text_width": 64},
        "video-vae/vae": {"size": asdict(VAE_SIZES["tiny"])},
        "text-encoder/text_encoder": {"text_width": 64},
    }
    with new_folder(tmp_path / "base") as draft:
        for part in ("video-vae", "text-encoder"):
            with new_folder(draft / part) as folder:
                for name in (name for name in noted if name.startswith(part)):
                    (folder / f"{Path(name).name}.json").write_text(json.dumps(noted[name]))
        (draft / "dit.json").write_text(json.dumps(noted["dit"]))
    return tmp_path / "base"


def test_what_is_trained_further_has_the_size_that_it_has(project: Project, base: Path) -> None:
    found = arithmetic(settings(f"dit.finetune={base}"), project)
    network = Network(DitSize(96, 3, 4, (1, 4, 4), text_size=32), 16, 64)
    assert (found.parameters, found.trained) == (network.parameters, network.parameters)
    assert [(bucket.latents, bucket.tokens) for bucket in found.buckets] == [((16, 1, 8, 8), 8 * 4), ((16, 3, 4, 4), 8 * 3)]
    adapters = arithmetic(settings(f"dit.finetune={base}", "dit.lora_rank=4"), project)
    assert adapters.parameters == network.parameters
    assert adapters.trained == replace(network, lora_rank=4).adapters
    assert adapters.states_bytes == 4 * network.parameters + 16 * adapters.trained
    assert adapters.buckets[0].num_bytes < found.buckets[0].num_bytes


def test_a_model_to_train_further_must_be_there_and_of_this_project(project: Project, base: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no-such-model` is not a folder"):
        arithmetic(settings(f"dit.finetune={tmp_path}/no-such-model"), project)
    with pytest.raises(ValueError, match="there is no `films-text-to-video` yet"):
        arithmetic(settings("dit.finetune=champion"), project)
    with pytest.raises(ValueError, match=r"`dit\.context_parallel` 3 does not divide the 4 heads"):
        arithmetic(settings(f"dit.finetune={base}", "dit.size=1.3b", "dit.context_parallel=3", "cluster.num_workers=3"), project)


def test_the_clips_are_in_the_memory_of_each_worker(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    found = arithmetic(settings(), project)
    assert found.clip_bytes == 2 * (16 * 16 * 48 + 8 * 16 * 64 + 24 * 12 * 64)
    some = tables.clips(project)
    some.append(
        [
            {
                "clip_id": "more",
                "keep": True,
                "split": "train",
                "latents": np.zeros((16, 1, 512, 512), np.float16),
                "latents_shape": [16, 1, 512, 512],
                "text_embeds": np.zeros((12, 64), np.float16),
                "text_shape": [12, 64],
            }
        ]
    )
    more = arithmetic(settings(), project)
    assert more.clip_bytes - found.clip_bytes == 8 * MIB + 2 * 12 * 64
    assert more.buckets[-1].num_bytes - found.buckets[-1].num_bytes == 8 * MIB + 2 * 12 * 64
    monkeypatch.setattr(training_facts, "IN_MEMORY", more.clip_bytes - 1)
    too_many = arithmetic(settings(), project)
    assert too_many.clip_bytes == 0
    assert more.buckets[-1].num_bytes - too_many.buckets[-1].num_bytes == more.clip_bytes
    assert any("so workers do not hold them; each step reads its own" in note for note in too_many.notes)
    monkeypatch.undo()
    on_gpu = arithmetic(settings("cluster.use_gpu=true"), project)
    assert on_gpu.clip_bytes == more.clip_bytes
    assert arithmetic(settings(), Project(project.root, "none")).clip_bytes == 0


def test_the_first_gpu_worker_has_a_checkpoint_and_what_is_sampled_in_its_machines_memory(project: Project) -> None:
    on_gpu, on_cpu = arithmetic(settings("cluster.use_gpu=true"), project), arithmetic(settings(), project)
    each = on_gpu.parameters
    assert (on_gpu.start_bytes, on_gpu.checkpoint_bytes, on_gpu.sample_bytes) == (4 * each, 16 * each, 8 * each)
    assert (on_cpu.start_bytes, on_cpu.checkpoint_bytes, on_cpu.sample_bytes) == (0, 0, 8 * each), "it has its own checkpoint anyway"
    sharded = ("cluster.use_gpu=true", "cluster.num_workers=4", "cluster.sharded=true")
    assert arithmetic(settings(*sharded), project).checkpoint_bytes == 16 * each, "gathered"
    for mute in ("dit.sample_every=0", "dit.sample_every=10"):
        found = arithmetic(settings(mute), project)
        assert found.sample_bytes == 0
        assert on_cpu.buckets[0].num_bytes - found.buckets[0].num_bytes == 4 * each
    vast = ("dit.size=14b", "cluster.use_gpu=true", "clip.num_frames=257", "clip.height=720", "clip.width=1280", "dit.image_share=0")
    assert arithmetic(settings(*vast), Project(project.root, "none")).sample_bytes == 0, "nobody would wait for them"


@dataclass(frozen=True)
class Measuring:
    """Rehearses by a formula: a start and so much a clip, in MiB."""

    start: float
    each: float

    def __call__(self, spec: Spec) -> Rehearsed:
        share = 0.7 if spec.settings["recompute_activations"] else 1.0
        return Rehearsed(1.0, round(MIB * (self.start + spec.clips * share * self.each)))


@pytest.mark.parametrize(("measuring", "room"), [(Measuring(1000, 0.35), 1300 * MIB), (Measuring(780, 0.45), 1200 * MIB)])
def test_a_way_out_fits_by_the_measure_where_the_measure_knows_better(crowded: Project, measuring: Measuring, room: int) -> None:
    chosen = ("dit.batch_size=1024",)
    found = plan_training(settings(*chosen), crowded, room, 1.0, run=measuring)
    assert not any(bucket.fits for bucket in found.buckets)
    assert max(bucket.num_bytes for bucket in found.buckets) < room, "by arithmetic it fits"
    assert any(changed.dit.batch_size < 1024 for changed in taken(found, chosen))
    for changed in taken(found, chosen):
        assert changed.dit.batch_size > 512
        assert all(bucket.fits for bucket in plan_training(changed, crowded, room, 1.0, run=measuring).buckets)


def test_time_is_that_of_the_steps_that_there_are(tmp_path: Path) -> None:
    """Of 16 and 9 clips, of which a budget holds 9 and 7, one shape comes as 9 and 7 and the other as 5 and 4."""
    chosen = settings("dit.tokens_per_batch=112", "dit.image_share=0")
    found = plan_training(chosen, films(tmp_path, 25), GIB, 1.0, run=lambda spec: Rehearsed(float(spec.clips), None))
    assert sorted((bucket.clips, bucket.seconds) for bucket in found.buckets) == [(7, 7.0), (9, 9.0)]
    assert found.seconds == pytest.approx(found.steps * (9 + 7 + 5 + 4) / 4)
    assert found.tokens == found.steps * (16 * 12 + 9 * 16) / 4


ELASTIC = ("dit.batch_size=1024", "cluster.num_workers=8", "cluster.min_workers=2", "captioner.batch_size=8", "vae.batch_size=8")


@pytest.mark.parametrize("budget", [(), ("dit.tokens_per_batch=12000", "dit.packing=true")])
def test_what_fits_with_all_workers_but_not_with_the_fewest_is_said_with_what_would_make_it_fit(
    crowded: Project, budget: tuple[str, ...]
) -> None:
    chosen = (*ELASTIC, *budget)

    def needed(workers: int) -> int:
        alone = settings(*chosen, f"cluster.num_workers={workers}", f"cluster.min_workers={workers}")
        return max(bucket.num_bytes for bucket in arithmetic(alone, crowded, GIB).buckets)

    room = (needed(4) + needed(5)) // 2
    assert needed(5) < room < needed(4)
    found = arithmetic(settings(*chosen), crowded, room)
    assert all(bucket.fits for bucket in found.buckets)
    (note,) = found.notes
    assert note.startswith("steps fit with all 8 workers and with no fewer than 5, but the training may go on with 2, ")
    ways = [tuple(way.removeprefix("--set ").split(" --set ")) for way in note.split("`")[1::2]]
    assert ways[0] == ("cluster.min_workers=5",)
    assert len(ways) == 2
    for way in ways:
        assert arithmetic(settings(*chosen, *way), crowded, room).notes == []
    assert arithmetic(settings(*chosen), crowded, needed(2)).notes == []


def test_a_way_out_fits_with_the_fewest_workers_too(crowded: Project) -> None:
    room = max(bucket.num_bytes for bucket in arithmetic(settings(*ELASTIC), crowded, GIB).buckets) - MIB
    found = arithmetic(settings(*ELASTIC), crowded, room)
    assert not all(bucket.fits for bucket in found.buckets)
    assert found.ways_out
    for way, changed in zip(found.ways_out, taken(found, ELASTIC), strict=True):
        fewest = (f"cluster.num_workers={changed.cluster.fewest_workers}", f"cluster.min_workers={changed.cluster.fewest_workers}")
        with_fewest = settings(*ELASTIC, *(part for part in way.split() if part != "--set"), *fewest)
        for workers in (changed, with_fewest):
            plan = arithmetic(workers, crowded, room)
            assert all(bucket.fits for bucket in plan.buckets)
            assert plan.notes == []


def test_groups_that_share_out_clips_are_looked_at_whole(crowded: Project) -> None:
    chosen = (*ELASTIC, "dit.context_parallel=2", "cluster.min_workers=3")
    as_it_would_be = settings(*chosen, "cluster.num_workers=4", "cluster.min_workers=4")
    room = max(bucket.num_bytes for bucket in arithmetic(as_it_would_be, crowded, GIB).buckets)
    assert arithmetic(settings(*chosen), crowded, room).notes == []
    (note,) = arithmetic(settings(*chosen), crowded, room - 1).notes
    assert "no fewer than 6, but the training may go on with 4, " in note


def test_before_there_are_clips_the_settings_say_what_they_will_be(tmp_path: Path) -> None:
    found = arithmetic(settings("text_encoder.pretrained=some/t5"), Project(tmp_path, "films"))
    assert [(bucket.latents, bucket.clips) for bucket in found.buckets] == [((16, 3, 4, 4), 8)]
    assert found.steps == 10
    assert [note.partition(";")[0] for note in found.notes] == [
        "the text encoder was not taken yet",
        "there are no clips yet",
    ]
    assert list(tmp_path.iterdir()) == []


def test_a_pretrained_vae_is_asked_for_first(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shape of the latents of `some/vae` is not known yet; hint: `kinora run train_vae` takes it"):
        arithmetic(settings("vae.pretrained=some/vae"), Project(tmp_path, "films"))


@pytest.mark.slow  # it loads torch in a process of its own
def test_steps_are_rehearsed_and_their_time_and_memory_told(project: Project) -> None:
    beside = np.ones(1600 * MIB, np.uint8)  # what this process holds is not of the steps
    found = plan_training(settings("dit.batch_size=2", "cluster.threads=1"), project, None, seconds=4)
    assert found.seconds is not None
    assert found.seconds > 0
    assert all(bucket.is_measured and bucket.fits for bucket in found.buckets)
    for bucket in found.buckets:
        assert bucket.measured_bytes is not None
        assert bucket.num_bytes / 2 < bucket.measured_bytes < 2 * bucket.num_bytes < beside.nbytes


@pytest.mark.parametrize(
    ("changes", "together", "blocks"),
    [((), 1, 8), (("cluster.sharded=true",), 1, 8), (("cluster.sharded=true",), 1, 6), (("dit.context_parallel=2",), 2, 8)],
)
def test_what_workers_share_out_is_timed_by_the_blocks_that_one_has_room_for(
    project: Project, changes: tuple[str, ...], together: int, blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Spec] = []

    def run(spec: Spec) -> Rehearsed:
        """Takes a second for each ten million operations."""
        asked.append(spec)
        of_spec = replace(network, size=DitSize(**spec.settings["size"]))
        frames, rows, columns = spec.latents[1:]
        return Rehearsed(work(of_spec, Bucket((16, frames, rows, columns), spec.clips), way) / 1e7, 1)

    many = ("dit.size.hidden_size=256", "dit.size.depth=8", "dit.size.num_heads=4", "dit.optimizer=adamw", "dit.sample_every=0")
    chosen = settings("cluster.num_workers=4", "cluster.use_gpu=true", "dit.batch_size=8", *many, *changes)
    network, way = Network(chosen.dit.size, 16, 64), Way(True, text_tokens=12)
    largest = Bucket((16, 1, 8, 8), 2 * together)
    room = sum(memory(replace(network, size=replace(network.size, depth=depth)), largest, way).peak for depth in (blocks, blocks + 1)) // 2
    monkeypatch.setattr(training_plan, "_gpus", lambda: iter((room + (GIB if blocks == 8 else 0),)))
    found = plan_training(chosen, project, None, seconds=4, run=run)
    assert {(spec.settings["size"]["depth"], spec.settings["context_parallel"]) for spec in asked} == {(blocks, 1)}
    for bucket in found.buckets:
        alone = Bucket(bucket.latents, 2 * together)
        assert bucket.seconds == pytest.approx(work(network, alone, way) / 1e7 / together)
    assert any("of 4 workers by itself" in note for note in found.notes)
    assert any("from those of 6 of 8 blocks" in note for note in found.notes) == (blocks == 6)


def test_without_a_gpu_a_plan_for_one_says_that_it_gives_no_time(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_plan, "_gpus", lambda: iter(()))
    found = plan_training(settings("cluster.use_gpu=true"), project, GIB, seconds=4)
    assert found.seconds is None
    assert any(note.startswith("there is no GPU here, so no time is given; hint:") for note in found.notes)


def test_what_does_not_fit_is_not_rehearsed(project: Project) -> None:
    found = plan_training(settings(), project, 1, seconds=4)
    assert found.seconds is None
    assert not any(bucket.fits for bucket in found.buckets)


@pytest.mark.slow
def test_a_way_out_that_is_taken_fits_as_it_is_measured(crowded: Project) -> None:
    tables.clips(crowded).delete("num_frames = 1")
    chosen = ("dit.batch_size=512", "cluster.threads=1")
    needed = [bucket.measured_bytes or 0 for bucket in plan_training(settings(*chosen), crowded, None, seconds=1).buckets]
    room = max(needed) - 24 * MIB
    found = plan_training(settings(*chosen), crowded, room, seconds=1)
    assert not all(bucket.fits for bucket in found.buckets)
    alone = [changed for changed in taken(found, chosen) if not changed.cluster.sharded]  # which one process can rehearse
    assert alone
    for changed in alone:
        after = plan_training(changed, crowded, room, seconds=1)
        assert all(bucket.measured_bytes and bucket.fits for bucket in after.buckets), found.ways_out


@pytest.mark.slow
@pytest.mark.parametrize("changes", [("dit.lora_rank=4",), ("dit.tokens_per_batch=32", "dit.packing=true")])
def test_adapters_and_packed_clips_are_rehearsed_as_they_are_trained(project: Project, base: Path, changes: tuple[str, ...]) -> None:
    chosen = (f"dit.finetune={base}", "dit.batch_size=2", "cluster.threads=1")
    found = plan_training(settings(*chosen, *changes), project, None, seconds=1)
    assert found.notes == []
    assert all(bucket.measured_bytes and bucket.fits for bucket in found.buckets)
