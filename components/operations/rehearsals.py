"""Which steps of a training of the diffusion transformer are rehearsed, and what one worker's steps tell of those of several."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from components.operations.preflight import Bucket, Network, Way, load, memory, work
from components.operations.training_facts import Facts
from components.operations.ways_out import Settings
from components.sections import Config
from components.train.dit_rehearsal import Rehearsed, Spec

MOST_REHEARSED = 3


def rehearsals(
    facts: Facts, settings: Settings, fitting: Sequence[bool], room: int, seconds: float, run: Callable[[Spec], Rehearsed]
) -> Mapping[int, Rehearsed]:
    """Rehearses one worker's steps of the buckets that most work is in, of those that fit; by their places.

    What workers share out, the model or the tokens of a clip, one rehearses whole, with as many of the blocks as it has room for: that
    tells the time of its part, and nothing of its memory.

    Args:
        fitting: of each bucket, whether its steps fit in the `room`, bytes, of a worker.
        seconds: for all of them, about.
        run: rehearses steps.
    """
    way, network, config = settings.way, facts.network, facts.config
    alone = replace(way, workers=1, together=1, sharded=False)
    buckets, found, depths = settings.buckets(network.size.patch_size), {}, set()
    shared = way.sharded or way.together > 1
    places = [place for place, fits in enumerate(fitting) if fits]
    chosen = sorted(places, key=lambda place: -buckets[place].share * work(network, buckets[place], way))[:MOST_REHEARSED]
    for place in sorted(chosen):
        bucket = of_fullest(network, buckets[place], way)
        depth = _depth_with_room(network, bucket, alone, room) if shared else network.size.depth
        if not depth:
            facts.notes.append(f"latents of {_said(bucket)} could not be rehearsed: one worker has no room for a single block's steps")
            continue
        found[place] = run(
            Spec(
                settings=config.dit.model_dump(mode="json") | _by_one(config, depth),
                latents=bucket.latents,
                clips=bucket.clips,
                text=(way.text_tokens, network.text_width),
                device="cuda" if way.on_gpu else "cpu",
                threads=min(config.cluster.threads, os.cpu_count() or 1),
                seconds=seconds / len(chosen),
            )
        )
        if found[place].why is not None:
            facts.notes.append(f"latents of {_said(bucket)} could not be rehearsed: {found[place].why}")
        elif shared:
            depths.add(depth)
            part = work(network, bucket, alone) / work(_of_depth(network, depth), bucket, alone) / way.together
            found[place] = replace(found[place], seconds=(found[place].seconds or 0.0) * part, num_bytes=None)
    if depths and min(depths) < network.size.depth:
        facts.notes.append(f"times are reckoned from those of {min(depths)} of {network.size.depth} blocks, which one worker has room for")
    if way.workers > 1:
        facts.notes.append(f"times are of one of {way.workers} workers by itself: what they send each other comes on top")
    return found


def of_fullest(network: Network, bucket: Bucket, way: Way) -> Bucket:
    """Answers the clips that the fullest worker has of a bucket's steps, all of the bucket's shape."""
    return Bucket(bucket.latents, load(network, bucket, way).clips)


def _by_one(config: Config, depth: int) -> dict[str, Any]:
    """Answers the settings of `dit` that a rehearsal by one worker has otherwise; steps of images are shorter."""
    return {"image_share": 0.0, "context_parallel": 1, "size": asdict(replace(config.dit.size, depth=depth))}


def _said(bucket: Bucket) -> str:
    return "x".join(map(str, bucket.latents))


def _of_depth(network: Network, depth: int) -> Network:
    return replace(network, size=replace(network.size, depth=depth))


def _depth_with_room(network: Network, bucket: Bucket, way: Way, room: int) -> int:
    """Answers how many blocks, of all, a lone worker has room for; 0: not for one."""
    depths = range(network.size.depth, 0, -1)
    return next((depth for depth in depths if memory(_of_depth(network, depth), bucket, way).peak <= room), 0)
