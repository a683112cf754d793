"""What charts show is what was measured, and every drawing of it says the same in words."""

from __future__ import annotations

import math
import sys
import zlib
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustnas.errors import InputError
from robustnas.table.report import axis, plots
from robustnas.table.report.charts import Chart, Series, named
from robustnas.table.report.curves import beyond, over_keys, pareto, staircase
from robustnas.table.report.heat import heat
from robustnas.table.report.pictures import png
from robustnas.table.report.searches import MOST_COLUMNS, heat_maps
from robustnas.table.report.svg import DASHES, HEIGHT, LEFT, MARKERS, TOP, WIDTH, svg

FINITE = st.floats(-1e6, 1e6)
SHARES = st.floats(0, 100).map(lambda value: round(value, 1))
SVG = {"": "http://www.w3.org/2000/svg"}


@settings(max_examples=25, deadline=None)
@given(FINITE, FINITE)
def test_ticks_are_round_numbers_inside_the_axis(one, other):
    low, high = sorted((one, other))
    if high - low < 1e-6 * max(abs(low), abs(high), 1e-3):
        return
    found = axis.ticks(low, high)
    room = 1e-6 * (high - low)
    assert 2 <= len(found) <= 6
    assert low - room <= found[0]
    assert found[-1] <= high + room
    step = (found[-1] - found[0]) / (len(found) - 1)
    assert round(step / 10 ** math.floor(math.log10(step) + 1e-9), 6) in (1, 2, 5)


def test_ticks_of_epochs_are_whole_and_those_of_ratios_powers():
    assert axis.ticks(1, 5, whole=True) == [1, 2, 3, 4, 5]
    assert axis.ticks(1, 2, whole=True) == [1, 2]
    assert axis.ticks(1, 600, whole=True) == [100, 200, 300, 400, 500, 600]
    assert axis.decades(0.05, 30) == pytest.approx([0.1, 1, 10])
    assert axis.decades(0.5, 12) == pytest.approx([0.5, 1, 2, 5, 10])
    assert axis.decades(1e-9, 1e6) == pytest.approx([1e-9, 1e-6, 1e-3, 1, 1e3, 1e6])
    assert [axis.written(value) for value in (0.0, 0.002, 100.0, 1e-7, 12345678.0)] == [
        "0",
        "0.002",
        "100",
        "1e-7",
        "1.23e7",
    ]


def test_a_sweep_is_a_line_a_method_over_numbers_or_over_places_in_the_list():
    def record(method: str, value, clean: float, robust: dict | None = None) -> dict:
        return {"key": "search.gamma", "value": value, "text": str(value), "method": method,
                "clean": {"mean": clean}, "robust": robust, "certified": None}  # fmt: skip

    (chart,) = over_keys([record("a", 1, 0.5), record("a", 0.1, 0.25), record("b", 1, 0.75)])
    assert (chart.key, chart.across, chart.whole) == ("clean-over-search-gamma", "search.gamma", False)
    lines = {series.name: series.points for series in chart.series}
    assert lines == {"a": [(0.1, 25.0), (1.0, 50.0)], "b": [(1.0, 75.0)]}
    clean, robust = over_keys([record("a", 1, 0.5), record("b", 1, 0.75, {"mean": 0.5})])
    assert [series.name for series in robust.series] == ["b"]
    assert robust.series[0].style == clean.series[1].style, "a method looks the same in every chart"
    (chart,) = over_keys([record("a", 1, 0.5), record("a", {"balance": 1}, 0.25)])
    assert (chart.across, chart.whole) == ("search.gamma (1: 1, 2: {'balance': 1})", True)
    assert chart.series[0].points == [(1.0, 50.0), (2.0, 25.0)]
    assert svg(chart, "x")


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(SHARES, SHARES), min_size=1, max_size=8))
def test_the_front_is_of_those_that_none_exceeds(points):
    front = pareto(points)
    dominated = {
        point for point in points for other in points
        if other != point and other[0] >= point[0] and other[1] >= point[1]
    }  # fmt: skip
    assert front == sorted(set(points) - dominated)
    corners = staircase(front)
    assert corners[::2] == front
    assert all(left[0] == corner[0] and corner[1] == right[1] for left, corner, right in
               zip(front, corners[1::2], front[1:], strict=False))  # fmt: skip


RADII = st.lists(
    st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=6), min_size=1, max_size=3), min_size=1, max_size=3
)


@settings(max_examples=25, deadline=None)
@given(RADII, st.floats(0, 10))
def test_certified_accuracy_is_the_share_of_larger_radii(radii, epsilon):
    curve = beyond(radii)
    (*_, (_, up)) = [point for point in curve if point[0] <= epsilon]
    means = [np.mean([np.mean(np.array(network) > epsilon) for network in search]) for search in radii]
    assert up == pytest.approx(100 * np.mean(means))
    assert [up for _, up in curve] == sorted((up for _, up in curve), reverse=True)
    assert curve[-1][1] == 0


def test_a_chart_says_in_words_what_it_draws():
    lines = [Series("a<b>", [(0, 1.0), (1, 3.0), (2, 2.5)], 0), Series("point", [(1, 2)], 9, joined=False)]
    root = ElementTree.fromstring(svg(Chart("k", "What & why", "epoch", "loss", lines), "x-1"))
    assert root.get("role") == "img"
    assert [root.find(name, SVG).get("id") for name in ("title", "desc")] == root.get("aria-labelledby").split()
    assert root.find("title", SVG).text == "What & why"
    assert root.find("desc", SVG).text == "loss over epoch. a<b>: from 1 at 0 to 2.5 at 2; point: 2 at 1."
    texts = [one.text for one in root.iter(f"{{{SVG['']}}}text")]
    assert {"epoch", "loss", "a<b>", "point"} <= set(texts)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(FINITE, FINITE), min_size=1, max_size=5))
def test_every_point_is_inside_the_axes(points):
    root = ElementTree.fromstring(svg(Chart("k", "t", "x", "y", [Series("s", points, 0, joined=False)]), "i"))
    marks = [one.get("d") for one in root.iter() if one.get("class") == "mark"][: len(points)]
    for mark in marks:
        x, y = map(float, mark[1:].split("m")[0].split())
        assert LEFT <= x <= WIDTH
        assert TOP <= y <= TOP + HEIGHT


def test_methods_are_told_apart_without_colour():
    looks = {(style % len(DASHES), style % len(MARKERS)) for style in range(35)}
    assert len(looks) == 35
    assert len(plots.MARKERS) == len(MARKERS)


def history(epochs: int) -> list[dict]:
    rows = [[0.0, math.log(3)], [1.0, 1.0]]
    return [{"epoch": epoch, "alpha": {"normal": rows, "beta": [[0.0, 0.0, 0.0]]}} for epoch in range(1, epochs + 1)]


def test_a_heat_map_has_the_mixing_weights_of_every_epoch():
    operations, edges = heat_maps("darts", history(3), {"normal": ["none", "skip<"]})
    assert [field.title for field in operations.fields] == ["edge 1", "edge 2"]
    assert operations.fields[0].rows == ["none", "skip<"]
    assert np.array(operations.fields[0].values) == pytest.approx(np.array([[0.25] * 3, [0.75] * 3]))
    assert operations.about == "After epoch 3 the most weight is on: edge 1 skip< (0.75), edge 2 none (0.50)."
    assert (edges.fields[0].title, np.array(edges.fields[0].values).shape) == ("beta", (3, 3))
    root = ElementTree.fromstring(heat(operations, "h"))
    assert root.find("desc", SVG).text == operations.about
    cells = [one.get("d").count("M") for one in root.iter() if one.get("class") == "heat" and one.get("d")]
    assert sum(cells) == 2 * 2 * 3


def test_of_many_epochs_some_are_shown_and_the_last():
    (found, _) = heat_maps("darts", history(2 * MOST_COLUMNS + 1), {})
    assert len(found.columns) <= MOST_COLUMNS
    assert found.columns[-1] == str(2 * MOST_COLUMNS + 1)
    assert found.fields[0].rows == ["1", "2"]
    assert list(heat_maps("random", [], {})) == []


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_a_picture_has_the_pixels_of_the_image(channels):
    image = np.random.default_rng(0).random((channels, 3, 5))
    data = png(image)
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    at = data.index(b"IDAT")
    length = int.from_bytes(data[at - 4 : at], "big")
    depth = 3 if channels == 3 else 1
    lines = np.frombuffer(zlib.decompress(data[at + 4 : at + 4 + length]), np.uint8).reshape(3, 1 + 5 * depth)
    wanted = image if channels == 3 else image.mean(axis=0, keepdims=True)
    assert (lines[:, 0] == 0).all()
    assert lines[:, 1:].reshape(3, 5, depth) == pytest.approx(wanted.transpose(1, 2, 0) * 255, abs=0.5)


def test_names_of_files_are_plain():
    assert named("Score: certified-bound (2)/../<x>") == "score-certified-bound-2-x"
    assert named("汉") == "chart"


def test_files_of_charts_need_matplotlib_and_say_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match=r"pip install 'robustnas\[plots\]'"):
        plots.write([], tmp_path, "pdf")


def test_charts_are_written_as_files(tmp_path: Path):
    pytest.importorskip("matplotlib", reason="robustnas[plots] is not installed")
    chart = Chart("k", "$x_", "epoch", "loss", [Series("a_$", [(1, 1.0), (2, 2.0)], 0, steps=True)], True, whole=True)
    drawings = [chart, chart, *heat_maps("darts", history(2), {})]
    plots.write(drawings, tmp_path, "png")
    names = {"k.png", "k-2.png", "mixing-weights-of-darts-normal.png", "mixing-weights-of-darts-among-edges.png"}
    assert {file.name for file in tmp_path.iterdir()} == names
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in tmp_path.iterdir())
    plots.write(drawings[:1], tmp_path, "pdf")
    assert (tmp_path / "k.pdf").read_bytes().startswith(b"%PDF")
