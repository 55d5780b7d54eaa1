import numpy as np
import pytest

from components.evaluate.likeness import likeness
from components.world.render import render_clips


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    return list(render_clips("rich", 20, seed=3, height=32, width=32)[0])


def names(count: int) -> list[str]:
    return [f"caption {i}" for i in range(count)]


def test_a_clip_is_nearest_to_its_own_caption_even_when_it_is_coded_badly(clips):
    rng = np.random.default_rng(0)
    noisy = [np.clip(clip + rng.normal(0, 20, clip.shape), 0, 255).astype(np.uint8) for clip in clips]
    found = likeness(noisy, names(20), clips, names(20))
    assert (found[:, 0] == 1.0).all()
    assert found[:, 1] == pytest.approx(np.full(20, 9 / 19))  # the other nineteen share the places below, a half on average


def test_samples_that_heed_no_prompt_reach_a_half():
    rng = np.random.default_rng(0)
    made = [rng.integers(0, 256, (5, 16, 16, 3)).astype(np.uint8) for _ in range(400)]
    found = likeness(made[:200], (names(20) * 10), made[200:], (names(20) * 10))
    assert found[:, 0].mean() == pytest.approx(0.5, abs=0.07)
    assert likeness(made[:1] * 20, names(20), made[200:220], names(20))[:, 0].mean() == pytest.approx(0.5)


def test_clips_may_share_a_caption_and_the_nearest_counts(clips):
    found = likeness([clips[1]], ["a"], clips[:3], ["a", "a", "b"])
    assert found[0, 0] == 1.0
    assert found[0, 1] == 0.0
    assert likeness([clips[2]], ["a"], clips[:3], ["a", "a", "b"])[0, 0] == 0.0


def test_one_caption_alone_and_unknown_prompts_are_refused(clips):
    with pytest.raises(ValueError, match="two captions"):
        likeness(clips[:1], ["a"], clips[:1], ["a"])
    with pytest.raises(ValueError, match="no caption"):
        likeness(clips[:1], ["c"], clips[:2], ["a", "b"])
