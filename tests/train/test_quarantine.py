"""The clips of skipped steps are written down once, whatever is killed and resumed."""

from pathlib import Path

from components.train.quarantine import MAX_SKIPPED_ON_END, NAME, QuarantineFile, read_quarantine

WHY = "its gradient is not finite"


def test_a_clip_is_put_aside_for_the_first_step_that_was_skipped_for_it(tmp_path: Path) -> None:
    file = QuarantineFile(tmp_path / "folder" / NAME)
    assert read_quarantine(file.path) == {}
    file.begin(0)
    file.append(4, WHY, ["a", "b"])
    file.append(9, WHY, ["b", "c"])
    assert read_quarantine(file.path) == {"a": f"step 4: {WHY}", "b": f"step 4: {WHY}", "c": f"step 9: {WHY}"}


def test_a_resumed_training_accuses_nobody_twice_and_nobody_who_is_innocent_now(tmp_path: Path) -> None:
    file = QuarantineFile(tmp_path / NAME)
    for step, name in ((4, "a"), (6, "b"), (7, "c")):
        file.append(step, WHY, [name])
    resumed = QuarantineFile(tmp_path / NAME)
    resumed.begin(6)  # with the checkpoint of step 6
    resumed.append(7, WHY, ["d"])
    assert read_quarantine(file.path) == {"a": f"step 4: {WHY}", "b": f"step 6: {WHY}", "d": f"step 7: {WHY}"}
    assert len(file.path.read_text().splitlines()) == 3


def test_a_line_that_a_kill_cut_is_no_line(tmp_path: Path) -> None:
    file = QuarantineFile(tmp_path / NAME)
    file.append(4, WHY, ["a"])
    with file.path.open("a") as handle:
        handle.write('{"step": 5, "rea')
    assert read_quarantine(file.path) == {"a": f"step 4: {WHY}"}
    file.append(6, WHY, ["b"])
    assert read_quarantine(file.path) == {"a": f"step 4: {WHY}", "b": f"step 6: {WHY}"}


def test_steps_on_end_that_made_a_training_give_up_accuse_no_clip(tmp_path: Path) -> None:
    file = QuarantineFile(tmp_path / NAME)
    for step in (3, 4, *range(50, 50 + MAX_SKIPPED_ON_END)):
        file.append(step, WHY, [f"clip{step}", "often"])
    assert sorted(read_quarantine(file.path)) == ["clip3", "clip4", "often"]
