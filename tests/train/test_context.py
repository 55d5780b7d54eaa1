"""What a train loop is given by the place it runs in."""

from pathlib import Path

from components.train.context import fitted_steps, of_worker
from components.train.quarantine import NAME, read_quarantine


def test_few_clips_are_not_gone_through_more_often_than_allowed() -> None:
    assert [fitted_steps(300, 60, 64, clips) for clips in (1000, 128, 30)] == [300, 120, 60]
    assert fitted_steps(300, 60, 64, 0) == 1


def test_rank_0_alone_writes_down_the_clips_of_a_skipped_step(tmp_path: Path) -> None:
    for rank in range(2):
        folder = tmp_path / str(rank)
        context = of_worker(rank, 2, "cpu", 1, folder / "metrics.jsonl", lambda model: model)
        context.begin(3)
        context.quarantine(4, "its gradient is not finite", ["a", "b"])
        context.quarantine(5, None, [])
        assert read_quarantine(folder / NAME).keys() == ({"a", "b"} if rank == 0 else set())
