import json
from collections import Counter
from functools import partial

import numpy as np
import pytest

from components.evaluate.compare import compare
from components.evaluate.degradations import freeze
from components.evaluate.suite import (
    NO_READER,
    Prompt,
    aggregate,
    caption_prompts,
    make_prompts,
    rank_degradations,
    score_clips,
    score_samples,
    sharp_reference,
)
from components.world.reader import read
from components.world.render import draw_scene, render_clips, render_scene
from components.world.vocabulary import FIELDS, held_out, parse


def films_of(prompts: list[Prompt]) -> list[np.ndarray]:
    """Draws what each prompt asks for: a model that follows to the letter."""
    rng = np.random.default_rng(0)
    found = []
    for prompt in prompts:
        scene = None
        while scene is None or scene.fields != prompt.truth:
            scene = draw_scene(rng, "demo", (prompt.truth["colour"], prompt.truth["shape"], prompt.truth["motion"]))
        found.append(render_scene(scene, 9, 64, 64))
    return found


def evaluate(samples, prompts, **more):
    settings = {"fps": 8, "min_motion": 0.02, "sharp_at": 0.4}
    rows = score_samples(samples, prompts, partial(read, preset="demo"), **settings)
    return rows, aggregate(rows, sharp_at=0.4, ranking={}, bootstrap_samples=200, seed=0, **more)


@pytest.fixture(scope="module")
def prompts():
    return make_prompts("demo", 8, 8, seed=3)


@pytest.fixture(scope="module")
def samples(prompts):
    return films_of(prompts)


@pytest.fixture(scope="module")
def obedient(prompts, samples):
    return evaluate(samples, prompts)


@pytest.fixture(scope="module")
def frozen(prompts, samples):
    return evaluate([freeze(sample) for sample in samples], prompts)


def test_prompts_say_their_truth_and_keep_seen_and_unseen_apart():
    found = make_prompts("demo", 128, 128, seed=1000)
    assert Counter(prompt.group for prompt in found) == {"seen": 128, "unseen": 128}
    assert all(parse(prompt.text) == prompt.truth for prompt in found)
    unseen = held_out("demo")
    triples = [(prompt.truth["colour"], prompt.truth["shape"], prompt.truth["motion"]) for prompt in found]
    assert all((triple in unseen) == (prompt.group == "unseen") for triple, prompt in zip(triples, found, strict=True))
    assert len({prompt.prompt_id for prompt in found}) == len({prompt.seed for prompt in found}) == 256


def test_every_triple_is_asked_for_equally_often_and_every_word_too():
    found = make_prompts("demo", 128, 128, seed=1000)
    for group, words in (("seen", FIELDS), ("unseen", ("background", "camera"))):
        mine = [prompt.truth for prompt in found if prompt.group == group]
        triples = Counter((truth["colour"], truth["shape"], truth["motion"]) for truth in mine)
        assert max(triples.values()) - min(triples.values()) <= 1
        for field in words:
            counts = Counter(truth[field] for truth in mine)
            assert max(counts.values()) - min(counts.values()) <= 6, (group, field)
    few = [prompt.truth for prompt in make_prompts("demo", 4, 4, seed=1) if prompt.group == "seen"]
    assert len({truth["shape"] for truth in few}) == len({truth["motion"] for truth in few}) == 4


def test_the_same_seed_gives_the_same_prompts():
    assert make_prompts("demo", 20, 20, 5) == make_prompts("demo", 20, 20, 5)
    assert make_prompts("demo", 20, 20, 5) != make_prompts("demo", 20, 20, 6)


def test_real_captions_become_prompts_by_turns():
    found = caption_prompts(["a dog runs", " a cat ", "", "a dog runs"], 5, seed=0)
    assert Counter(prompt.text for prompt in found) in ({"a dog runs": 3, "a cat": 2}, {"a dog runs": 2, "a cat": 3})
    assert {prompt.group for prompt in found} == {"real"}
    assert caption_prompts(["", " "], 5, seed=0) == []


def test_a_model_that_does_as_told_gets_every_field_and_is_far_above_shuffled_prompts(obedient):
    rows, found = obedient
    for group in ("seen", "unseen"):
        fields = found["groups"][group]["fields"]
        assert all(fields[field]["value"] >= 0.9 for field in (*FIELDS, "triple"))
        assert all(fields[field]["low"] > found["groups"][group]["chance"][field] for field in ("colour", "shape", "motion"))
    assert found["following"]["value"] >= 0.95
    assert found["above_shuffled"]["low"] > 0.4
    assert found["temporal"]["moving_share"]["value"] == 1.0
    assert json.loads(json.dumps([rows, found]))


def test_shuffled_samples_follow_no_better_than_the_shuffled_control_says(prompts, samples):
    others = [samples[(i + 3) % 8 + i // 8 * 8] for i in range(16)]
    _, found = evaluate(others, prompts)
    assert found["following"]["value"] < 0.6
    assert found["above_shuffled"]["low"] < 0.05


def test_frozen_samples_have_no_temporal_score_and_no_motion_right(frozen):
    _, found = frozen
    assert found["temporal"]["score"] is None
    assert found["temporal"]["moving_share"]["value"] == 0.0
    assert found["groups"]["seen"]["fields"]["motion"]["value"] <= 0.2
    assert found["groups"]["seen"]["fields"]["colour"]["value"] >= 0.9


def test_chance_is_that_of_the_commonest_label():
    told = [Prompt(str(i), f"prompt {i}", "seen", i, {"colour": colour}) for i, colour in enumerate(["red", "red", "red", "blue"])]
    rows = score_samples(
        [np.zeros((1, 16, 16, 3), np.uint8)] * 4, told, lambda frames: {"colour": "red"}, fps=8, min_motion=0.02, sharp_at=1.0
    )
    found = aggregate(rows, sharp_at=1.0, ranking={}, bootstrap_samples=50, seed=0)["groups"]["seen"]
    assert found["fields"]["colour"]["value"] == found["chance"]["colour"] == 0.75
    assert found["shuffled"]["colour"] == pytest.approx((3 * 2 / 3 + 1 * 1) / 4)  # each red one has two more among three others


def test_real_footage_has_no_following_and_says_why(samples):
    told = caption_prompts(["a dog runs", "a cat sleeps"], 4, seed=0)
    real = score_clips(samples[:4], fps=8, min_motion=0.02, sharp_at=0.4)
    _, found = evaluate(samples[:4], told, real=real)
    assert found["following"] is None
    assert found["groups"] is None
    assert found["following_note"] == NO_READER
    assert found["temporal_of_real"] == pytest.approx(1.0)


def test_a_sample_for_each_prompt_is_needed(prompts, samples):
    with pytest.raises(ValueError, match="samples for"):
        evaluate(samples[:3], prompts)
    with pytest.raises(ValueError, match="no sample"):
        evaluate([], [])


def test_few_clips_stand_for_all_in_the_ranking():
    clips, _ = render_clips("demo", 12, seed=8)
    found = rank_degradations(clips, fps=8, min_motion=0.02, sharp_at=sharp_reference(clips), count=4)
    assert {name: result["num_clips"] for name, result in found.items()} == {"freeze": 4, "shuffle": 4, "blur": 4}
    assert rank_degradations([], fps=8, min_motion=0.02, sharp_at=1.0, count=4)["blur"] == {"share": None, "num_clips": 0}


def test_a_model_compared_with_itself_differs_by_nothing(obedient):
    rows, _ = obedient
    found = compare(rows, rows, 200, seed=0)
    assert all((row["value"], row["low"], row["high"]) == (0, 0, 0) for row in found.values())
    assert found["following"]["pairs"] == 16


def test_a_worse_model_is_worse_by_pairs(obedient, frozen):
    good, bad = obedient[0], frozen[0]
    found = compare(bad, good, 500, seed=0)
    assert found["moving"]["value"] == -1.0
    assert found["following"]["high"] < 0
    assert found["motion"]["high"] < -0.5
    assert abs(found["colour"]["value"]) <= 0.1
    assert "temporal" not in found  # no pair in which both move
    with pytest.raises(ValueError, match="sample the champion again"):
        compare(good, bad[:-1], 200, seed=0)
