import itertools

import pytest

from components.caption.upsample import build_style, explain, rewrite
from components.world import vocabulary
from components.world.render import draw_scene
from components.world.vocabulary import caption, caption_of

DEMO = vocabulary.PRESETS["demo"]


@pytest.fixture(scope="module")
def demo():
    fields = itertools.product(DEMO.colours, DEMO.shapes, DEMO.motions, DEMO.backgrounds, DEMO.cameras)
    return build_style([caption_of(dict(zip(vocabulary.FIELDS, values, strict=True))) for values in fields])


@pytest.fixture(scope="module")
def plain():
    return build_style(["a woman playing with a dog", "coffee poured from a kettle", "metal bolts moving on a conveyor belt"])


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        (
            "Generate a video of a crimson box sliding to the left over stripes, panning right",
            "a red square moves left over a striped background, the camera pans right",
        ),
        ("an emerald donut rises, polka dot backdrop, static shot", "a green ring moves up over a dotted background, the camera is still"),
        ("A YELLOW CROSS MOVES DOWN.", "a yellow cross moves down over a dotted background, the camera is still"),
        ("a blue trianlge", "a blue triangle moves down over a dotted background, the camera is still"),
        ("triangle", "a white triangle moves down over a dotted background, the camera is still"),
    ],
)
def test_a_prompt_becomes_the_sentence_that_captions_say(demo, prompt, said):
    assert explain(prompt, demo) == (said, [])


def test_captions_are_left_as_they_are(demo):
    said = "a purple cross moves right over a striped background, the camera pans left"
    assert rewrite(said, demo) == said
    assert rewrite(rewrite("a ball", demo), demo) == rewrite("a ball", demo)


@pytest.mark.parametrize(
    ("prompt", "taken", "note"),
    [
        ("a red circle moves left", "a red ring moves left", "shape `circle`; `ring`"),
        ("an orange square", "a yellow square", "colour `orange`; `yellow`"),
        ("a red square bounces", "a red square moves up", "motion `bounce`; `up`"),
        ("a pink square moves left", "a white square moves left", "`pink`: not in what this model was trained on"),
        ("a dog plays piano", "a white cross moves down", "`dog`, `plays`, `piano`"),
    ],
)
def test_what_the_captions_never_show_is_replaced_and_said(demo, prompt, taken, note):
    text, notes = explain(prompt, demo)
    assert text.startswith(taken)
    assert note in " ".join(notes)


def test_a_world_of_sizes_gets_one(caplog):
    import numpy as np

    rng = np.random.default_rng(0)
    style = build_style([caption(draw_scene(rng, "rich")) for _ in range(200)])
    assert style["kind"] == "world"
    assert rewrite("a huge star grows", style).startswith("a large star grows".replace("star", "white star"))
    assert rewrite("a star grows", style).split()[1] in ("large", "small")


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("Generate a video of a cat sleeping on a sofa.", "a cat sleeping on a sofa"),
        ("Please make me a short clip of waves!", "waves"),
        ("I'd like to see a red car", "a red car"),
        ("4K footage: birds", "birds"),
        ("a man", "a man"),
        ("a film crew at work", "a film crew at work"),
        ("Filming a movie", "filming a movie"),
        ("video", "video"),
    ],
)
def test_plain_captions_only_lose_what_asks_for_a_video(plain, prompt, said):
    assert rewrite(prompt, plain) == said


def test_sentences_stay_sentences():
    style = build_style(["A dog runs.", "A man walks home.", "Two cats sleep."])
    assert rewrite("show me a horse", style) == "A horse."
    assert rewrite("Is it raining?", style) == "Is it raining?"


@pytest.mark.parametrize("prompt", ["", "   ", "?!", "\n"])
def test_an_empty_prompt_is_refused_with_a_way_out(demo, plain, prompt):
    for style in (demo, plain):
        with pytest.raises(ValueError, match="the prompt is empty; hint:"):
            rewrite(prompt, style)


def test_no_captions_make_a_plain_style():
    assert rewrite("Show me A DOG", build_style([])) == "a dog"
