import pytest

from components.caption.captioner import choose
from components.config import load_config


@pytest.mark.parametrize(
    ("pretrained", "labelled", "mode"),
    [(None, 64, "train"), (None, 63, "untrained"), (None, 0, "untrained"), ("coca_ViT-B-32:laion2b_s13b_b90k", 1000, "pretrained")],
)
def test_a_named_captioner_goes_first_then_one_that_can_learn(pretrained, labelled, mode):
    settings = load_config().captioner.model_copy(update={"pretrained": pretrained, "min_labelled": 64})
    assert choose(settings, labelled).mode == mode


def test_nothing_labelled_never_trains():
    assert choose(load_config().captioner.model_copy(update={"min_labelled": 0}), 0).mode == "untrained"
