"""What a run cost, in the report, in summary.json and in the last line of the terminal."""

import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from components.report import spent
from components.report.data import ReportData, Spending, StageRow
from components.report.summary import summary_lines, write_summary
from components.report.words import size

TRAINED = Spending(80.0, 150.0, 0.0, 3 << 20, useful_steps=450, repeated_steps=20, all_seconds=90.0)


def report(*spendings: Spending | None) -> ReportData:
    rows = [StageRow(f"stage{n}", "", 100.0 * (n + 1), spent=one) for n, one in enumerate(spendings)]
    return ReportData("films", stages=rows)


def cells(html: str) -> list[list[str]]:
    rows = re.findall(r"<tr>(.*?)</tr>", html, re.DOTALL)[1:]
    return [[re.sub(r"<[^>]+>", "", cell) for cell in re.findall(r"<td.*?</td>", row, re.DOTALL)] for row in rows]


def test_every_stage_has_a_line_and_the_last_one_is_their_sum() -> None:
    said = cells(spent.spent(report(TRAINED, Spending(20.0, 10.0, num_bytes=1 << 20))))
    assert said[0] == ["stage0", "1 min 40 s, 80 %", "150", "3.0 MiB", "450, 5 a second of all time; 20 taken twice"]
    assert said[1][:2] == ["stage1", "3 min 20 s, 10 %"]
    assert said[2] == ["all", "5 min 00 s, 33.3 %", "160", "4.0 MiB", ""]


def test_gpus_and_prices_have_a_column_where_there_are_any() -> None:
    html = spent.spent(report(Spending(20.0, 10.0, gpu_seconds=40.0, cost=1.25), Spending(20.0, 10.0, cost=2.0)))
    assert cells(html)[-1] == ["all", "5 min 00 s, 13.3 %", "20", "40", "0 bytes", "", "3.25"]
    assert "GPU-seconds" not in spent.spent(report(TRAINED))
    assert "cost" not in spent.spent(report(TRAINED)).replace("Time and cost", "")


def test_reserved_cores_are_not_passed_off_as_busy_ones() -> None:
    assert "reserved in the cluster" in spent.spent(report(Spending(1.0, 1.0, reserved=True)))
    assert "reserved" not in spent.spent(report(TRAINED))


def test_a_project_of_before_costs_were_kept_has_no_such_section() -> None:
    assert spent.spent(report(None)) == ""


def test_the_summary_keeps_costs_by_stage_and_the_pace_of_useful_steps(tmp_path: Path) -> None:
    figures = json.loads(write_summary(tmp_path, [], report(TRAINED).stages).read_text())
    assert {name: figure["value"] for name, figure in figures.items()} == {
        "seconds_stage0": 100.0,
        "work_seconds_stage0": 80.0,
        "core_seconds_stage0": 150.0,
        "gpu_seconds_stage0": 0.0,
        "num_bytes_stage0": 3 << 20,
        "useful_steps_a_second_stage0": 5.0,
    }


def test_the_last_lines_say_what_it_came_to() -> None:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(*summary_lines(report(TRAINED)), sep="\n")
    assert "spent: 150 core-seconds, 3.0 MiB written, 80 % of the stages' time was work on rows and steps" in captured.get()


@pytest.mark.parametrize(
    ("num_bytes", "said"), [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1.0 KiB"), (12 << 20, "12 MiB"), (5 << 40, "5.0 TiB")]
)
def test_bytes_are_said_as_people_say_them(num_bytes: int, said: str) -> None:
    assert size(num_bytes) == said
