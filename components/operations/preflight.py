"""What a training of the diffusion transformer takes, by arithmetic alone: parameters, memory by bucket, work. Needs no torch.

Memory is what a worker holds at its fullest: weights, their average and the optimiser's states all the time, then the activations that
the way back needs, which go as the gradients come.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod

from components.models.sizes import DitSize

FLOAT = 4  # bytes
TIME_WIDTH = 256  # of what a timestep is said in
REFINER_HEAD = 32
MODULATIONS = 6
SAID_OF_TIME = 8  # widths a frame that a block keeps of them
ADAPTED = 7  # layers of a block that a token's adapters see
EXCHANGED = 9  # widths a token of what goes from worker to worker around an attention


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
    beside=780 * 2**20,
)
ON_GPU = Kept(  # bfloat16 where autocast has it
    hidden=38, inner=4, heads=8, told=6, refined=46, working_hidden=16, working_inner=4, stream=2, copied=2, beside=2**30
)


@dataclass(frozen=True)
class Network:
    """A diffusion transformer's shape.

    Attributes:
        lora_rank: of adapters, which learn in place of all its weights; None: there are none.
    """

    size: DitSize
    latent_channels: int
    text_width: int
    lora_rank: int | None = None

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

    @property
    def block_adapters(self) -> int:
        wide, text = self.size.hidden_size, self.size.text_size
        sides = 2 * (2 * wide) + 3 * wide + 2 * (2 * wide) + text + 2 * wide + 2 * (wide + self.inner)
        return (self.lora_rank or 0) * sides

    @property
    def outside_adapters(self) -> int:
        """Of the text's refiner."""
        return (self.lora_rank or 0) * self.size.refiner_depth * 17 * self.size.text_size

    @property
    def adapters(self) -> int:
        return self.size.depth * self.block_adapters + self.outside_adapters

    @property
    def block_trained(self) -> int:
        return self.block_adapters if self.lora_rank else self.block_parameters

    @property
    def outside_trained(self) -> int:
        return self.outside_adapters if self.lora_rank else self.outside

    @property
    def held(self) -> int:
        """Parameters that a worker has, adapters included."""
        return self.parameters + self.adapters

    @property
    def trained(self) -> int:
        """Parameters that have gradients and an optimiser's states."""
        return self.size.depth * self.block_trained + self.outside_trained


@dataclass(frozen=True)
class Packed:
    """The most that a worker, or a group of them, may have of a step whose clips are of several shapes."""

    tokens: int
    clips: int
    frames: int


@dataclass(frozen=True)
class Bucket:
    """Steps of one shape of clips.

    Attributes:
        latents: (C, T, H, W) of a clip.
        clips: of a step, over all workers.
        share: of the steps.
        packed: where clips of larger shapes may lie among them; None: they are dealt out in turns.
    """

    latents: tuple[int, int, int, int]
    clips: int
    share: float = 1.0
    packed: Packed | None = None

    def grid(self, patch_size: tuple[int, int, int]) -> tuple[int, int, int]:
        """Answers how many tokens a clip has along time, height and width."""
        frames, rows, columns = (ceil(length / patch) for length, patch in zip(self.latents[1:], patch_size, strict=True))
        return frames, rows, columns

    def tokens_of_clip(self, patch_size: tuple[int, int, int]) -> int:
        return prod(self.grid(patch_size))

    def tokens(self, patch_size: tuple[int, int, int]) -> int:
        """Of a step, over all workers."""
        return self.clips * self.tokens_of_clip(patch_size)


@dataclass(frozen=True)
class Way:
    """How a training goes about it.

    Attributes:
        together: workers of a group, which share out the tokens of the same clips.
        state_bytes: a trained parameter that the optimiser keeps beside it.
        text_tokens: of a prompt, at most.
    """

    on_gpu: bool
    workers: int = 1
    together: int = 1
    sharded: bool = False
    recompute: bool = False
    state_bytes: float = 2 * FLOAT
    text_tokens: int = 64

    @property
    def groups(self) -> int:
        """Among which the clips of a step are dealt out."""
        return self.workers // self.together

    @property
    def kept(self) -> Kept:
        return ON_GPU if self.on_gpu else ON_CPU


def state_bytes(network: Network, optimizer: str) -> float:
    """Answers the bytes a trained parameter that an optimiser keeps: AdamW two numbers of each, Muon one of what is in blocks."""
    if optimizer == "adamw" or network.lora_rank == 1:  # thin matrices of one row are vectors
        return 2 * FLOAT
    return FLOAT if network.lora_rank else FLOAT * (1 + network.outside / network.parameters)


@dataclass(frozen=True)
class Load:
    """What the fullest worker has of a step.

    Attributes:
        tokens: that go through its blocks.
        whole: tokens of the clips of which it has these.
        clips: of them.
        frames: of tokens, each with a timestep of its own.
    """

    tokens: int
    whole: int
    clips: int
    frames: int


def load(network: Network, bucket: Bucket, way: Way) -> Load:
    """Answers what the fullest worker has of a bucket's steps; a group has the same places of each frame, filled up."""
    frames, rows, columns = bucket.grid(network.size.patch_size)
    clips = ceil(bucket.clips / way.groups)
    most = bucket.packed or Packed(clips * frames * rows * columns, clips, clips * frames)
    tokens = ceil(most.tokens * ceil(rows * columns / way.together) / (rows * columns))
    return Load(tokens, most.tokens, most.clips, most.frames)


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
    kept, size, held, rank = way.kept, network.size, load(network, bucket, way), network.lora_rank or 0
    words = held.clips * way.text_tokens
    token = kept.hidden * size.hidden_size + kept.inner * network.inner + kept.heads * size.num_heads + 6 * FLOAT
    token += kept.stream * (ADAPTED * rank + (2 * size.hidden_size if way.together > 1 else 0))
    block = held.tokens * token + words * (kept.told * size.hidden_size + kept.stream * rank)
    block += held.frames * SAID_OF_TIME * kept.stream * size.hidden_size
    ends = held.tokens * FLOAT * (3 * size.hidden_size + size.hidden_size // size.num_heads) + held.whole * FLOAT * 3 * network.patch
    ends += held.frames * FLOAT * 2 * MODULATIONS * size.hidden_size
    ends += words * (FLOAT * 2 * (network.text_width + size.text_size) + size.refiner_depth * kept.refined * size.text_size)
    each = held.tokens * size.hidden_size * kept.stream if way.recompute else block
    return block, size.depth * each + ends


def states_bytes(network: Network, way: Way) -> int:
    """Answers the bytes of weights, the average of those that learn and the optimiser's states, whole, as a checkpoint has them."""
    return FLOAT * network.held + round(network.trained * (FLOAT + way.state_bytes))


def memory(network: Network, bucket: Bucket, way: Way) -> Memory:
    """Answers what a worker holds at its fullest in steps of a bucket.

    The way back begins with all activations and no gradient, and ends with all gradients and the activations of one block; where a
    block's activations weigh more than its gradients the first moment is the worst one, else the last. Several workers that each have
    the whole model keep the gradients' room from step to step (DDP's buckets).
    """
    kept, size, shares = way.kept, network.size, way.workers if way.sharded else 1
    block, held = activations(network, bucket, way)
    tokens = load(network, bucket, way).tokens
    working = tokens * (kept.working_hidden * size.hidden_size + kept.working_inner * network.inner)
    working += tokens * EXCHANGED * kept.stream * size.hidden_size if way.together > 1 else 0
    copies = kept.copied * network.parameters
    if way.recompute:  # copies of what does not learn are made anew, too
        of_block = block + working + kept.copied * network.block_parameters
        first = held + (of_block if network.lora_rank else max(of_block, copies))
    else:
        first = held + working + copies
    gradients = FLOAT * network.trained // shares
    last = gradients + block + working
    gathered = 0
    if shares > 1:  # two blocks as a whole, with the gradients of one, and what is not in blocks
        of_blocks = 2 * (network.block_parameters + network.block_adapters) + network.block_trained
        gathered = FLOAT * (of_blocks + network.outside + network.outside_adapters + network.outside_trained)
    elif way.workers > 1:
        first += gradients
    states = states_bytes(network, way)
    passing = max(first, last) + gathered
    if shares > 1:  # an average of shares has its own of what does not learn; a checkpoint is gathered in the CPU's memory
        passing = passing if way.on_gpu else max(passing, states)
        states = (states + FLOAT * (network.held - network.trained)) // shares
    return Memory(states, passing, kept.beside)


def work(network: Network, bucket: Bucket, way: Way) -> float:
    """Answers the multiplications and additions of a step over all workers, those of the way back included."""
    size, tokens, length = network.size, bucket.tokens(network.size.patch_size), bucket.tokens_of_clip(network.size.patch_size)
    wide = size.hidden_size
    block = 2 * (6 * wide * wide + 2 * wide * network.inner) + 4 * wide * (length + way.text_tokens)
    words = bucket.clips * way.text_tokens * (4 * size.text_size * wide * size.depth + 24 * size.refiner_depth * size.text_size**2)
    passes = 4 if way.recompute else 3
    return float(passes * (tokens * size.depth * block + words) + tokens * 3 * 4 * network.patch * wide)


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
