import math
from functools import partial

import numpy as np
import pytest

from components.evaluate.fidelity import caption_accuracy, field_accuracy, read_accuracy, reconstruction
from components.world.reader import read
from components.world.render import render_clips
from components.world.vocabulary import caption


def test_reconstructions_are_judged_by_error_and_by_what_can_be_read():
    clips, scenes = render_clips("demo", 4, seed=5)
    truths = [scene.fields for scene in scenes]
    worse = [np.clip(clip.astype(int) + 4, 0, 255).astype(np.uint8) for clip in clips]
    found = reconstruction(list(clips), worse, truths, partial(read, preset="demo"))
    assert found["psnr"] == pytest.approx(20 * math.log10(255 / 4), abs=0.01)
    assert found["num_clips"] == 4
    assert set(found["fields"]) == {"colour", "shape", "motion", "background", "camera", "all"}
    assert reconstruction(list(clips), worse)["fields"] is None


def test_the_world_s_own_captions_have_every_field_right_and_a_wrong_word_costs_its_field():
    _, scenes = render_clips("demo", 6, seed=6, num_frames=1, height=16, width=16)
    truths = [scene.fields for scene in scenes]
    captions = [caption(scene) for scene in scenes]
    assert all(share["value"] == 1.0 for share in caption_accuracy(captions, truths).values())
    wrong = [text.replace(truth["colour"], "orange") for text, truth in zip(captions, truths, strict=True)]
    found = caption_accuracy(wrong, truths)
    assert found["colour"]["value"] == found["all"]["value"] == 0.0
    assert found["shape"]["value"] == 1.0


def test_null_counts_as_wrong_and_clips_without_truth_do_not_count():
    truth = {"colour": "red", "shape": "ring"}
    found = field_accuracy([{"colour": "red", "shape": None}], [truth])
    assert (found["colour"]["value"], found["shape"]["value"]) == (1.0, 0.0)
    assert caption_accuracy(["a red ring", None], [truth, None])["all"]["count"] == 1
    assert caption_accuracy([None], [truth])["all"]["value"] == 0.0
    assert read_accuracy([np.zeros((3, 24, 20, 3), np.uint8)], [None], read) is None
