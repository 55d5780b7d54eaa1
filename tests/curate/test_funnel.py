"""The funnel: its steps follow each other without a clip lost or counted twice."""

from components.curate.funnel import funnel, rule_of


def test_each_step_has_what_the_one_before_left():
    videos = [{"status": "accepted", "reason": None}] * 3
    videos += [{"status": "rejected", "reason": f"shorter than one clip: {n} frames at 8 fps, 9 needed"} for n in (3, 5)]
    videos += [{"status": "rejected", "reason": "the file is empty"}, {"status": "missing", "reason": "gone"}]
    reasons = [None] * 5 + ["too dark: luma 1, at least 4"] * 3 + ["duplicate: of a"] * 2
    clips = [{"keep": reason is None, "drop_reason": reason, "quarantine": None} for reason in reasons]
    clips[0]["quarantine"] = "train_vae, step 7: its gradient is not finite"
    steps = funnel(videos, clips)
    assert [(step.what, step.kept, step.dropped) for step in steps] == [
        ("files found", 6, 1),
        ("files accepted", 3, 3),
        ("clips cut", 10, 0),
        ("not too dark", 7, 3),
        ("not duplicate", 5, 2),
        ("not in quarantine", 4, 1),
        ("clips kept", 4, 0),
    ]
    assert steps[-2].reasons == (("train_vae, step N: its gradient is not finite", 1),)
    assert steps[1].reasons[0] == ("shorter than one clip: N frames at N fps, N needed", 2)


def test_clips_that_wait_to_be_measured_are_said():
    steps = funnel([], [{"keep": keep, "drop_reason": None, "quarantine": None} for keep in (None, True)])
    assert (steps[-1].kept, steps[-1].dropped, steps[-1].reasons) == (1, 1, (("not measured yet", 1),))


def test_a_rule_is_the_reason_without_its_numbers():
    assert rule_of("too dark: luma 1, at least 4") == "too dark"
    assert rule_of(None) == "dropped"
