import pytest

from components.generate.step_cache import step_cache_of


def test_a_setting_names_the_threshold_and_the_model_its_gain():
    notes = {"step_cache": {"gain": [0.5, -1.0], "threshold": 0.07}}
    assert step_cache_of(None, notes, 3) is None
    given, calibrated, plain = step_cache_of(0.2, notes, 3), step_cache_of("calibrated", notes, 3), step_cache_of(0.2, {}, 3)
    assert (given.threshold, list(given.gain), given.samples) == (0.2, [0.5, -1.0], 3)
    assert (calibrated.threshold, list(calibrated.gain)) == (0.07, [0.5, -1.0])
    assert (plain.threshold, list(plain.gain)) == (0.2, [])


def test_a_model_that_is_not_calibrated_says_how_it_becomes_so():
    with pytest.raises(ValueError, match="kinora calibrate"):
        step_cache_of("calibrated", {}, 1)
