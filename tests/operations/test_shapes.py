"""Clips in tokens: how many, and how much of what they hold is padding."""

from collections import Counter

import pytest

from components.models.sizes import DitSize
from components.operations import shapes
from components.operations.finetune import Base
from components.operations.shapes import of_padding, shapes_in_tokens
from components.store import tables
from components.store.project import Project
from tests.operations.pipeline import settings


@pytest.mark.parametrize(
    ("overrides", "shape", "tokens", "padding", "multiple"),
    [
        (("vae.size=tiny", "dit.size=demo"), (9, 48, 80), 3 * 1 * 2, 1 - 6 * 10 / (8 * 16), 64),
        (("vae.size=tiny", "dit.size=demo"), (9, 64, 128), 3 * 1 * 2, 0.0, None),
        (("vae.size=wide", "dit.size=5b"), (49, 464, 848), 13 * 15 * 27, 1 - 29 * 53 / (30 * 54), 32),
        (("vae.size=base", "dit.size=5b"), (49, 464, 848), 13 * 29 * 53, 0.0, None),
    ],
)
def test_latents_that_end_within_a_patch_are_padded_and_a_side_multiple_avoids_it(overrides, shape, tokens, padding, multiple):
    for several in (2, 1):
        config = settings(*overrides, f"clip.max_shapes={several}")
        found = shapes_in_tokens(config, {shape: 3}, Counter(), {}, None)
        assert found.shapes[0].tokens == tokens
        assert (found.padding, found.side_multiple) == (pytest.approx(padding), multiple)
        said = of_padding(config, found)
        assert said is not None
        if multiple is None:
            assert said == "nothing is padded"
        else:
            assert said.startswith(f"{padding:.1%} of what tokens hold is padding, since a patch is {multiple} pixels wide")
            assert f"{said} ".endswith(f"clip.side_multiple={multiple}` " if several > 1 else "other `clip.height` and `clip.width` ")


def test_the_padding_of_all_is_weighed_by_tokens_and_unknown_while_the_latents_are():
    config = settings("vae.size=tiny", "dit.size=demo", "clip.max_shapes=2")
    shapes = {(9, 48, 80): 2, (1, 64, 64): 4}
    assert shapes_in_tokens(config, shapes, Counter(), {}, None).padding == pytest.approx(1 - (2 * 3 * 60 + 4 * 64) / ((2 * 6 + 4) * 64))
    unknown = config.model_copy(update={"vae": config.vae.model_copy(update={"pretrained": "somebody/vae"})})
    found = shapes_in_tokens(unknown, shapes, Counter(), {(9, 48, 80): [16, 3, 6, 10]}, None)
    assert [shape.tokens for shape in found.shapes] == [6, None]
    assert (found.padding, of_padding(unknown, found)) == (None, None)


def test_the_patches_and_latents_of_a_model_that_is_trained_further_count_not_those_of_the_settings(tmp_path):
    """Sides of 48x80 pixels are latents of 3x5 there, in patches of 1x1 nothing of which is padding."""
    size = DitSize(hidden_size=64, depth=1, num_heads=2, patch_size=(1, 1, 1))
    base = Base("films", None, tmp_path, "", size, frames=8, side=16, video_vae="", text_encoder="", captions=False)
    for vae in ("vae.size=tiny", "vae.pretrained=somebody/vae"):
        found = shapes_in_tokens(settings(vae, "dit.size=demo"), {(9, 48, 80): 2}, Counter(), {}, None, base)
        assert [(shape.tokens, shape.padding) for shape in found.shapes] == [(2 * 3 * 5, 0.0)]


def test_latents_of_a_projects_own_vae_say_nothing_of_a_model_that_is_trained_further(tmp_path, monkeypatch):
    project = Project(tmp_path, "films")
    tables.clips(project).append([{"clip_id": "a", "num_frames": 9, "height": 48, "width": 80, "latents_shape": [16, 3, 6, 10]}])
    size = DitSize(hidden_size=64, depth=1, num_heads=2, patch_size=(1, 1, 1))
    base = Base("films", None, tmp_path, "", size, frames=8, side=16, video_vae="", text_encoder="", captions=False)
    for trained_further, tokens in ((None, 3 * 1 * 2), (base, 2 * 3 * 5)):
        monkeypatch.setattr(shapes, "base_model", lambda config, project, base=trained_further: base)
        found = shapes.clip_shapes(settings("vae.size=tiny", "dit.size=demo"), project)
        assert [shape.tokens for shape in found.shapes] == [tokens]
