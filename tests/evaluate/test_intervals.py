import numpy as np
import pytest

from components.evaluate.intervals import share, wilson


def test_the_interval_covers_a_known_binomial_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = []
    for trial in range(300):
        found = share(rng.random(60) < 0.7, samples=400, seed=trial)
        covered.append(found["low"] <= 0.7 <= found["high"])
    assert 0.90 <= np.mean(covered) <= 0.99


def test_samples_of_one_prompt_are_not_counted_as_independent():
    rng = np.random.default_rng(0)
    covered, naive = [], []
    for trial in range(300):
        prompts = np.repeat(np.arange(40), 4)
        values = np.repeat(rng.random(40) < 0.6, 4)  # four seeds of a prompt always agree
        for found, clusters in ((covered, prompts.tolist()), (naive, None)):
            interval = share(values, clusters, samples=400, seed=trial)
            found.append(interval["low"] <= 0.6 <= interval["high"])
    assert np.mean(covered) >= 0.90
    assert np.mean(naive) < 0.75


def test_wilson_agrees_with_a_worked_example():
    # Newcombe 1998, table I: 81 of 263 gives 0.2553 to 0.3662
    assert wilson(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)


def test_agreement_of_all_is_no_certainty():
    found = share([True] * 20, list(range(20)))
    assert (found["value"], found["high"]) == (1.0, 1.0)
    assert found["low"] == pytest.approx(20 / (20 + 1.959964**2))
    assert share([True] * 20, ["one prompt"] * 20)["low"] < 0.3


def test_clusters_weigh_by_their_size():
    assert share([1, 1, 1, 0], ["a", "a", "a", "b"])["value"] == 0.75


def test_the_same_seed_gives_the_same_interval():
    values = np.random.default_rng(1).random(50)
    assert share(values, seed=3) == share(values, seed=3)
