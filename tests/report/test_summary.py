import json

import pytest
from rich.console import Console

from components.report.data import Figure, ReportData, StageRow, Verdict
from components.report.summary import summary, summary_lines, write_summary
from components.report.words import duration, number


def test_a_figure_holds_when_it_stands_to_its_bar_as_it_should():
    assert Figure("a", "a", 0.9, 0.9).holds is True
    assert Figure("a", "a", 0.89, 0.9).holds is False
    assert Figure("a", "a", 901, 900, "<=").holds is False
    assert Figure("a", "a", 900, 900, "<=").holds is True
    assert Figure("a", "a", 0.5).holds is None
    assert Figure("a", "a", None, 0.5).holds is False


def test_the_summary_has_value_bar_and_holds_for_each_figure_and_seconds_by_stage(tmp_path):
    figures = [Figure("unseen_colour", "colour", 0.95, 0.9, low=0.9, high=0.98, chance=0.25), Figure("recall", "recall", None)]
    path = write_summary(tmp_path, figures, [StageRow("ingest", "scenes", 12.5)])
    assert json.loads(path.read_text()) == {
        "unseen_colour": {"value": 0.95, "bar": 0.9, "holds": True, "low": 0.9, "high": 0.98, "chance": 0.25},
        "recall": {"value": None, "bar": None, "holds": None},
        "seconds_ingest": {"value": 12.5, "bar": None, "holds": None},
    }
    with pytest.raises(ValueError, match="two figures"):
        summary([Figure("a", "a", 1), Figure("a", "b", 2)])


def test_the_last_lines_in_the_terminal_say_all_and_take_no_markup_from_words():
    data = ReportData(
        "demo",
        stages=[StageRow("ingest", "scenes", 71, "524 films", "[red]4,012 clips"), StageRow("curate", "rules", 0.2, status="fresh")],
        figures=[Figure("a", "colour, unseen", 0.953, 0.9, unit="%", low=0.9, high=0.98, chance=0.25)],
        verdicts=[Verdict("demo-text-to-video", "reject", ["[bold]following is 0.2"], version="3")],
        paths={"report": "runs/demo/report.html"},
        next_commands=['kinora generate "a red ring moves up" -o ring.mp4'],
        total_seconds=71.2,
    )
    console = Console(width=120, force_terminal=False)
    with console.capture() as captured:
        console.print(*summary_lines(data), sep="\n")
    said = captured.get()
    for words in (
        "1 min 11 s", "[red]4,012 clips", "fresh, nothing to do", "95.3 %", "at least 90 %", "holds", "version 3: not promoted",
        "[bold]following is 0.2", "runs/demo/report.html", 'kinora generate "a red ring moves up" -o ring.mp4',
    ):  # fmt: skip
        assert words in said


def test_a_run_with_nothing_to_say_says_nothing():
    assert summary_lines(ReportData("bare")) == []


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.24, "0.2 s"), (9.96, "10 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (7825, "2 h 10 min"), (None, "")]
)
def test_times_are_said_as_people_say_them(seconds, said):
    assert duration(seconds) == said


@pytest.mark.parametrize(
    ("value", "unit", "said"),
    [
        (0.5, "%", "50 %"),
        (0.953, "%", "95.3 %"),
        (1.0, "%", "100 %"),
        (28.91, "dB", "28.9 dB"),
        (4012, "", "4,012"),
        (0.994, "", "0.99"),
        (0.0003, "", "3.0e-04"),
        (None, "dB", "-"),
        (0.0, "", "0.00"),
    ],
)
def test_numbers_carry_their_unit_and_no_needless_digits(value, unit, said):
    assert number(value, unit) == said
