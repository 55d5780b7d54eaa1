import pytest
import torch

from components.generate.step_cache import device_name, step_cache_of, uncalibrated


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
    with pytest.raises(ValueError, match="kinora calibrate"):
        uncalibrated({"step_cache": "calibrated"}, {})


def test_a_cache_under_other_settings_than_it_was_calibrated_with_is_said():
    settings = {"sampler": "euler", "num_inference_steps": 16, "guidance_scale": 2.0, "guidance_interval": (0.0, 1.0)}
    notes = {"step_cache": {"gain": [], "threshold": 0.1, **settings, "guidance_interval": [0.0, 1.0]}}
    assert uncalibrated({**settings, "step_cache": "calibrated"}, notes) == []
    other = {**settings, "sampler": "unipc", "guidance_interval": (0.1, 0.9)}
    assert uncalibrated({**other, "step_cache": 0.1}, notes) == []
    (said,) = uncalibrated({**other, "step_cache": "calibrated"}, notes)
    assert said.startswith(
        "the step cache was calibrated with `sampler` euler and not unipc, `guidance_interval` [0.0, 1.0] and not [0.1, 0.9],"
    )
    assert said.endswith("; hint: `kinora calibrate --set generate.sampler=unipc --set generate.guidance_interval=[0.1,0.9]`")


def test_the_device_that_a_speed_was_measured_on_has_a_name(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"the GPU of {device}")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert [device_name(device) for device in ("cuda", "cpu")] == ["the GPU of cuda", "3 CPU threads"]
