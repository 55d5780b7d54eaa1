"""What makes a training fit that does not, and how full a worker gets."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from components.models.sizes import DIT_SIZES
from components.operations.preflight import Network, Way, memory
from components.operations.ways_out import Latents, Settings, most_packed, said, ways_out
from components.train.buckets import Filling, steps_of

GIB = 2**30
PATCH = (1, 2, 2)
LARGE, SMALL = (16, 13, 60, 104), (16, 13, 30, 52)


def fits_in(network: Network, room: int) -> Callable[[Settings], bool]:
    return lambda settings: all(memory(network, bucket, settings.way).peak <= room for bucket in settings.buckets(PATCH))


@pytest.mark.parametrize(("by_tokens", "packed"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize(
    ("room", "recompute", "first"),
    [
        (110 * GIB, False, "--set dit.recompute_activations=true"),
        (44 * GIB, True, "--set dit.batch_size="),
        (20 * GIB, False, "--set dit.recompute_activations=true --set cluster.sharded=true --set cluster.num_workers="),
    ],
)
def test_each_way_out_lets_the_training_fit_the_mildest_first(
    room: int, recompute: bool, first: str, by_tokens: bool, packed: bool
) -> None:
    network, way = Network(DIT_SIZES["1.3b"], 16, 4096), Way(on_gpu=True, recompute=recompute)
    settings = Settings(way, {LARGE: 100, SMALL: 100}, 16 * 20280 if by_tokens else 16, by_tokens, packed)
    fits = fits_in(network, room)
    assert not fits(settings)
    found = list(ways_out(network, settings, fits))
    assert all(fits(changed) for _, changed in found)
    assert said(found[0][0]).startswith(first.replace("batch_size", "tokens_per_batch") if by_tokens else first)


def test_one_clip_that_is_too_long_is_shared_out_among_workers() -> None:
    network, fits = Network(DIT_SIZES["1.3b"], 16, 4096), fits_in(Network(DIT_SIZES["1.3b"], 16, 4096), 48 * GIB)
    settings = Settings(Way(on_gpu=True, recompute=True), {(16, 65, 90, 160): 9}, 1)
    ((changes, changed),) = ways_out(network, settings, fits)
    assert changes["cluster.num_workers"] == changes["dit.context_parallel"] == changed.way.together > 1
    assert fits(changed)


def test_where_nothing_helps_there_is_no_way_out() -> None:
    network = Network(DIT_SIZES["14b"], 16, 4096)
    settings = Settings(Way(on_gpu=True), {LARGE: 1}, 1)
    assert list(ways_out(network, settings, fits_in(network, 4 * GIB))) == []


def test_a_packed_worker_may_have_one_clip_more_than_an_equal_part() -> None:
    shape = (16, 1, 2, 888)  # 444 tokens at a patch of (1, 2, 2)
    found = most_packed(Settings(Way(on_gpu=True, workers=8), {shape: 1000}, 4000, True, True), PATCH)
    assert (found[shape].tokens, found[shape].clips) == (888, 2)
    (bucket,) = Settings(Way(on_gpu=True, workers=8), {shape: 1000}, 4000, True, True).buckets(PATCH)
    assert (bucket.clips, bucket.packed) == (9, found[shape])


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_no_packed_step_is_fuller_than_reckoned_and_some_are_as_full(workers: int) -> None:
    shapes: dict[Latents, int] = {(4, 3, 4, 4): 12, (4, 2, 2, 10): 10, (4, 1, 2, 6): 3, (4, 1, 2, 2): 1}
    random = np.random.default_rng(0)
    rows = [list(shapes)[kind] for kind in random.integers(len(shapes), size=400)]
    tokens = [shapes[shape] for shape in rows]
    of_shape: dict[tuple[int, ...], list[int]] = {shape: [row for row, other in enumerate(rows) if other == shape] for shape in shapes}
    settings = Settings(Way(on_gpu=True, workers=workers), {shape: rows.count(shape) for shape in shapes}, 41, True, True)
    most = most_packed(settings, PATCH)
    fullest = dict.fromkeys(shapes, 0)
    for step in itertools.islice(steps_of(Filling(1, 41, True, workers), tokens, of_shape, 0, 0), 4000):
        for places in step.places:
            held = [rows[row] for row in step.rows[places]]
            smallest = min(held, key=lambda shape: shapes[shape], default=None)
            if smallest is not None:
                fullest[smallest] = max(fullest[smallest], sum(shapes[shape] for shape in held))
                assert len(held) <= most[smallest].clips
                assert sum(shape[1] for shape in held) <= most[smallest].frames
    assert all(fullest[shape] <= most[shape].tokens for shape in shapes)
    assert max(fullest.values()) == max(found.tokens for found in most.values())


def test_many_small_clips_with_long_prompts_are_what_fills_a_packed_worker() -> None:
    network = Network(DIT_SIZES["tiny"], 16, 4096)
    settings = Settings(Way(on_gpu=True, text_tokens=512), {LARGE: 50, (16, 1, 2, 2): 50000}, 20280, True, True)
    large, small = sorted(settings.buckets(PATCH), key=lambda bucket: bucket.clips)
    assert memory(network, small, settings.way).passing > 2 * memory(network, large, settings.way).passing
    assert not fits_in(network, memory(network, large, settings.way).peak)(settings)
