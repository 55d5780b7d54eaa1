import re

import pytest

from components.report.charts import HEIGHT, LEFT, MOST_POINTS, RIGHT, WIDTH, Dot, curve, funnel, shares
from components.report.data import Curve, FunnelStep


def points(svg: str) -> list[list[tuple[float, float]]]:
    return [[tuple(map(float, pair.split(","))) for pair in found.split()] for found in re.findall(r'points="([^"]+)"', svg)]


def test_a_line_spans_the_chart_and_falls_as_its_values_do():
    (line,) = points(curve(Curve("loss", {"train": [(0, 3.0), (50, 2.0), (100, 1.0)]})))
    assert (line[0][0], line[-1][0]) == (LEFT, WIDTH - RIGHT)
    assert line[0][1] < line[1][1] < line[2][1] < HEIGHT  # SVG counts downwards
    assert line[1][1] == pytest.approx((line[0][1] + line[2][1]) / 2, abs=0.1)


def test_wide_spans_are_logarithmic_and_say_so():
    svg = curve(Curve("loss", {"train": [(0, 100.0), (50, 10.0), (100, 1.0)]}))
    (line,) = points(svg)
    assert "log scale" in svg
    assert line[1][1] == pytest.approx((line[0][1] + line[2][1]) / 2, abs=0.1)
    assert "log scale" not in curve(Curve("loss", {"train": [(0, 100.0), (50, -1.0)]}))


def test_long_curves_are_thinned_and_end_where_they_end():
    svg = curve(Curve("loss", {"train": [(step, 2.0 + step / 5000) for step in range(5000)]}))
    (line,) = points(svg)
    assert len(line) <= MOST_POINTS + 1
    assert line[-1][0] == WIDTH - RIGHT
    assert "<b>3.00</b>" in svg


def test_a_curve_without_values_is_no_chart():
    assert curve(Curve("loss", {"train": [(0, float("nan"))]})) == ""
    assert curve(Curve("loss", {})) == ""


def test_bars_of_the_funnel_are_as_long_as_what_is_kept():
    found = funnel([FunnelStep("cut", 200), FunnelStep("kept", 150, 50, "too dark")])
    assert re.findall(r'class="kept" width="([\d.]+)"', found) == ["100.00", "75.00"]
    assert re.findall(r'class="came" width="([\d.]+)"', found) == ["100.00", "100.00"]
    assert "50 left out: too dark" in found


def test_shares_stand_at_their_place_and_stay_on_the_track():
    found = shares({"colour": [Dot("seen", 0.8, 0.7, 1.2), Dot("unseen", 0.5)]}, {"colour": 0.25}, {}, "shares")
    assert "left:80.0%" in found
    assert "left:70.0%;width:30.0%" in found
    assert "left:25.0%" in found
    assert "ceiling" not in found
