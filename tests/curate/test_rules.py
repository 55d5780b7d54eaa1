"""Rules: each drops what it is for and says by how much; what no measure is there for, it lets pass."""

import pytest

from components.config import load_config
from components.curate.rules import READS, WRITES, judge
from components.store.schema import CLIPS

SETTINGS = load_config().curate
FINE = {"luma": 100.0, "contrast": 40.0, "sharpness": 500.0, "motion": 0.2, "repeat_share": 0.0, "duplicate_of": None}


def test_a_good_clip_is_kept():
    assert judge(FINE, SETTINGS) == {"keep": True, "drop_reason": None}


@pytest.mark.parametrize(
    ("measures", "reason"),
    [
        ({"luma": 1.25}, "too dark: luma 1.25, at least 4"),
        ({"luma": 254.0}, "too bright: luma 254, at most 251"),
        ({"contrast": 0.0}, "too flat: contrast 0, at least 3"),
        ({"sharpness": 0.5}, "too blurred: sharpness 0.5, at least 1"),
        ({"repeat_share": 0.875}, "repeated frames: repeat_share 0.875, at most 0.7"),
        ({"motion": 5.0}, "too wild: motion 5, at most 4"),
        ({"duplicate_of": "abc-000000000"}, "duplicate: of abc-000000000"),
        ({"luma": 0.0, "contrast": 0.0}, "too dark: luma 0, at least 4"),
    ],
)
def test_a_clip_is_dropped_by_the_first_rule_that_it_breaks(measures, reason):
    assert judge({**FINE, **measures}, SETTINGS) == {"keep": False, "drop_reason": reason}


def test_a_still_clip_is_dropped_where_motion_is_asked_for():
    moving = SETTINGS.model_copy(update={"min_motion": 0.05})
    assert judge({**FINE, "motion": 0.01}, moving)["drop_reason"] == "too still: motion 0.01, at least 0.05"


def test_an_image_is_not_dropped_for_standing_still():
    moving = SETTINGS.model_copy(update={"min_motion": 0.05})
    assert judge({**FINE, "motion": None, "repeat_share": None}, moving)["keep"]


def test_what_is_read_and_written_are_columns_of_the_table():
    assert {*READS, *WRITES} <= set(CLIPS.names)
