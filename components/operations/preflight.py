"""What a training of the diffusion transformer takes, by arithmetic alone: parameters, memory by bucket, work. Needs no torch.

Memory is what a worker holds at its fullest: weights, their average and the optimiser's states all the time, then the activations that
the way back needs, which go as the gradients come.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, prod
from typing import Any

from components.models.sizes import DitSize

FLOAT = 4  # bytes
TIME_WIDTH = 256  # of what a timestep is said in
REFINER_HEAD = 32
MODULATIONS = 6
SAID_OF_TIME = 8  # widths a frame that a block keeps of them
MOST_WORKERS = 64


@dataclass(frozen=True)
class Kept:
    """Bytes that one block keeps of a token for the way back, by what they grow with, and what comes and goes beside them.

    Attributes:
        hidden, inner, heads: bytes a channel of the width and of the feed-forward, and a head.
        told: bytes a channel of the width, of a token of text.
        refined: bytes a channel of the text's width, of a token of text in a block of its refiner.
        working_hidden, working_inner: of what the way back through a block holds for a moment.
        stream: bytes a channel of what goes from block to block.
        copied: bytes a parameter of copies in another precision, which live as long as the activations.
        beside: bytes of libraries and their buffers.
    """

    hidden: int
    inner: int
    heads: int
    told: int
    refined: int
    working_hidden: int
    working_inner: int
    stream: int
    copied: int
    beside: int


ON_CPU = Kept(
    hidden=19 * FLOAT,
    inner=2 * FLOAT,
    heads=5 * FLOAT,
    told=3 * FLOAT,
    refined=18 * FLOAT,
    working_hidden=2 * FLOAT,
    working_inner=FLOAT,
    stream=FLOAT,
    copied=0,
    beside=720 * 2**20,
)
ON_GPU = Kept(  # bfloat16 where autocast has it
    hidden=38, inner=4, heads=8, told=6, refined=46, working_hidden=16, working_inner=4, stream=2, copied=2, beside=2**30
)


@dataclass(frozen=True)
class Network:
    """A diffusion transformer's shape."""

    size: DitSize
    latent_channels: int
    text_width: int

    @property
    def patch(self) -> int:
        return prod(self.size.patch_size) * self.latent_channels

    @property
    def inner(self) -> int:
        return round(self.size.mlp_ratio * self.size.hidden_size)

    @property
    def block_parameters(self) -> int:
        """Of one block: two attentions, a norm, a feed-forward, the bias of its modulations."""
        wide, text = self.size.hidden_size, self.size.text_size
        feed_forward = 2 * wide * self.inner + self.inner + wide
        return _attention(wide, wide, self.size.num_heads) + _attention(wide, text, self.size.num_heads) + feed_forward + 8 * wide

    @property
    def parameters(self) -> int:
        return self.size.depth * self.block_parameters + self.outside

    @property
    def outside(self) -> int:
        """Of all that is there once: what goes in and out, the timestep's layers, the text's refiner."""
        wide, text, patch = self.size.hidden_size, self.size.text_size, self.patch
        refiner_block = _attention(text, text, max(1, text // REFINER_HEAD)) + 2 * 4 * text * text + 5 * text + 4 * text
        refiner = 2 * self.text_width + _linear(self.text_width, text) + self.size.refiner_depth * refiner_block + 2 * text
        time = _linear(TIME_WIDTH, wide) + _linear(wide, wide) + _linear(wide, MODULATIONS * wide) + _linear(wide, 2 * wide)
        return _linear(patch, wide) + _linear(wide, patch) + _linear(text, wide) + time + refiner


@dataclass(frozen=True)
class Bucket:
    """Steps of one shape of clips.

    Attributes:
        latents: (C, T, H, W) of a clip.
        clips: of a step, over all workers.
        share: of the steps.
    """

    latents: tuple[int, int, int, int]
    clips: int
    share: float = 1.0

    def tokens_of_clip(self, patch_size: tuple[int, int, int]) -> int:
        return prod(ceil(length / patch) for length, patch in zip(self.latents[1:], patch_size, strict=True))

    def tokens(self, patch_size: tuple[int, int, int]) -> int:
        """Of a step, over all workers."""
        return self.clips * self.tokens_of_clip(patch_size)


@dataclass(frozen=True)
class Way:
    """How a training goes about it.

    Attributes:
        state_bytes: a parameter that the optimiser keeps beside it.
        text_tokens: of a prompt, at most.
    """

    on_gpu: bool
    workers: int = 1
    sharded: bool = False
    recompute: bool = False
    state_bytes: float = 2 * FLOAT
    text_tokens: int = 64


def state_bytes(network: Network, optimizer: str) -> float:
    """Answers the bytes a parameter that an optimiser keeps: AdamW two numbers of each, Muon one of what is in blocks."""
    if optimizer == "adamw":
        return 2 * FLOAT
    return FLOAT * (1 + network.outside / network.parameters)


@dataclass(frozen=True)
class Memory:
    """Bytes of one worker at its fullest: what is held all the time, what is for the way back at the worst moment, what libraries take."""

    states: int
    passing: int
    beside: int

    @property
    def peak(self) -> int:
        return self.states + self.passing + self.beside


def activations(network: Network, bucket: Bucket, way: Way) -> tuple[int, int]:
    """Answers the bytes that a worker keeps for the way back: of one block, and of the whole model."""
    kept, size = ON_GPU if way.on_gpu else ON_CPU, network.size
    clips = ceil(bucket.clips / way.workers)
    tokens, words = clips * bucket.tokens_of_clip(size.patch_size), clips * way.text_tokens
    frames = clips * ceil(bucket.latents[1] / size.patch_size[0])  # of tokens, each with a timestep of its own
    block = tokens * (kept.hidden * size.hidden_size + kept.inner * network.inner + kept.heads * size.num_heads + 6 * FLOAT)
    block += (words * kept.told + frames * SAID_OF_TIME * kept.stream) * size.hidden_size
    ends = tokens * FLOAT * (3 * size.hidden_size + size.hidden_size // size.num_heads + 3 * network.patch)
    ends += frames * FLOAT * 2 * MODULATIONS * size.hidden_size
    ends += words * (FLOAT * 2 * (network.text_width + size.text_size) + size.refiner_depth * kept.refined * size.text_size)
    each = tokens * size.hidden_size * kept.stream if way.recompute else block
    return block, size.depth * each + ends


def memory(network: Network, bucket: Bucket, way: Way) -> Memory:
    """Answers what a worker holds at its fullest in steps of a bucket.

    The way back begins with all activations and no gradient, and ends with all gradients and the activations of one block; where a
    block's activations weigh more than its gradients the first moment is the worst one, else the last.
    """
    kept, size = ON_GPU if way.on_gpu else ON_CPU, network.size
    block, held = activations(network, bucket, way)
    tokens = ceil(bucket.clips / way.workers) * bucket.tokens_of_clip(size.patch_size)
    working = tokens * (kept.working_hidden * size.hidden_size + kept.working_inner * network.inner)
    copies = kept.copied * network.parameters
    if way.recompute:
        first = held + max(block + working + kept.copied * network.block_parameters, copies)
    else:
        first = held + working + copies
    shares = way.workers if way.sharded else 1
    last = FLOAT * network.parameters // shares + block + working
    gathered = 0
    if shares > 1:  # two blocks as a whole, with the gradients of one, and what is not in blocks
        gathered = FLOAT * (3 * network.block_parameters + 2 * network.outside)
    states = round(network.parameters * (2 * FLOAT + way.state_bytes)) // shares
    return Memory(states, max(first, last) + gathered, kept.beside)


def work(network: Network, bucket: Bucket, way: Way) -> float:
    """Answers the multiplications and additions of a step over all workers, those of the way back included."""
    size, tokens, length = network.size, bucket.tokens(network.size.patch_size), bucket.tokens_of_clip(network.size.patch_size)
    wide = size.hidden_size
    block = 2 * (6 * wide * wide + 2 * wide * network.inner) + 4 * wide * (length + way.text_tokens)
    words = bucket.clips * way.text_tokens * (4 * size.text_size * wide * size.depth + 24 * size.refiner_depth * size.text_size**2)
    passes = 4 if way.recompute else 3
    return float(passes * (tokens * size.depth * block + words) + tokens * 3 * 4 * network.patch * wide)


@dataclass(frozen=True)
class Settings:
    """What may be set otherwise so that a training fits; `batch` is clips of a step or, with a budget, its tokens."""

    way: Way
    buckets: tuple[Bucket, ...]
    batch: int
    by_tokens: bool

    def with_batch(self, batch: int, patch_size: tuple[int, int, int]) -> "Settings":
        sizes = [batch // bucket.tokens_of_clip(patch_size) if self.by_tokens else batch for bucket in self.buckets]
        buckets = tuple(replace(bucket, clips=clips) for bucket, clips in zip(self.buckets, sizes, strict=True))
        return replace(self, buckets=buckets, batch=batch)

    def smallest_batch(self, patch_size: tuple[int, int, int]) -> int:
        """The least that leaves no worker without a clip."""
        most = max(bucket.tokens_of_clip(patch_size) for bucket in self.buckets)
        return self.way.workers * (most if self.by_tokens else 1)


def fits(network: Network, settings: Settings, num_bytes: int) -> bool:
    """Answers whether every bucket fits in a worker's memory."""
    return all(memory(network, bucket, settings.way).peak <= num_bytes for bucket in settings.buckets)


def ways_out(network: Network, settings: Settings, num_bytes: int) -> Iterator[tuple[dict[str, Any], Settings]]:
    """Yields the settings, by name, with any of which a training that does not fit would, the mildest first; none where none would.

    Activations are computed anew first, which costs a third more work; what remains is met by smaller steps, or by more workers that
    share out the model.
    """
    recomputed = replace(settings, way=replace(settings.way, recompute=True))
    told = {} if settings.way.recompute else {"dit.recompute_activations": "true"}
    if told and fits(network, recomputed, num_bytes):
        yield told, recomputed
        for found in (_smaller(network, settings, num_bytes), _shared(network, settings, num_bytes)):
            if found is not None:
                yield found
        return
    for found in (_smaller(network, recomputed, num_bytes), _shared(network, recomputed, num_bytes)):
        if found is not None:
            yield told | found[0], found[1]


def _smaller(network: Network, settings: Settings, num_bytes: int) -> tuple[dict[str, Any], Settings] | None:
    """Answers the largest step that fits."""
    patch_size = network.size.patch_size
    low, high = settings.smallest_batch(patch_size), settings.batch
    if low >= high or not fits(network, settings.with_batch(low, patch_size), num_bytes):
        return None
    while high - low > 1:  # low fits, high does not
        middle = (low + high) // 2
        low, high = (middle, high) if fits(network, settings.with_batch(middle, patch_size), num_bytes) else (low, middle)
    return {"dit.tokens_per_batch" if settings.by_tokens else "dit.batch_size": low}, settings.with_batch(low, patch_size)


def _shared(network: Network, settings: Settings, num_bytes: int) -> tuple[dict[str, Any], Settings] | None:
    """Answers the fewest workers, twice as many each time, that fit a model in when they share it out."""
    workers = 2 if settings.way.workers == 1 else settings.way.workers
    while workers <= MOST_WORKERS:
        shared = replace(settings, way=replace(settings.way, workers=workers, sharded=True))
        if settings.batch < shared.smallest_batch(network.size.patch_size):
            return None
        if fits(network, shared, num_bytes):
            told: dict[str, Any] = {} if settings.way.sharded else {"cluster.sharded": "true"}
            return told | ({} if workers == settings.way.workers else {"cluster.num_workers": workers}), shared
        workers *= 2
    return None


def said(changes: Mapping[str, Any]) -> str:
    """Says settings as the command line takes them."""
    return " ".join(f"--set {name}={value}" for name, value in changes.items())


def step_seconds(network: Network, way: Way, bucket: Bucket, measured: Sequence[tuple[Bucket, float]]) -> float | None:
    """Answers what a step of a bucket takes, by the measured one whose work is nearest to its own; None where nothing was measured."""
    if not measured:
        return None
    wanted = work(network, bucket, way)
    nearest, seconds = min(measured, key=lambda one: abs(work(network, one[0], way) - wanted))
    return seconds * wanted / work(network, nearest, way)


def _linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def _attention(wide: int, source: int, heads: int) -> int:
    """Queries, keys and values of a source, their norms by head, and what goes out."""
    return _linear(wide, wide) + _linear(source, 2 * wide) + 2 * (wide // heads) + _linear(wide, wide)
