"""Steps that a kill made a training take again are told from those that brought it on."""

from pathlib import Path

from components.jobs.goodput import StepsTaken
from components.train.context import TrainContext, read_starts, starts_file


def train(folder: Path, first: int, last: int) -> None:
    """Does what a loop does with its context, reporting every second step."""
    context = TrainContext.local(folder)
    context.begin(first)
    for step in range(first + 1, last + 1):
        if step % 2 == 0:
            context.report(step, {"loss": 1.0})


def test_an_unbroken_training_repeats_nothing(tmp_path: Path) -> None:
    train(tmp_path, 0, 10)
    steps = StepsTaken.of(tmp_path / "metrics.jsonl", 0, 10)
    assert (steps.taken, steps.useful, steps.repeated) == (10, 10, 0)
    assert steps.began_at == read_starts(tmp_path / "metrics.jsonl")[0].at


def test_steps_after_the_last_checkpoint_of_a_killed_training_are_repeated(tmp_path: Path) -> None:
    train(tmp_path, 0, 8)  # killed; its newest checkpoint is of step 5
    train(tmp_path, 5, 10)
    again = StepsTaken.of(tmp_path / "metrics.jsonl", 1, 10)  # the call that came after
    assert (again.taken, again.useful, again.repeated) == (5, 10, 3)


def test_a_worker_that_died_within_a_call_counts_in_it(tmp_path: Path) -> None:
    for first, last in ((0, 6), (4, 8), (4, 10)):
        train(tmp_path, first, last)
    steps = StepsTaken.of(tmp_path / "metrics.jsonl", 0, 10)
    assert (steps.taken, steps.useful, steps.repeated) == (10 + 2 + 4, 10, 2 + 4)


def test_a_training_that_was_killed_before_its_export_takes_no_step_more(tmp_path: Path) -> None:
    train(tmp_path, 0, 10)
    TrainContext.local(tmp_path).report(11, {"val_psnr": 30.0})
    train(tmp_path, 10, 10)
    steps = StepsTaken.of(tmp_path / "metrics.jsonl", 1, 10)
    assert (steps.taken, steps.useful, steps.repeated) == (0, 10, 0)


def test_nothing_was_trained_and_a_line_was_cut(tmp_path: Path) -> None:
    assert StepsTaken.of(tmp_path / "metrics.jsonl", 0, 10) == StepsTaken(None, 0, 0, 0)
    starts_file(tmp_path / "metrics.jsonl").write_text('{"step": 0, "reach')
    assert read_starts(tmp_path / "metrics.jsonl") == []
