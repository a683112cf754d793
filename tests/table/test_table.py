"""The table: figures, worst case, verdicts that contradict each other, and its four forms."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from robustnas.attack.column import Column
from robustnas.certify.verdicts import Verdicts
from robustnas.plan import Seed
from robustnas.table.forms import csv_text, json_data, markdown, show
from robustnas.table.grids import cells, matrices
from robustnas.table.lines import questions
from robustnas.table.rows import Comparison, SeedResult, figure, row
from robustnas.threat import ThreatModel
from support import finished_run as finished
from support import places

THREAT = ThreatModel("linf", 8 / 255)
COLUMNS = [
    Column("fgsm", THREAT),
    Column("pgd-20", THREAT, spared=True),
    Column("cw (l2 0.5)", ThreatModel("l2", 0.5), worst_case=False),
]
ATTACKS = Verdicts(
    standing={"fgsm": [0, 1, 1, 1], "pgd-20": [0, 0, 1, 1], "cw (l2 0.5)": [0, 0, 0, 0]},
    robust=[False, False, True, True],
    curve={0.1: [False, False, False, True]},
    evaluations={"fgsm": 1.5, "pgd-20": 11.0, "cw (l2 0.5)": 400.0},
)


def result(seed: int = 0, **changes: object) -> SeedResult:
    """Four images: wrong when clean, broken by pgd, standing, certified."""
    found: dict[str, object] = {
        "clean": [False, True, True, True],
        "attacks": ATTACKS,
        "certified": [False, False, False, True],
        "radius": {"linf": [0.0, 0.01, 0.02, 0.06], "l2": [0.0, 0.1, 0.2, 0.6]},
        "parameters": 1234,
        "search_seconds": 2.5,
    }
    return SeedResult(seed=Seed(seed), **{**found, **changes})  # type: ignore[arg-type]


def shown(comparison: Comparison, **console: Any) -> str:
    """What `show` prints."""
    out = io.StringIO()
    show(comparison, Console(file=out, **console))
    return out.getvalue()


def test_a_row_worked_by_hand():
    found = row("m", [result()], COLUMNS)
    attacks = {label: share["mean"] for label, share in found["attacks"].items()}
    assert attacks == {"fgsm": 0.75, "pgd-20": 0.5, "cw (l2 0.5)": 0.0}
    assert [found[name]["mean"] for name in ("clean", "robust", "certified")] == [0.75, 0.5, 0.25]
    assert found["certified_radius"]["linf"]["mean"] == pytest.approx(0.03)
    assert found["certified_radius_all"]["linf"]["mean"] == pytest.approx(0.0225)
    assert found["parameters"]["values"] == [1234]


def test_curve_smoothing_and_cost_of_a_row():
    found = row("m", [result(smoothed=[0.0, 0.3, 0.7, 0.2])], COLUMNS, [0.1], [0.25, 0.5])
    assert found["robust_at"]["0.1"]["mean"] == 0.25
    assert found["smoothed"]["0.25"]["mean"] == 0.5
    assert found["smoothed"]["0.5"]["mean"] == 0.25
    assert found["smoothed_radius"]["mean"] == pytest.approx(0.3)
    assert found["evaluations"]["pgd-20"]["mean"] == 11.0
    line = "model evaluations a test image: fgsm 1.5, pgd-20 11.0, cw (l2 0.5) 400.0"
    assert line in markdown(Comparison(str(THREAT), [found], COLUMNS, [], []))
    titles, _ = cells(Comparison(str(THREAT), [found], COLUMNS, [], [], [0.1], [0.25, 0.5]))
    assert {"after pgd-20 %", "robust at 0.1 %", "smoothed at 0.25 %", "smoothed radius l2"} <= set(titles)


def test_a_row_with_a_flag_is_marked_and_the_flag_is_said_under_the_table():
    flag = {"name": "zero-gradients", "text": "60 of 64 images have no gradient", "attack": None}
    masked = row("masked", [result(0, flags=[flag]), result(1, flags=[flag])], COLUMNS)
    found = Comparison(str(THREAT), [masked, row("sound", [result()], COLUMNS)], COLUMNS, [], ["a note"])
    assert [line[0][0] for line in cells(found)[1]] == ["masked (!)", "sound"]
    assert questions(found) == ["(!) zero-gradients: 60 of 64 images have no gradient; in (seeds) masked (0, 1)"]
    for text in (markdown(found), shown(found)):
        assert "(!) zero-gradients: 60 of 64 images have no gradient; in (seeds) masked (0, 1)" in text
    assert json_data(found)["rows"][0]["flags"] == [{**flag, "seed": 0}, {**flag, "seed": 1}]


def test_variants_are_a_matrix_of_their_own():
    def of(**shares: float) -> SeedResult:
        return result(attacks=evolve(ATTACKS, variants={"fgsm": shares}))

    rows = [row("a", [of(b=0.5), of(b=0.7)], COLUMNS), row("b", [of(a=0.25)], COLUMNS)]
    found = Comparison(str(THREAT), rows, COLUMNS, [], [])
    assert matrices(found) == [
        ("fgsm: percent right under each", ["a", "b"], [("b", ["60.00", "-"]), ("a", ["-", "25.00"])])
    ]
    assert "| b | 60.00 | - |" in markdown(found)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_a_figure_is_finite_or_null(values: list[float]):
    found = figure([[value] for value in values])
    assert found is not None
    assert math.isclose(found["mean"], sum(values) / len(values), abs_tol=1e-9)
    assert (found["std"] is None) == (len(values) == 1)
    json.dumps(found, allow_nan=False)


def test_what_was_not_measured_is_null():
    assert figure([[None], [None]]) is None
    one = {"mean": 0.5, "std": None, "std_within": None, "interval": None, "values": [0.5, None]}
    assert figure([[0.5], [None]]) == {**one, "within": [[0.5], [None]]}
    assert figure([[None], [0.5], [0.7]])["std"] == pytest.approx(0.02**0.5)  # type: ignore[index]
    empty = row("m", [SeedResult(seed=Seed(0))], COLUMNS)
    assert empty["clean"] is empty["robust"] is empty["certified"] is None
    assert empty["certified_radius"] == {"linf": None, "l2": None, "l1": None}
    assert empty["attacks"] == {"fgsm": None, "pgd-20": None, "cw (l2 0.5)": None}


def test_every_norm_that_was_measured_is_a_column():
    radius = {"l1": [0.0, 0.25, 0.5, 1.5], "linf": [0.0, 0.01, 0.02, 0.06]}
    found = row("m", [result(radius=radius)], COLUMNS)
    assert found["certified_radius"]["l1"]["mean"] == pytest.approx(0.75)
    assert found["certified_radius_all"]["l1"]["mean"] == pytest.approx(0.5625)
    assert found["certified_radius"]["l2"] is None
    measured = Comparison(str(THREAT), [found], COLUMNS, ["l1", "linf"], [])
    assert [title for title in cells(measured)[0] if "radius" in title] == ["radius l1", "radius linf"]
    assert "radius_l1_mean,radius_l1_std,radius_linf_mean" in csv_text(measured).splitlines()[0]


def test_certified_accuracy_at_several_radii_falls_and_agrees_with_the_radius(finished_run: Path):
    for found in finished.table(finished_run)["rows"]:
        shares = [found["certified_at"][e]["mean"] for e in ("0.00392157", "0.005", "0.03")]
        assert shares == sorted(shares, reverse=True)
        assert shares[1] >= found["certified"]["mean"] >= shares[2], "the threat is between them"
    radius = json.loads(next((finished_run / "run/certify").glob("*/result.json")).read_text())["radius"]["linf"]
    held = json.loads(next((finished_run / "run/certify").glob("*/result.json")).read_text())["certified_at"]
    assert {e: [r >= 0.999999 * float(e) for r in radius] for e in held} == held
    assert "certified at 1/255 %" in (finished_run / "run/table.md").read_text()


def test_the_spread_of_radii_is_told_beside_their_mean():
    radii = [10.0**-n for n in range(1, 6)] + [0.0] + [0.5] * 4  # the last four are of images that are wrong
    found = row("m", [result(clean=[True] * 6 + [False] * 4, radius={"linf": radii})], COLUMNS)
    assert found["certified_radius_geometric"]["linf"]["mean"] == pytest.approx(10**-3.5), (
        "a radius of 0 counts as 1e-6"
    )
    quantiles = {q: figure["mean"] for q, figure in found["certified_radius_quantiles"]["linf"].items()}
    expected = np.quantile(radii[:6], [0.1, 0.5, 0.9])
    assert list(quantiles.values()) == pytest.approx(expected.tolist())
    assert list(quantiles) == ["10", "50", "90"]
    text = markdown(Comparison(str(THREAT), [found], COLUMNS, ["linf"], []))
    assert "geometric mean (10, 50, 90 % quantiles): m 0.000316 (0.00000500, 0.000550, 0.0550)" in text
    wrong = row("m", [result(clean=[False] * 10, radius={"linf": radii})], COLUMNS)
    assert wrong["certified_radius_geometric"]["linf"] is None


def test_the_residual_of_a_matched_capacity_is_a_column_where_there_is_one():
    rows = [row("a", [result(match=-0.022), result(1, match=0.01)], COLUMNS), row("b", [result()], COLUMNS)]
    titles, body = cells(Comparison(str(THREAT), rows, COLUMNS, [], []))
    assert [line[titles.index("match %")] for line in body] == [("-0.60 ± 2.26", False), ("-", False)]
    assert "match %" not in cells(comparison())[0]


def comparison() -> Comparison:
    rows = [
        row("darts", [result(0), result(1, clean=[True] * 4)], COLUMNS),
        row("dsrna-cb", [result(0, parameters=999), result(1)], COLUMNS),
    ]
    return Comparison(str(THREAT), rows, COLUMNS, ["linf", "l2"], ["a note"])


def test_best_is_marked_once_for_its_direction():
    titles, body = cells(comparison())
    best = {title: [line[i][1] for line in body] for i, title in enumerate(titles)}
    assert best["clean %"] == [True, False]
    assert best["parameters"] == [False, True], "fewer parameters are better"
    assert best["after pgd-20 %"] == [False, False], "where all are alike none is the best"
    assert best["method"] == [False, False]
    three = evolve(comparison(), rows=[*comparison().rows, comparison().rows[0]])
    titles, body = cells(three)
    assert [line[titles.index("clean %")][1] for line in body] == [True, False, True], "ties share the mark"


@pytest.mark.parametrize(
    ("name", "attack", "spared"),
    [
        ("constant-answer", None, set()),
        ("chance-level", None, set()),
        ("chance-level", "smoothing", {"clean %", "certified %", "parameters"}),
        ("zero-gradients", None, {"clean %", "certified %", "parameters", "smoothed radius l2"}),
    ],
)
def test_what_does_not_look_at_images_is_the_best_of_nothing(name: str, attack: str | None, spared: set[str]):
    flag = {"name": name, "text": "as blind as it is robust", "attack": attack}
    certain = {"clean": [True] * 4, "certified": [True] * 4, "smoothed": [1.0] * 4, "parameters": 1}
    rows = [
        row("blind", [result(0, **certain), result(1, flags=[flag], **certain)], COLUMNS, smoothing=[]),
        row("a", [result(smoothed=[0.5] * 4)], COLUMNS, smoothing=[]),
        row("b", [result(smoothed=[0.2] * 4, clean=[False] * 4, certified=[False] * 4, parameters=9999)], COLUMNS),
    ]
    titles, body = cells(Comparison(str(THREAT), rows, COLUMNS, [], [], smoothing=[]))
    best = {title: [line[0][0] for line in body if line[i][1]] for i, title in enumerate(titles)}
    for title in ("clean %", "certified %", "parameters", "smoothed radius l2"):
        assert best[title] == (["blind (!)"] if title in spared else ["a"]), title


def test_a_figure_over_some_of_the_seeds_says_so_and_one_figure_is_not_the_best():
    rows = [
        row("a", [result(0, search_seconds=None), result(1, certified=None, search_seconds=None)], COLUMNS),
        row("b", [result(0), result(1)], COLUMNS),
    ]
    titles, body = cells(Comparison(str(THREAT), rows, COLUMNS, [], []))
    columns = {title: [line[i] for line in body] for i, title in enumerate(titles)}
    assert columns["certified %"] == [("25.00 (1 of 2 seeds)", False), ("25.00 ± 0.00", False)]
    assert columns["search s"] == [("-", False), ("2.5 ± 0.0", False)]
    assert rows[0]["certified"]["values"] == [0.25, None]


def test_names_are_shown_as_they_are_written():
    attack = Column("a|b [red]", THREAT)
    variants = Verdicts(standing={attack.label: [1, 1, 1, 1]}, variants={attack.label: {"fog|1 [red]": 0.5}})
    found = Comparison(str(THREAT), [row("m", [result(attacks=variants)], [attack])], [attack], [], [])
    assert shown(found).count("a|b [red]") == 2
    assert "fog|1 [red]" in shown(found)
    table_lines = [line.replace("\\|", "") for line in markdown(found).splitlines() if line.startswith("|")]
    assert [line.count("|") for line in table_lines] == [9] * 3 + [3] * 3


def test_every_key_of_the_json_is_documented():
    data = json_data(comparison())
    text = (places.ROOT / "docs" / "results.md").read_text()
    keys = {*data, *data["rows"][0], *data["rows"][0]["clean"], *data["attacks"]["fgsm"]}
    assert len(keys) > 25
    assert [key for key in keys if f"`{key}`" not in text] == []


def test_the_four_forms_hold_the_same_rows():
    found = comparison()
    data = json.loads(json.dumps(json_data(found), allow_nan=False))
    assert data["schema"] == 2
    required = {
        "method", "seeds", "clean", "robust", "attacks", "certified", "certified_radius", "parameters",
        "search_seconds",
    }  # fmt: skip
    assert all(required <= set(r) for r in data["rows"])
    text = markdown(found)
    assert text.count("\n| d") == 2
    assert "**" in text
    assert "- mean certified linf radius with 0 for the wrongly classified: darts 0.0225, dsrna-cb 0.0225" in text
    lines = list(csv.DictReader(io.StringIO(csv_text(found))))
    assert list(lines[0])[:5] == ["method", "seeds", "clean_mean", "clean_std", "fgsm_mean"]
    assert [line["method"] for line in lines] == ["darts", "dsrna-cb"]
    assert float(lines[0]["radius_l2_all_mean"]) == pytest.approx(0.225)
    assert all(None not in line and None not in line.values() for line in lines)


@pytest.mark.parametrize("width", [60, 80, 100, 140, 400])
def test_no_width_of_terminal_cuts_a_figure(width: int):
    text = shown(comparison(), force_terminal=True, width=width, color_system=None)
    assert "…" not in text
    assert all(len(line.rstrip()) <= width for line in text.splitlines() if not line.startswith("- "))
    titles, body = cells(comparison())
    for title in titles:
        assert all(word in text for word in title.split())
    for line in body:
        assert all(part in text for figure_text, _ in line for part in figure_text.split(" ± "))


def test_a_pipe_gets_the_table_on_lines_of_its_own_and_no_escape_codes():
    text = shown(comparison())
    assert "\x1b" not in text
    assert len([line for line in text.splitlines() if line.strip().startswith(("darts ", "dsrna-cb "))]) == 2
