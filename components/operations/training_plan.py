"""What a training of the diffusion transformer will take here, before anything is held: its buckets of the table, what fits, how long."""

import contextlib
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from components.models.weights import DamagedFolderError, load_json
from components.operations.freshness import model_folder, text_encoder_folder
from components.operations.history import planned_steps
from components.operations.preflight import Bucket, Memory, Network, Settings, Way, memory, said, state_bytes, step_seconds, ways_out, work
from components.sections import Config
from components.store import tables
from components.store.filters import KEPT, TRAINING
from components.store.project import Project
from components.train.buckets import Filling
from components.train.dit_rehearsal import Rehearsed, Spec, rehearse

MOST_REHEARSED = 3
UNKNOWN_TEXT_WIDTH = 4096  # of T5-XXL and UMT5-XXL
CGROUP = Path("/sys/fs/cgroup/memory.max")
WAYS_SHOWN = 3


@dataclass(frozen=True)
class BucketPlan:
    """One shape of clips in a step.

    Attributes:
        num_bytes: that a worker holds at its fullest, by arithmetic; measured_bytes: as it was rehearsed, null where it was not.
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
        parameters: of the model; states_bytes: of weights, their average and the optimiser's states in a worker.
        tokens: of all steps together.
        seconds: of all steps together; null where nothing was rehearsed.
        worker_bytes: that a worker may hold; null where that is not known.
        ways_out: settings with any of which what does not fit would, as the command line takes them.
        notes: what was assumed, and what could not be rehearsed.
    """

    parameters: int
    states_bytes: int
    steps: int
    tokens: int
    seconds: float | None
    workers: int
    worker_bytes: int | None
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
        ValueError: the latents' shape is not known yet, or a step leaves a worker without a clip.
    """
    notes: list[str] = []
    network, text_tokens = _network(config, project, notes)
    buckets, clips = _buckets(config, project, network, notes)
    cluster, patch_size = config.cluster, config.dit.size.patch_size
    way = Way(
        on_gpu=cluster.use_gpu,
        workers=cluster.num_workers,
        sharded=cluster.sharded and cluster.num_workers > 1,
        recompute=config.dit.recompute_activations,
        state_bytes=state_bytes(network, config.dit.optimizer),
        text_tokens=text_tokens,
    )
    budget = config.dit.tokens_per_batch
    settings = Settings(way, buckets, budget or config.dit.batch_size, budget is not None)
    room = worker_bytes or _memory_here(config)
    if room is None:
        notes.append("there is no GPU here, so what fits is not known; hint: `--memory GIB` of the one that a worker will have")
    needed = [memory(network, bucket, way) for bucket in buckets]
    rehearsed = _rehearsals(config, network, settings, needed, room, seconds, run, notes)
    measured = [(buckets[place], found.seconds) for place, found in rehearsed.items() if found.seconds is not None]
    times = [step_seconds(network, way, bucket, measured) for bucket in buckets]
    steps, tokens = planned_steps(config, "train_dit", clips), [bucket.tokens(patch_size) for bucket in buckets]
    whole = [time * bucket.share for time, bucket in zip(times, buckets, strict=True) if time is not None]
    plans = [
        BucketPlan(
            bucket.latents,
            bucket.clips,
            tokens[place],
            bucket.share,
            needed[place].peak,
            found.num_bytes if (found := rehearsed.get(place)) else None,
            times[place],
            any(bucket is one for one, _ in measured),
            None if room is None else _most(needed[place], rehearsed.get(place)) <= room,
        )
        for place, bucket in enumerate(buckets)
    ]
    ways = list(ways_out(network, settings, room))[:WAYS_SHOWN] if room is not None and not all(plan.fits for plan in plans) else []
    return TrainingPlan(
        parameters=network.parameters,
        states_bytes=needed[0].states,
        steps=steps,
        tokens=round(steps * sum(count * bucket.share for count, bucket in zip(tokens, buckets, strict=True))),
        seconds=steps * sum(whole) if len(whole) == len(buckets) else None,
        workers=cluster.num_workers,
        worker_bytes=room,
        buckets=plans,
        ways_out=[said(changes) for changes, _ in ways],
        notes=notes,
    )


def _most(needed: Memory, found: Rehearsed | None) -> int:
    """Answers what was measured, which knows better, or what was reckoned."""
    return found.num_bytes if found is not None and found.num_bytes is not None else needed.peak


def _network(config: Config, project: Project, notes: list[str]) -> tuple[Network, int]:
    """Answers the network, and how many tokens a prompt has at most, as the table has it or as the settings let it be foreseen."""
    width, tokens = _text_shape(config, project, notes)
    return Network(config.dit.size, _vae_facts(config, project)[0], width), tokens


def _text_shape(config: Config, project: Project, notes: list[str]) -> tuple[int, int]:
    rows = _read(project, "text_shape")
    chosen, folder = config.text_encoder, text_encoder_folder(config, project)
    if chosen.pretrained is None:
        size = config.captioner.size
        width, tokens = size.text_width, size.context_length
        if config.captioner.pretrained is not None and folder is not None:
            width = int(load_json(folder, "kinora")["text_width"])
    elif folder is not None:
        width, tokens = int(load_json(folder, "text_encoder")["text_width"]), chosen.max_tokens
    else:
        width, tokens = UNKNOWN_TEXT_WIDTH, chosen.max_tokens
        notes.append(f"the text encoder was not taken yet; its width is reckoned as {width}; hint: `kinora run encode` takes it")
    of_width = [shape for shape in rows if shape[1] == width]
    return width, max((shape[0] for shape in of_width), default=tokens)


def _vae_facts(config: Config, project: Project) -> tuple[int, int, int]:
    """Answers the channels of latents, and the frames and pixels of a side that one of them holds.

    Raises:
        ValueError: a pretrained VAE, which was not taken yet.
    """
    if config.vae.pretrained is None:
        size = config.vae.size
        return size.latent_channels, size.temporal_compression_ratio, size.spatial_compression_ratio
    folder = model_folder("train_vae", project)
    try:
        noted = load_json(folder, "vae") if folder is not None else None
    except DamagedFolderError:
        noted = None
    if noted is None:
        raise ValueError(f"the shape of the latents of `{config.vae.pretrained}` is not known yet; hint: `kinora run train_vae` takes it")
    return noted["latent_channels"], noted["temporal_compression_ratio"], noted["spatial_compression_ratio"]


def _buckets(config: Config, project: Project, network: Network, notes: list[str]) -> tuple[tuple[Bucket, ...], int]:
    """Answers the shapes of steps, the most tokens first, and how many clips there are to train on.

    Raises:
        ValueError: a step leaves a worker without a clip.
    """
    shapes = _latents_shapes(config, project, notes)
    settings, patch_size = config.dit, config.dit.size.patch_size
    filling = Filling(settings.batch_size, settings.tokens_per_batch, settings.packing, config.cluster.num_workers)
    tokens = {shape: Bucket(shape, 1).tokens_of_clip(patch_size) for shape in shapes}
    filling.check(max(tokens.values()))
    clips, largest = sum(shapes.values()), max(tokens, key=lambda shape: tokens[shape])
    if settings.packing:  # a step holds clips of all shapes up to the budget, at worst the largest alone
        return (Bucket(largest, filling.clips_of(tokens[largest])),), clips
    steps = {shape: -(-count // filling.clips_of(tokens[shape])) for shape, count in shapes.items()}
    found = [Bucket(shape, filling.clips_of(tokens[shape]), count / sum(steps.values())) for shape, count in steps.items()]
    return tuple(sorted(found, key=lambda bucket: (-bucket.tokens(patch_size), bucket.latents))), clips


def _latents_shapes(config: Config, project: Project, notes: list[str]) -> dict[tuple[int, int, int, int], int]:
    """Answers how many clips have latents of each shape: those that were encoded, else those that will be, else what the settings cut."""
    channels, frames, side = _vae_facts(config, project)
    known = [shape for shape in _read(project, "latents_shape") if shape[0] == channels]
    if known:
        return dict(Counter((a, b, c, d) for a, b, c, d in known))
    clip, rows = config.clip, []
    counted: Counter[tuple[int, int, int]] = Counter()
    if tables.exists(project, "clips"):
        columns = ["num_frames", "height", "width"]
        rows = tables.clips(project).read(columns, TRAINING) or tables.clips(project).read(columns, KEPT)
    if not rows:
        notes.append("there are no clips yet; they are reckoned as `clip` cuts them, and as many as all steps see")
        counted[clip.num_frames, clip.height, clip.width] = config.dit.steps * config.dit.batch_size
    counted.update((row["num_frames"], row["height"], row["width"]) for row in rows)
    return {(channels, 1 + (shape[0] - 1) // frames, shape[1] // side, shape[2] // side): count for shape, count in counted.items()}


def _read(project: Project, column: str) -> list[list[int]]:
    """Answers a column of the clips to train on, where it is known."""
    if not tables.exists(project, "clips"):
        return []
    return [row[column] for row in tables.clips(project).read([column], f"{TRAINING} AND {column} IS NOT NULL")]


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


def _rehearsals(
    config: Config,
    network: Network,
    settings: Settings,
    needed: Sequence[Memory],
    room: int | None,
    seconds: float,
    run: Callable[[Spec], Rehearsed],
    notes: list[str],
) -> Mapping[int, Rehearsed]:
    """Rehearses one worker's steps of the buckets that most work is in, of those that fit; by their places."""
    if not seconds or (config.cluster.use_gpu and not any(_gpus())):
        return {}
    way, found = settings.way, {}
    if way.sharded:
        notes.append("a model that is shared out cannot be rehearsed by one worker, so no time is given")
        return {}
    fitting = [place for place, held in enumerate(needed) if room is not None and held.peak <= room]
    chosen = sorted(fitting, key=lambda place: -settings.buckets[place].share * work(network, settings.buckets[place], way))[
        :MOST_REHEARSED
    ]
    for place in sorted(chosen):
        bucket = settings.buckets[place]
        found[place] = run(
            Spec(
                settings=config.dit.model_dump(mode="json"),
                latents=bucket.latents,
                clips=-(-bucket.clips // way.workers),
                text=(way.text_tokens, network.text_width),
                device="cuda" if way.on_gpu else "cpu",
                threads=min(config.cluster.threads, os.cpu_count() or 1),
                seconds=seconds / len(chosen),
            )
        )
        if found[place].why is not None:
            notes.append(f"latents of {'x'.join(map(str, bucket.latents))} could not be rehearsed: {found[place].why}")
    if way.workers > 1:
        notes.append(f"times are of one of {way.workers} workers by itself: what they send each other comes on top")
    return found
