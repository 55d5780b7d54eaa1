import pytest

from components.caption.checks import check_captions, fault_of
from components.config import load_config

SETTINGS = load_config("test").caption


@pytest.mark.parametrize(
    ("caption", "fault"),
    [
        (None, "empty"),
        (" . ", "empty"),
        ("word " * 200, "too long"),
        ("a red red red square", "repeating"),
        ("the man walks home the man walks home", "repeating"),
        ("a small red square and a small blue ring move left", None),
        ("bye bye, said the man", None),
    ],
)
def test_faults_are_named(caption, fault):
    assert fault_of(caption, SETTINGS) == fault


def test_one_caption_for_all_clips_is_an_alarm_unless_the_labels_are_alike():
    same = ["a red square moves left"] * 40 + ["a blue ring"]
    varied = [f"thing {number}" for number in range(41)]
    assert "collapsed" in check_captions(same, SETTINGS, varied).warnings[0]
    assert check_captions(varied, SETTINGS, varied).warnings == ()
    assert check_captions(same, SETTINGS, ["still water"] * 40).warnings == ()
    assert check_captions(same[:5], SETTINGS).warnings == ()


def test_faults_are_counted():
    verdict = check_captions(["a dog", None, "a a a dog"], SETTINGS)
    assert verdict.faults == {"empty": 1, "repeating": 1}
    assert verdict.warnings == ("1 of 3 captions are empty", "1 of 3 captions are repeating")
