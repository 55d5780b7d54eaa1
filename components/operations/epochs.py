"""What an epoch of the diffusion transformer's training makes of its steps: how many tokens one has, and how long one takes."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import accumulate
from math import ceil

from components.operations.preflight import Bucket, Network, load, work
from components.operations.ways_out import Latents, Settings
from components.train.buckets import Filling, steps_of

PACKED_CLIPS, PACKED_STEPS = 20_000, 200  # at least, of what is drawn to learn how full packed steps get: within a percent


@dataclass(frozen=True)
class MeanStep:
    """A step as an epoch has it, the smaller ones among them: tokens over all workers, and seconds, null where no time is known."""

    tokens: float
    seconds: float | None


def mean_step(network: Network, settings: Settings, seconds: Mapping[Latents, float | None], image_share: float, seed: int) -> MeanStep:
    """Answers what a step is on average.

    Args:
        seconds: of a full step of each shape, as its bucket has it.
        image_share: of the steps, which see the first frame of each clip alone.
        seed: of the training; it decides which clips are packed together.
    """
    buckets = settings.buckets(network.size.patch_size)
    times = {shape: time for shape, time in seconds.items() if time is not None}
    tokens = {bucket.latents: _seen(network, bucket, image_share) for bucket in buckets}
    for bucket in buckets if len(times) == len(buckets) else ():
        of_image = work(network, _of_images(bucket), settings.way) / work(network, bucket, settings.way)
        times[bucket.latents] *= 1 - image_share * (1 - of_image)
    found = (_packed if settings.packed else _by_shape)(network, settings, tokens, times, seed)
    return found if len(times) == len(buckets) else replace(found, seconds=None)


def _of_images(bucket: Bucket) -> Bucket:
    channels, _, height, width = bucket.latents
    return replace(bucket, latents=(channels, 1, height, width))


def _seen(network: Network, bucket: Bucket, image_share: float) -> float:
    """Answers the tokens that steps see of a clip, some of them of its first frame alone."""
    whole, image = (one.tokens_of_clip(network.size.patch_size) for one in (bucket, _of_images(bucket)))
    return whole - image_share * (whole - image)


def _by_shape(
    network: Network, settings: Settings, tokens: Mapping[Latents, float], seconds: Mapping[Latents, float], seed: int
) -> MeanStep:
    """Counts the steps of an epoch; a smaller one takes the part of a full one's time that its fullest worker has of that one's."""
    steps, seen, taken = 0, 0.0, 0.0
    for bucket in settings.buckets(network.size.patch_size):
        full = load(network, bucket, settings.way).tokens
        for clips, times in _sizes(settings.clips[bucket.latents], bucket.clips, settings.by_tokens).items():
            steps += times
            seen += times * clips * tokens[bucket.latents]
            part = load(network, replace(bucket, clips=clips), settings.way).tokens / full
            taken += times * part * seconds.get(bucket.latents, 0.0)
    return MeanStep(seen / steps, taken / steps)


def _sizes(count: int, clips: int, by_tokens: bool) -> Counter[int]:
    """Answers how many steps of so many clips an epoch makes of a shape, as `components.train.buckets` cuts them."""
    full, left = divmod(count, clips)
    if not left or not by_tokens:
        return Counter({clips: full + (left > 0)})
    if 2 * left >= clips:
        return Counter({clips: full, left: 1})
    more = (clips + left + 1) // 2
    return Counter({clips: full - 1}) + Counter([more, clips + left - more])


def _packed(network: Network, settings: Settings, tokens: Mapping[Latents, float], seconds: Mapping[Latents, float], seed: int) -> MeanStep:
    """Draws whole epochs as the training does, of many clips fewer of each shape; a step takes as long as its fullest worker."""
    buckets = {bucket.latents: bucket for bucket in settings.buckets(network.size.patch_size)}
    length = {shape: buckets[shape].tokens_of_clip(network.size.patch_size) for shape in settings.clips}
    each = {shape: seconds.get(shape, 0.0) / load(network, bucket, settings.way).clips for shape, bucket in buckets.items()}
    clips = sum(settings.clips.values())
    of_step = settings.batch * clips / sum(count * length[shape] for shape, count in settings.clips.items())
    wanted = max(PACKED_CLIPS, PACKED_STEPS * of_step)
    counts = {shape: ceil(count * min(1.0, wanted / clips)) for shape, count in settings.clips.items()}
    shape_of = [shape for shape, count in counts.items() for _ in range(count)]
    ends = accumulate(counts.values())
    rows: dict[tuple[int, ...], range] = {shape: range(end - counts[shape], end) for shape, end in zip(counts, ends, strict=True)}
    filling = Filling(1, settings.batch, packed=True, world_size=settings.way.groups)
    steps, drawn, seen, taken, epochs = 0, 0, 0.0, 0.0, ceil(PACKED_CLIPS / len(shape_of))
    for step in steps_of(filling, [length[shape] for shape in shape_of], rows, seed, 0):
        held = [[shape_of[step.rows[place]] for place in places] for places in step.places]
        steps, drawn = steps + 1, drawn + len(step.rows)
        seen += sum(tokens[shape] for shapes in held for shape in shapes)
        taken += max(sum(each[shape] for shape in shapes) for shapes in held)
        if drawn == epochs * len(shape_of):
            break
    return MeanStep(seen / steps, taken / steps)
