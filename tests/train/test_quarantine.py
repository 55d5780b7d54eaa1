"""The clips of skipped steps are written down once, whatever is killed and resumed."""

from pathlib import Path

from components.train.quarantine import NAME, QuarantineFile, read_quarantine

WHY = "its gradient is not finite"


def test_a_clip_is_put_aside_for_the_first_step_that_was_skipped_for_it(tmp_path: Path) -> None:
    file = QuarantineFile(tmp_path / "folder" / NAME)
    assert read_quarantine(file.path) == {}
    file.begin(0)
    file.append(4, WHY, ["a", "b"])
    file.append(5, None, [])
    file.append(9, WHY, ["b"])
    file.append(10, WHY, ["c"])
    file.append(11, None, [])
    assert read_quarantine(file.path) == {"a": f"step 4: {WHY}", "b": f"step 4: {WHY}", "c": f"step 10: {WHY}"}


def test_a_resumed_training_accuses_nobody_twice_and_nobody_who_is_innocent_now(tmp_path: Path) -> None:
    file = QuarantineFile(tmp_path / NAME)
    for step, name in ((4, "a"), (6, "b"), (7, "c")):
        file.append(step, WHY, [name])
    file.append(8, None, [])
    resumed = QuarantineFile(tmp_path / NAME)
    resumed.begin(6)  # with the checkpoint of step 6
    resumed.append(7, WHY, ["d"])
    resumed.append(8, None, [])
    assert read_quarantine(file.path) == {"a": f"step 4: {WHY}", "b": f"step 6: {WHY}", "d": f"step 7: {WHY}"}
    assert len(file.path.read_text().splitlines()) == 4


def test_a_line_that_a_kill_cut_is_no_line(tmp_path: Path) -> None:
    file = QuarantineFile(tmp_path / NAME)
    file.append(4, WHY, ["a"])
    with file.path.open("a") as handle:
        handle.write('{"step": 5, "rea')
    assert read_quarantine(file.path) == {}
    file.append(5, None, [])
    assert read_quarantine(file.path) == {"a": f"step 4: {WHY}"}


def test_steps_after_which_none_could_be_taken_accuse_no_clip(tmp_path: Path) -> None:
    file = QuarantineFile(tmp_path / NAME)
    file.append(3, WHY, ["a"])
    file.append(4, None, [])
    for step in range(7, 11):  # the last of the training
        file.append(step, WHY, ["b", f"clip{step}"])
    assert read_quarantine(file.path) == {"a": f"step 3: {WHY}"}


def test_a_clip_that_a_step_was_surely_skipped_for_is_accused_although_none_was_taken_after_it(tmp_path: Path) -> None:
    file = QuarantineFile(tmp_path / NAME)
    file.append(3, WHY, ["a"])
    file.append(4, "its loss is not finite", ["b"], True)
    assert read_quarantine(file.path) == {"b": "step 4: its loss is not finite"}
    file.begin(4)
    file.append(5, None, [])
    assert read_quarantine(file.path) == {"a": f"step 3: {WHY}", "b": "step 4: its loss is not finite"}
    file.begin(3)
    assert read_quarantine(file.path) == {}


def test_lines_of_an_earlier_version_are_read(tmp_path: Path) -> None:
    file = tmp_path / NAME
    lines = ('{"step": 4, "reason": "its gradient is not finite", "clip_ids": ["a"]}', "[]", '{"step": 5, "reason": null, "clip_ids": []}')
    file.write_text("\n".join(lines) + "\n")
    assert read_quarantine(file) == {"a": f"step 4: {WHY}"}
