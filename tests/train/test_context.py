"""What a train loop is given by the place it runs in."""

from components.train.context import fitted_steps


def test_few_clips_are_not_gone_through_more_often_than_allowed() -> None:
    assert [fitted_steps(300, 60, 64, clips) for clips in (1000, 128, 30)] == [300, 120, 60]
    assert fitted_steps(300, 60, 64, 0) == 1
