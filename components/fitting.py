"""Settings that must fit each other, within the transformer's size and across sections: what does not is one sentence with the way out."""

from collections.abc import Callable
from math import ceil, prod
from typing import TYPE_CHECKING

from components.models.sizes import LEAST_HEAD_SIZE, TEXT_HEAD_SIZE, DitSize

if TYPE_CHECKING:
    from components.sections import Clip, Cluster, Config, Dit


def nearest(value: int, least: int, multiple: int) -> str:
    """Names the numbers nearest to a value: `least`, or so many times `multiple` more."""
    if value < least:
        return f"the nearest is {least}"
    below = value - (value - least) % multiple
    return f"the nearest are {below} and {below + multiple}"


def check_dit_size(size: DitSize) -> None:
    """Refuses a diffusion transformer that cannot be built.

    Raises:
        ValueError: a number is too small, or heads do not share out what they are of.
    """
    numbers = {name: getattr(size, name) for name in ("hidden_size", "depth", "num_heads", "mlp_ratio", "text_size")}
    for name, value in {**numbers, "patch_size": min(size.patch_size)}.items():
        if value <= 0:
            raise ValueError(f"`dit.size.{name}` must be above 0, not {getattr(size, name)}")
    if size.refiner_depth < 0:
        raise ValueError(f"`dit.size.refiner_depth` must be 0 or above, not {size.refiner_depth}")
    _check_heads(size)
    if size.text_size % _text_heads(size.text_size):
        around = _nearest_that(lambda text: text % _text_heads(text) == 0, size.text_size, 2 * size.text_size)
        raise ValueError(f"`dit.size.text_size` {size.text_size} does not divide into its {_text_heads(size.text_size)} heads; {around}")


def _check_heads(size: DitSize) -> None:
    wide, heads = size.hidden_size, size.num_heads
    if wide % heads:
        fault = f"does not divide `dit.size.hidden_size` {wide}"
    elif _turns(wide // heads):
        return
    else:
        fault = (
            f"makes heads of {wide // heads} channels of `dit.size.hidden_size` {wide}, "
            f"and positions need an even number from {LEAST_HEAD_SIZE} on"
        )
    around = _nearest_that(lambda count: wide % count == 0 and _turns(wide // count), heads, wide)
    raise ValueError(f"`dit.size.num_heads` {heads} {fault}; {around}")


def _turns(head_size: int) -> bool:
    """Answers whether a head can turn along time, rows and columns."""
    return head_size % 2 == 0 and head_size >= LEAST_HEAD_SIZE


def _text_heads(text_size: int) -> int:
    return max(1, text_size // TEXT_HEAD_SIZE)


def _nearest_that(fits: Callable[[int], bool], value: int, most: int) -> str:
    """Names the numbers from 1 to `most` nearest to a value, on either side, that fit."""
    below = next((n for n in range(min(value, most), 0, -1) if fits(n)), None)
    above = next((n for n in range(value + 1, most + 1) if fits(n)), None)
    found = [str(n) for n in (below, above) if n is not None]
    if not found:
        return "there is none that does"
    return f"the nearest {'is' if len(found) == 1 else 'are'} {' and '.join(found)}"


def check_context_parallel(workers: int, size: DitSize, whose: str) -> None:
    """Refuses workers that cannot share out the heads of a model.

    Args:
        whose: size that is, as a person named it.

    Raises:
        ValueError: they do not divide them.
    """
    heads = size.num_heads
    if heads % workers:
        around = sorted(sorted((n for n in range(1, heads + 1) if heads % n == 0), key=lambda n: abs(n - workers))[:2])
        raise ValueError(
            f"`dit.context_parallel` {workers} does not divide the {heads} heads of {whose}; "
            f"the nearest are {' and '.join(map(str, around))}"
        )


def check_clips(clip: "Clip", frames: int, side: int, whose: str) -> None:
    """Refuses clips that a video VAE cannot encode.

    Args:
        frames, side: of a clip that one latent holds.
        whose: they are, as a person named it.

    Raises:
        ValueError: a length or a side does not divide; the nearest that do are named.
    """
    if (clip.num_frames - 1) % frames:
        raise ValueError(
            f"`clip.num_frames` must be 1 + a multiple of {frames}, as {whose} is, not {clip.num_frames}; "
            f"{nearest(clip.num_frames, 1, frames)}"
        )
    multiples = {"height": (clip.height, side), "width": (clip.width, side)}
    if clip.max_shapes > 1:
        multiples |= {"frames_multiple": (clip.frames_multiple, frames), "side_multiple": (clip.side_multiple, side)}
    for name, (value, least) in multiples.items():
        if value % least:
            raise ValueError(f"`clip.{name}` must be a multiple of {least}, as {whose} is, not {value}; {nearest(value, least, least)}")


def check_budget(dit: "Dit", clip: "Clip", cluster: "Cluster", size: DitSize, frames: int, side: int) -> None:
    """Refuses a budget of tokens that leaves a worker without a clip, where all clips have the one shape that is set.

    Args:
        frames, side: of a clip that one latent holds.

    Raises:
        ValueError: it is too small; the smallest that will do is named.
    """
    if dit.tokens_per_batch is None or clip.max_shapes > 1:
        return
    latents = (1 + (clip.num_frames - 1) // frames, clip.height // side, clip.width // side)
    tokens = prod(ceil(length / patch) for length, patch in zip(latents, size.patch_size, strict=True))
    groups = cluster.num_workers // dit.context_parallel
    if dit.tokens_per_batch < groups * tokens:
        workers = "" if groups == 1 else f", of which each of {groups} workers needs one"
        raise ValueError(
            f"`dit.tokens_per_batch` {dit.tokens_per_batch} is less than the {tokens} tokens of a clip{workers}; "
            f"hint: `--set dit.tokens_per_batch={groups * tokens}`, or smaller clips by `clip`"
        )


def check_lora_rank(rank: int | None, size: DitSize, whose: str) -> None:
    """Refuses adapters that would have more to learn than the layers they are of.

    Args:
        whose: size that is, as a person named it.

    Raises:
        ValueError: the rank is not below the width of the narrowest layer.
    """
    narrowest = min(size.hidden_size, size.text_size, round(size.mlp_ratio * size.hidden_size))
    if rank is not None and rank >= narrowest:
        raise ValueError(
            f"`dit.lora_rank` {rank} is not below {narrowest}, the width of the narrowest layer of {whose}; "
            f"hint: `--set dit.lora_rank={min(16, narrowest // 2)}`, or null to train all weights"
        )


def check_sections(config: "Config") -> None:
    """Refuses settings of several sections that do not fit each other.

    What a pretrained VAE encodes, and what a model that is trained further is made of, is known when it is read.

    Raises:
        ValueError: of the first that do not; settings are named.
    """
    workers, each = config.cluster.num_workers, config.dit.context_parallel
    own = config.dit.finetune is None and config.vae.pretrained is None
    frames, side = config.vae.size.temporal_compression_ratio, config.vae.size.spatial_compression_ratio
    if own:
        check_clips(config.clip, frames, side, "`vae.size`")
    if workers % each:
        raise ValueError(
            f"`cluster.num_workers` {workers} does not make groups of `dit.context_parallel` {each}; {nearest(workers, each, each)}"
        )
    _check_each_worker_has_a_clip(config)
    if own:
        check_budget(config.dit, config.clip, config.cluster, config.dit.size, frames, side)


def _check_each_worker_has_a_clip(config: "Config") -> None:
    workers = config.cluster.num_workers
    sizes = {"captioner": (config.captioner.batch_size, workers), "vae": (config.vae.batch_size, workers)}
    if config.dit.tokens_per_batch is None:
        sizes["dit"] = (config.dit.batch_size, workers // config.dit.context_parallel)
    for name, (clips, least) in sizes.items():
        if clips < least:
            raise ValueError(
                f"`{name}.batch_size` {clips} is less than `cluster.num_workers` {workers}; hint: `--set {name}.batch_size={least}`"
            )
