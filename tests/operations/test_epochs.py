"""What a step is on average, reckoned, is what whole epochs of the training's own steps have."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from components.models.sizes import DitSize
from components.operations.epochs import MeanStep, mean_step
from components.operations.preflight import Bucket, Network, Way, load, work
from components.operations.ways_out import Latents, Settings
from components.train.buckets import Filling, Step, steps_of
from components.train.dit_draws import DitBatch, draw
from components.train.steps import seed_of
from tests.train.test_dit_loop import settings as dit_settings

PATCH = (2, 2, 2)
NETWORK = Network(DitSize(64, 2, 2, PATCH, text_size=32), 4, 64)
LONG, WIDE, SHORT = (4, 13, 60, 104), (4, 7, 34, 60), (4, 1, 60, 104)
DOZEN: dict[Latents, int] = {(4, 9 + 2 * number, 44 + 4 * number, 60): 5 for number in range(12)}


def tokens_of(shape: tuple[int, ...]) -> int:
    return Bucket((shape[0], shape[1], shape[2], shape[3]), 1).tokens_of_clip(PATCH)


@dataclass
class Trained:
    """The clips of a training, row by row, and its steps over whole epochs."""

    settings: Settings
    epochs: int

    def __post_init__(self) -> None:
        rows = [shape for shape, count in self.settings.clips.items() for _ in range(count)]
        self.shape_of = [rows[row] for row in np.random.default_rng(1).permutation(len(rows))]

    def steps(self) -> Iterator[Step]:
        batch, packed, workers = self.settings.batch, self.settings.packed, self.settings.way.groups
        filling = Filling(batch, batch, packed, workers) if self.settings.by_tokens else Filling(batch, None, packed, workers)
        rows: dict[tuple[int, ...], list[int]] = {shape: [] for shape in self.settings.clips}
        for row, shape in enumerate(self.shape_of):
            rows[shape].append(row)
        drawn, wanted = 0, self._clips_of_epochs()
        for step in steps_of(filling, [tokens_of(shape) for shape in self.shape_of], rows, 0, 0):
            yield step
            drawn += len(step.rows)
            if drawn == wanted:
                return

    def _clips_of_epochs(self) -> int:
        """With those that fill up a last batch of `batch_size` clips."""
        batch = self.settings.batch
        if self.settings.by_tokens:
            return self.epochs * len(self.shape_of)
        return self.epochs * sum(count if count < batch else -(-count // batch) * batch for count in self.settings.clips.values())

    def mean(self) -> MeanStep:
        """Of the steps, whose worker with the most tokens takes a second for each."""
        tokens, seconds = [], []
        for step in self.steps():
            held = [sum(tokens_of(self.shape_of[step.rows[place]]) for place in places) for places in step.places]
            tokens.append(sum(held))
            seconds.append(max(held))
        return MeanStep(sum(tokens) / len(tokens), sum(seconds) / len(seconds))


def a_second_a_token(settings: Settings) -> Mapping[Latents, float]:
    each = settings.buckets(PATCH)
    return {bucket.latents: float(load(NETWORK, bucket, settings.way).clips * tokens_of(bucket.latents)) for bucket in each}


THREE = {LONG: 200, WIDE: 200, SHORT: 200}
PAIR = {LONG: 65, (4, 1, 180, 416): 33}


@pytest.mark.parametrize(
    ("clips", "batch", "by_tokens", "packed", "workers"),
    [
        pytest.param(DOZEN, 64_000, True, True, 1, id="a dozen shapes of few clips, packed"),
        pytest.param(DOZEN, 64_000, True, True, 4, id="a dozen shapes of few clips, packed for four"),
        pytest.param(DOZEN, 64_000, True, False, 1, id="a dozen shapes of few clips"),
        pytest.param(PAIR, 64 * tokens_of(LONG), True, False, 1, id="a clip more than a budget holds"),
        pytest.param(PAIR, 64 * tokens_of(LONG), True, False, 8, id="a clip more than a budget holds, for eight"),
        pytest.param({LONG: 10, WIDE: 7}, 4 * tokens_of(LONG), True, False, 1, id="a last batch of half"),
        pytest.param(THREE, 200_000, True, False, 1, id="three shapes"),
        pytest.param(THREE, 200_000, True, True, 1, id="three shapes, packed"),
        pytest.param(THREE, 200_000, True, True, 8, id="three shapes, packed for eight"),
        pytest.param({LONG: 30_000, SHORT: 60_000}, 40_000, True, True, 2, id="many clips, packed"),
        pytest.param({LONG: 3}, 10**6, True, True, 1, id="fewer clips than a budget holds, packed"),
        pytest.param({LONG: 70, WIDE: 5}, 32, False, False, 1, id="a number of clips, filled up"),
    ],
)
def test_tokens_and_time_are_those_of_whole_epochs(
    clips: dict[Latents, int], batch: int, by_tokens: bool, packed: bool, workers: int
) -> None:
    settings = Settings(Way(on_gpu=True, workers=workers), clips, batch, by_tokens, packed)
    real = Trained(settings, 1 if sum(clips.values()) > 1000 else 20).mean()
    found = mean_step(NETWORK, settings, a_second_a_token(settings), 0.0, seed=3)
    assert found.tokens == pytest.approx(real.tokens, rel=0.02)
    assert found.seconds == pytest.approx(real.seconds, rel=0.02)


@pytest.mark.parametrize("packed", [False, True])
def test_steps_of_images_have_the_tokens_of_one_frame(packed: bool) -> None:
    clips: dict[Latents, int] = {(4, 9, 6, 8): 24, (4, 4, 8, 6): 9, (4, 1, 8, 8): 7}
    settings = Settings(Way(on_gpu=True), clips, 130, True, packed)
    trained, tokens = Trained(settings, 150), []
    chosen = dit_settings(image_share=0.3, size=NETWORK.size)
    for number, step in enumerate(trained.steps()):
        latents = tuple(torch.empty(trained.shape_of[row]) for row in step.rows)
        batch = DitBatch(latents, torch.zeros(1), torch.zeros(1), tuple("x" * len(latents)), torch.zeros(1))
        tokens.append(sum(tokens_of(tuple(noise.shape)) for noise in draw(chosen, batch, seed_of(0, number), None).noise))
    whole, found = (mean_step(NETWORK, settings, {}, share, seed=3).tokens for share in (0.0, 0.3))
    assert len(tokens) > 2000
    assert found == pytest.approx(sum(tokens) / len(tokens), rel=0.02)
    assert found < 0.9 * whole


def test_steps_of_images_take_the_time_of_their_work() -> None:
    way = Way(on_gpu=True)
    settings = Settings(way, {LONG: 16}, 8)
    (bucket,) = settings.buckets(PATCH)
    images = Bucket((LONG[0], 1, *LONG[2:]), bucket.clips)
    found = mean_step(NETWORK, settings, {LONG: 10.0}, 0.25, seed=0)
    assert found.seconds == pytest.approx(7.5 + 2.5 * work(NETWORK, images, way) / work(NETWORK, bucket, way))


def test_no_time_is_given_where_that_of_a_shape_is_not_known() -> None:
    for packed in (False, True):
        settings = Settings(Way(on_gpu=True), {LONG: 16, SHORT: 3}, 100_000, True, packed)
        assert mean_step(NETWORK, settings, {LONG: 10.0, SHORT: None}, 0.1, seed=0).seconds is None
