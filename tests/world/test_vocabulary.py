"""The world's words: captions say their truth, and held-out triples are few, balanced and made of seen pairs."""

from collections import Counter
from itertools import product

import pytest

from components.world.vocabulary import FIELDS, PRESETS, all_triples, caption_of, get_preset, held_out, parse


@pytest.mark.parametrize("preset", PRESETS.values(), ids=lambda preset: preset.name)
def test_every_caption_parses_back_to_its_truth(preset):
    for triple, background, camera in product(all_triples(preset), preset.backgrounds, preset.cameras):
        fields = dict(zip(FIELDS, (*triple, background, camera), strict=True))
        assert parse(caption_of(fields)) == fields


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a crimson ball rolling to the left", ("red", "circle", "left", None, None)),
        ("A box drifts upward, static camera", (None, "square", "up", None, "still")),
        ("the camera pans right over a red square moving left", ("red", "square", "left", None, "pan-right")),
        ("a blue donut goes leftwards on stripes while the camera zooms in", ("blue", "ring", "left", "striped", "zoom-in")),
        ("on a white striped background, the plus sign is green and falls", ("green", "cross", "down", "striped", None)),
        ("a red ball moves from left to right", ("red", "circle", "right", None, None)),
        ("a yellow star is spinning; the camera doesn't move", ("yellow", "star", "spin", None, "still")),
        ("a ring crosses the screen to the right", (None, "ring", "right", None, None)),
        ("a small red ring moves up and a large blue square falls", ("red", "ring", "up", None, None)),
        ("panning left past a purple triangle", ("purple", "triangle", None, None, "pan-left")),
        ("", (None,) * 5),
        ("people walking in the rain", (None,) * 5),
    ],
)
def test_a_persons_own_words_are_understood(text, said):
    assert parse(text) == dict(zip(FIELDS, said, strict=True))


def test_demo_is_as_small_and_as_large_as_agreed():
    demo = get_preset("demo")
    assert len(demo.shapes) >= 4
    assert len(demo.colours) >= 6
    assert len(demo.motions) == 4
    assert len(demo.backgrounds) == 2
    assert len(all_triples("demo")) == 96
    assert len(held_out("demo")) == 8


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("seed", [0, 1, 7])
def test_held_out_triples_are_few_and_balanced_and_every_pair_is_still_seen(name, seed):
    triples, unseen = set(all_triples(name)), held_out(name, seed)
    assert unseen <= triples
    assert 0 < len(unseen) <= 0.1 * len(triples)
    preset = get_preset(name)
    for i, values in enumerate((preset.colours, preset.shapes, preset.motions)):
        counts = Counter(triple[i] for triple in unseen)
        assert max(counts[value] for value in values) - min(counts[value] for value in values) <= 1
    for pair in ((0, 1), (0, 2), (1, 2)):
        seen = {tuple(triple[i] for i in pair) for triple in triples - unseen}
        assert seen == {tuple(triple[i] for i in pair) for triple in triples}


def test_held_out_follows_its_seed():
    assert held_out("demo", 3) == held_out("demo", 3) != held_out("demo", 4)


def test_an_unknown_preset_names_the_known_ones():
    with pytest.raises(ValueError, match="`demo`, `rich`"):
        get_preset("poor")
