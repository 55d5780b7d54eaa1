"""What a training of the diffusion transformer will take here, before anything is held: its buckets of the table, what fits, how long."""

import contextlib
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

import psutil

from components.config import SettingsError, changed
from components.operations.epochs import mean_step
from components.operations.history import planned_steps
from components.operations.preflight import FLOAT, Bucket, Network, Way, memory, state_bytes, states_bytes, step_seconds
from components.operations.rehearsals import of_fullest, rehearsals
from components.operations.training_facts import Facts, facts_of
from components.operations.ways_out import Settings, fewest_that_fit, said, ways_out
from components.sections import Config
from components.store.project import Project
from components.train.buckets import Filling
from components.train.dit_rehearsal import Rehearsed, Spec, rehearse
from components.train.dit_samples import affordable

CGROUP = Path("/sys/fs/cgroup/memory.max")
WAYS_SHOWN = 3


@dataclass(frozen=True)
class BucketPlan:
    """One shape of clips in a step.

    Attributes:
        clips, tokens: of a step over all workers; packed, where all of them are of this shape.
        num_bytes: that a worker holds at its fullest, by arithmetic; measured_bytes: where it was rehearsed, as that was, with what
            several workers and the clips' data take beside it.
        seconds: of a step; null where nothing was rehearsed.
        fits: null where a worker's memory is not known.
    """

    latents: tuple[int, int, int, int]
    clips: int
    tokens: int
    share: float
    num_bytes: int
    measured_bytes: int | None
    seconds: float | None
    is_measured: bool
    fits: bool | None


@dataclass(frozen=True)
class TrainingPlan:
    """What a training will take.

    Attributes:
        parameters: of the model; trained: of those that learn, adapters alone where there are any.
        states_bytes: of weights, their average and the optimiser's states in a worker.
        tokens: of all steps together, smaller ones and those that see images among them.
        seconds: of all steps together; null where nothing was rehearsed.
        worker_bytes: that a worker may hold; null where that is not known.
        clip_bytes: of the latents and text embeddings that each worker keeps in its machine's memory; of CPU workers, part of theirs.
        start_bytes: of the whole model, which a GPU's worker has there while it starts; 0 of CPU workers.
        checkpoint_bytes: of weights, their average and the optimiser's states, which the first of the GPU workers has there, whole, at
            each checkpoint; 0 of CPU workers, which have them anyway.
        sample_bytes: of two copies of the average, which samples are drawn from meanwhile: the first worker's, in a CPU worker part of
            its own, and that of the process beside it, which has a text encoder and what a sample takes on top; 0 where none are drawn.
        ways_out: settings with any of which what does not fit would, as the command line takes them.
        notes: what was assumed, and what could not be rehearsed.
    """

    parameters: int
    trained: int
    states_bytes: int
    steps: int
    tokens: int
    seconds: float | None
    workers: int
    worker_bytes: int | None
    clip_bytes: int
    start_bytes: int
    checkpoint_bytes: int
    sample_bytes: int
    buckets: list[BucketPlan]
    ways_out: list[str]
    notes: list[str]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def plan_training(
    config: Config, project: Project, worker_bytes: int | None, seconds: float, run: Callable[[Spec], Rehearsed] = rehearse
) -> TrainingPlan:
    """Plans a training of the diffusion transformer with these settings on a project's clips.

    Args:
        worker_bytes: memory of one worker, or of its GPU; None: what this machine has.
        seconds: for rehearsals, about; 0: none.
        run: rehearses steps.

    Raises:
        ModelNotFoundError: there is no such model to train further.
        ValueError: it is not one of this project's, the latents' shape is not known yet, or a step leaves a worker without a clip.
    """
    facts = facts_of(config, project)
    network, settings, notes = facts.network, _settings(facts), facts.notes
    way, patch_size = settings.way, network.size.patch_size
    buckets = settings.buckets(patch_size)
    room = worker_bytes or _memory_here(config)
    if room is None:
        notes.append("there is no GPU here, so what fits is not known; hint: `--memory GIB` of the one that a worker will have")
    elif worker_bytes is None and not way.on_gpu:
        settings = replace(settings, fewest=None)  # fewer workers would share out this machine's memory anew
    steps = planned_steps(config, "train_dit", sum(facts.clips.values()))
    sampled = FLOAT * network.held if _samples(facts, steps) else 0
    reckoned = _Reckoned(network, 0 if way.on_gpu else facts.clip_bytes + sampled, {})
    needed = [reckoned.plain(bucket, way) for bucket in buckets]
    rehearsed: Mapping[int, Rehearsed] = {}
    if seconds and way.on_gpu and not any(_gpus()):
        notes.append("there is no GPU here, so no time is given; hint: the same on a machine that has one like the workers'")
    elif seconds and room is not None:
        rehearsed = rehearsals(facts, settings, [held <= room for held in needed], room, seconds, run)
    reckoned = replace(reckoned, measured=_measured(reckoned, settings, rehearsed))
    timed = {place: found.seconds for place, found in rehearsed.items() if found.seconds is not None}
    measured = [(of_fullest(network, buckets[place], way), seconds) for place, seconds in timed.items()]
    times = [step_seconds(network, way, of_fullest(network, bucket, way), measured) for bucket in buckets]
    plans = [
        BucketPlan(
            bucket.latents,
            bucket.clips,
            bucket.tokens(patch_size),
            bucket.share,
            needed[place],
            reckoned.measured.get(needed[place]) if place in rehearsed else None,
            times[place],
            place in timed,
            None if room is None else reckoned(bucket, way) <= room,
        )
        for place, bucket in enumerate(buckets)
    ]
    fits = room is None or all(plan.fits for plan in plans)
    ways = [] if room is None or fits else _ways_out((config, facts.config), reckoned, settings, room)
    if room is not None and fits:
        notes += _lacking((config, facts.config), reckoned, settings, room)
    seconds_of = {plan.latents: plan.seconds for plan in plans}
    mean = mean_step(network, settings, seconds_of, facts.config.dit.image_share, facts.config.dit.seed)
    return TrainingPlan(
        parameters=network.parameters,
        trained=network.trained,
        states_bytes=memory(network, buckets[0], way).states,
        steps=steps,
        tokens=round(steps * mean.tokens),
        seconds=None if mean.seconds is None else steps * mean.seconds,
        workers=way.workers,
        worker_bytes=room,
        clip_bytes=facts.clip_bytes,
        start_bytes=FLOAT * network.held if way.on_gpu else 0,
        checkpoint_bytes=states_bytes(network, way) if way.on_gpu else 0,
        sample_bytes=2 * sampled,
        buckets=plans,
        ways_out=ways,
        notes=notes,
    )


def _settings(facts: Facts) -> Settings:
    """Answers how the steps are made, and by whom.

    Raises:
        ValueError: a step leaves a worker without a clip.
    """
    dit, cluster = facts.config.dit, facts.config.cluster
    way = Way(
        on_gpu=cluster.use_gpu,
        workers=cluster.num_workers,
        together=dit.context_parallel,
        sharded=cluster.sharded and cluster.num_workers > 1,
        recompute=dit.recompute_activations,
        state_bytes=state_bytes(facts.network, dit.optimizer),
        text_tokens=facts.text_tokens,
    )
    budget = dit.tokens_per_batch
    most = max(Bucket(shape, 1).tokens_of_clip(dit.size.patch_size) for shape in facts.clips)
    Filling(dit.batch_size, budget, dit.packing, way.groups).check(most)
    fewest = ceil(cluster.fewest_workers / way.together) * way.together
    elastic = fewest if fewest < way.workers else None
    return Settings(way, facts.clips, budget or dit.batch_size, budget is not None, dit.packing, elastic)


def _samples(facts: Facts, steps: int) -> bool:
    """Tells whether samples are drawn while the model trains; of too large a model none are."""
    dit = facts.config.dit
    shapes = [*facts.clips, *((channels, 1, *size) for channels, _, *size in facts.clips if dit.image_share)]
    notes = {"generate": facts.config.generate.model_dump(), "size": {"patch_size": dit.size.patch_size}, "latents_shapes": shapes}
    return 0 < dit.sample_every < steps and affordable(notes, facts.network.held, 1).prompts > 0


@dataclass(frozen=True)
class _Reckoned:
    """Answers the bytes that a worker holds in steps of a bucket, by arithmetic that measurements set right.

    Attributes:
        data: bytes of clips that are in the same memory.
        measured: bytes that were measured, by what was reckoned for the same.
    """

    network: Network
    data: int
    measured: Mapping[int, int]

    def plain(self, bucket: Bucket, way: Way) -> int:
        return memory(self.network, bucket, way).peak + self.data

    def __call__(self, bucket: Bucket, way: Way) -> int:
        """Answers what was measured where it was; else never less than what is beyond reckoning elsewhere, in bytes or as a share."""
        plain = self.plain(bucket, way)
        beyond = [max(plain + found - held, plain * found // held) for held, found in self.measured.items()]
        return self.measured.get(plain, max([plain, *beyond]))

    def fits_in(self, room: int) -> Callable[[Settings], bool]:
        """Answers what tells of settings whether all steps of all their workers fit in so many bytes of each."""
        return lambda settings: all(self(bucket, settings.way) <= room for bucket in settings.buckets(self.network.size.patch_size))


def _measured(reckoned: _Reckoned, settings: Settings, rehearsed: Mapping[int, Rehearsed]) -> dict[int, int]:
    """Answers what rehearsals measured, with what a lone worker on made-up clips has not, by what was reckoned."""
    found: dict[int, int] = {}
    buckets = settings.buckets(reckoned.network.size.patch_size)
    for place, one in rehearsed.items():
        if one.num_bytes is not None:
            plain = reckoned.plain(buckets[place], settings.way)
            alone = of_fullest(reckoned.network, buckets[place], settings.way)
            found[plain] = one.num_bytes + plain - memory(reckoned.network, alone, replace(settings.way, workers=1)).peak
    return found


def _ways_out(configs: Sequence[Config], reckoned: _Reckoned, settings: Settings, room: int) -> list[str]:
    """Answers what makes a training fit, as the command line takes it, of that what all settings bear."""
    found = [_borne(configs, changes) for changes, _ in ways_out(reckoned.network, settings, reckoned.fits_in(room))]
    return [said(changes) for changes in found if changes is not None][:WAYS_SHOWN]


def _lacking(configs: Sequence[Config], reckoned: _Reckoned, settings: Settings, room: int) -> Iterator[str]:
    """Says of a training that fits where it does not with as few workers as it may go on with, and what it would fit by."""
    least, workers = fewest_that_fit(settings, reckoned.fits_in(room)), settings.way.workers
    if settings.fewest is None or least == settings.fewest:
        return
    ways = [f"--set cluster.min_workers={least}"]
    ways += [way for way in _ways_out(configs, reckoned, settings, room) if "cluster." not in way][:1]
    yield (
        f"steps fit with all {workers} workers and with no fewer than {least}, but the training may go on with {settings.fewest}, each of "
        f"which has more of a step, and end for lack of memory; hint: {', or '.join(f'`{way}`' for way in ways)}"
    )


def _borne(configs: Sequence[Config], changes: Mapping[str, Any]) -> dict[str, Any] | None:
    """Answers changes with the batch sizes that they ask for elsewhere, or None where the settings do not bear them."""
    whole = dict(changes)
    for config in configs:
        workers = whole.get("cluster.num_workers", config.cluster.num_workers)
        groups = workers // whole.get("dit.context_parallel", config.dit.context_parallel)
        for section, least in (("captioner", workers), ("vae", workers), ("dit", groups)):
            if whole.get(name := f"{section}.batch_size", getattr(config, section).batch_size) < least:
                whole[name] = least
        try:
            changed(config, whole)
        except SettingsError:
            return None
    return whole


def _memory_here(config: Config) -> int | None:
    """Answers the memory of this machine's GPU, or a worker's share of the machine's own; None without the GPU that is asked for."""
    if config.cluster.use_gpu:
        cards = list(_gpus())
        return min(cards) if cards else None
    machine = psutil.virtual_memory().total
    with contextlib.suppress(OSError, ValueError):  # a container without a limit
        machine = min(machine, int(CGROUP.read_text()))
    return int(machine // config.cluster.num_workers)


def _gpus() -> Iterator[int]:
    """Yields the bytes of each GPU here."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return
    asked = [program, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=60)
    yield from (int(line) * 2**20 for line in done.stdout.split() if line.isdigit())
