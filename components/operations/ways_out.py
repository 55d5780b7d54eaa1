"""Which settings make a training of the diffusion transformer fit where it does not: the shapes of its steps, and what may be changed."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

from components.operations.preflight import Bucket, Network, Packed, Way

MOST_WORKERS = 64

Patch = tuple[int, int, int]
Latents = tuple[int, int, int, int]


@dataclass(frozen=True)
class Settings:
    """What may be set otherwise so that a training fits.

    Attributes:
        clips: that there are, of each shape of latents (C, T, H, W).
        batch: clips of a step or, with a budget, its tokens.
        by_tokens: there is a budget; packed: clips of all shapes fill it together.
        fewest: workers, in whole groups, that the training goes on with where others are lost; None: all of them.
    """

    way: Way
    clips: Mapping[Latents, int]
    batch: int
    by_tokens: bool = False
    packed: bool = False
    fewest: int | None = None

    def buckets(self, patch_size: Patch) -> tuple[Bucket, ...]:
        """Answers the shapes of steps, the most tokens first.

        Packed, a bucket stands for the steps whose smallest clips are of its shape, with as many of these as would fill one, and its
        share is that of the tokens.
        """
        tokens = {shape: Bucket(shape, 1).tokens_of_clip(patch_size) for shape in self.clips}
        of_step = {shape: min(count, self.batch // tokens[shape] if self.by_tokens else self.batch) for shape, count in self.clips.items()}
        if self.packed:
            filled = min(self.batch, sum(count * tokens[shape] for shape, count in self.clips.items()))
            of_step = {shape: filled // tokens[shape] for shape in self.clips}
        steps = {shape: self.clips[shape] * tokens[shape] if self.packed else -(-self.clips[shape] // of_step[shape]) for shape in tokens}
        packed = most_packed(self, patch_size) if self.packed else {}
        found = [Bucket(shape, of_step[shape], steps[shape] / sum(steps.values()), packed.get(shape)) for shape in self.clips]
        return tuple(sorted(found, key=lambda bucket: (-bucket.tokens(patch_size), bucket.latents)))

    def with_fewer(self) -> Iterator["Settings"]:
        """Yields the settings with each number of workers that they allow, from all of them down, a group less each time."""
        for workers in range(self.way.workers, (self.fewest or self.way.workers) - 1, -self.way.together):
            yield replace(self, way=replace(self.way, workers=workers), fewest=None)

    @property
    def fullest(self) -> list["Settings"]:
        """The settings with each number of workers that may have the most: the fewest, and of those that keep room for gradients."""
        all_of_them, fewest = self.way.workers, self.fewest or self.way.workers
        return [
            replace(self, way=replace(self.way, workers=workers), fewest=None)
            for workers in sorted({fewest, max(fewest, min(2, all_of_them))})
        ]

    def smallest_batch(self, patch_size: Patch) -> int:
        """The least that leaves no worker without a clip."""
        most = max(Bucket(shape, 1).tokens_of_clip(patch_size) for shape in self.clips)
        return self.way.groups * (most if self.by_tokens else 1)


def most_packed(settings: Settings, patch_size: Patch) -> dict[Latents, Packed]:
    """Answers the most that one worker, or a group, may have of a packed step whose smallest clips there are of a shape.

    Clips are dealt out the largest first to whoever has the least, so before its last clip the fullest worker had no more than an equal
    part of all others, in clips at least as large as that one.
    """
    workers = settings.way.groups
    grids = {shape: Bucket(shape, 1).grid(patch_size) for shape in settings.clips}
    tokens = {shape: frames * rows * columns for shape, (frames, rows, columns) in grids.items()}
    budget = min(settings.batch, sum(count * tokens[shape] for shape, count in settings.clips.items()))
    most_alike, found = budget // workers, {}
    sums = 1  # its i-th bit: some clips, none smaller than those so far, have i tokens together
    for shape in sorted(tokens, key=lambda shape: -tokens[shape]):
        smallest = times = tokens[shape]
        while times <= most_alike:
            sums |= sums << times
            times *= 2
        sums &= (1 << most_alike + 1) - 1
        before = sums & (1 << max(0, budget - smallest) // workers + 1) - 1
        most = before.bit_length() - 1 + smallest
        frames = max(ceil(most * grids[other][0] / tokens[other]) for other in tokens if tokens[other] >= smallest)
        found[shape] = Packed(most, most // smallest, frames)
    return found


def fewest_that_fit(settings: Settings, fits: Callable[[Settings], bool]) -> int | None:
    """Answers the fewest workers that a training may go on with, with whom it fits as with all more of them; None: not even with all."""
    found = None
    for chosen in settings.with_fewer():
        if not fits(chosen):
            break
        found = chosen.way.workers
    return found


def ways_out(network: Network, settings: Settings, fits: Callable[[Settings], bool]) -> Iterator[tuple[dict[str, Any], Settings]]:
    """Yields the settings, by name, with any of which a training that does not fit would, the mildest first; none where none would.

    Activations are computed anew first, which costs a third more work; what remains is met by smaller steps, or by more workers that
    share out the model; where neither will do, by workers that share out the clips themselves. Where it may go on with fewer workers it
    fits with these too, or may not go on with as few.

    Args:
        fits: tells it of settings that are for all workers.
    """

    def fits_with_fewer(chosen: Settings) -> bool:
        return all(map(fits, chosen.fullest))

    found = list(_ways(network, settings, fits_with_fewer))
    if not found and settings.fewest is not None:
        found = list(_ways(network, replace(settings, fewest=None), fits_with_fewer))
    for changes, chosen in found:
        if settings.fewest is None or chosen.fewest is not None:
            yield changes, chosen
            continue
        together = chosen.way.together
        fewest = ceil(settings.fewest / together) * together
        least = fewest_that_fit(replace(chosen, fewest=fewest), fits)
        yield changes | ({} if least == fewest else {"cluster.min_workers": least}), replace(chosen, fewest=least)


def _ways(network: Network, settings: Settings, fits: Callable[[Settings], bool]) -> Iterator[tuple[dict[str, Any], Settings]]:
    """Yields ways out; those with other workers are looked at with all of them alone."""
    patch_size = network.size.patch_size
    begun, told = settings, {}
    if not settings.way.recompute:
        recomputed, anew = replace(settings, way=replace(settings.way, recompute=True)), {"dit.recompute_activations": "true"}
        if fits(recomputed):
            yield anew, recomputed
        else:
            begun, told = recomputed, anew
    smaller, shared = _smaller(begun, patch_size, fits), _shared(begun, patch_size, fits)
    for found in (smaller, shared, None if smaller or shared else _parallel(network, begun, fits)):
        if found is not None:
            yield told | found[0], found[1]


def _smaller(settings: Settings, patch_size: Patch, fits: Callable[[Settings], bool]) -> tuple[dict[str, Any], Settings] | None:
    """Answers the largest step that fits."""
    low, high = settings.smallest_batch(patch_size), settings.batch
    if low >= high or not fits(replace(settings, batch=low)):
        return None
    while high - low > 1:  # low fits, high does not
        middle = (low + high) // 2
        low, high = (middle, high) if fits(replace(settings, batch=middle)) else (low, middle)
    return {"dit.tokens_per_batch" if settings.by_tokens else "dit.batch_size": low}, replace(settings, batch=low)


def _shared(settings: Settings, patch_size: Patch, fits: Callable[[Settings], bool]) -> tuple[dict[str, Any], Settings] | None:
    """Answers the fewest workers, twice as many each time, that fit a model in when they share it out."""
    workers = 2 if settings.way.workers == 1 else settings.way.workers
    while workers <= MOST_WORKERS:
        shared = replace(settings, way=replace(settings.way, workers=workers, sharded=True), fewest=None)
        if settings.batch < shared.smallest_batch(patch_size):
            return None
        if fits(shared):
            return _of_way(settings.way, shared.way), shared
        workers *= 2
    return None


def _parallel(network: Network, settings: Settings, fits: Callable[[Settings], bool]) -> tuple[dict[str, Any], Settings] | None:
    """Answers the smallest groups that fit a clip in when they share it out, by its heads, and the model where they must."""
    way, heads = settings.way, network.size.num_heads
    for together in range(way.together + 1, MOST_WORKERS // way.groups + 1):
        for sharded in sorted({way.sharded, True}) if heads % together == 0 else ():
            shared = replace(way, workers=way.groups * together, together=together, sharded=sharded)
            changed = replace(settings, way=shared, fewest=None)
            if fits(changed):
                return _of_way(way, changed.way), changed
    return None


def _of_way(before: Way, way: Way) -> dict[str, Any]:
    """Answers the settings that differ between two ways."""
    told: dict[str, Any] = {} if before.sharded == way.sharded else {"cluster.sharded": "true"}
    told |= {} if before.workers == way.workers else {"cluster.num_workers": way.workers}
    return told | ({} if before.together == way.together else {"dit.context_parallel": way.together})


def said(changes: Mapping[str, Any]) -> str:
    """Says settings as the command line takes them."""
    return " ".join(f"--set {name}={value}" for name, value in changes.items())
