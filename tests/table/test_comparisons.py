"""Which methods can be told apart, over seeds and over images, and how the table says it."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from attrs import evolve
from rich.console import Console

from robustnas.attack.column import Column
from robustnas.certify.verdicts import Verdicts
from robustnas.plan import Seed
from robustnas.table import comparisons
from robustnas.table.forms import comparisons_csv, csv_text, json_data, markdown, show
from robustnas.table.grids import cells, differences
from robustnas.table.lines import claims
from robustnas.table.rows import Comparison, SeedResult, row
from robustnas.table.statistics import paired
from robustnas.threat import ThreatModel
from support import places

THREAT = ThreatModel("linf", 8 / 255)
COLUMNS = [Column("pgd", THREAT)]
PLAIN = [Seed(seed) for seed in range(10)]
NESTED = [Seed(search, train, nested=True) for search in range(10) for train in range(2)]


def images(share: float, seed: Seed) -> list[bool]:
    """A hundred images of which a share is right; which, depends on the seed."""
    order = np.random.default_rng(seed.search + 100 * seed.train).permutation(100)
    return [bool(place < round(100 * share)) for place in order]


def result(seed: Seed, clean: float, robust: float, **more: Any) -> SeedResult:
    standing = images(robust, seed)
    attacks = Verdicts(standing={"pgd": standing}, robust=standing)
    return SeedResult(seed, clean=images(clean, seed), attacks=attacks, parameters=1000, search_seconds=1.0, **more)


def table(seeds: Sequence[Seed], **more: Any) -> Comparison:
    """Three methods: `worse` loses 10 points robust in every seed, `level` is above and below in turn."""
    swing = [0.02 if seed.search % 2 else -0.02 for seed in seeds]
    measured = {
        "first": [result(seed, 0.9, 0.6, **more) for seed in seeds],
        "worse": [result(seed, 0.9 + d, 0.5 + d / 2, **more) for seed, d in zip(seeds, swing, strict=True)],
        "level": [result(seed, 0.89 + d, 0.6 - d, **more) for seed, d in zip(seeds, swing, strict=True)],
    }
    rows = [row(method, results, COLUMNS) for method, results in measured.items()]
    found = Comparison(str(THREAT), rows, COLUMNS, [], [])
    return evolve(found, comparisons=comparisons.compared(found, measured))


def one(found: Comparison, column: str, method: str, role: str = "reference") -> dict[str, Any]:
    (only,) = [c for c in found.comparisons if c["column"] == [column] and (c["method"], c["role"]) == (method, role)]
    return only


def marks(found: Comparison, title: str) -> list[bool]:
    titles, body = cells(found)
    return [line[titles.index(title)][1] for line in body]


@pytest.mark.parametrize("seeds", [PLAIN, NESTED], ids=["plain", "nested"])
def test_what_every_seed_shows_is_told_apart_and_the_rest_shares_the_mark(seeds: list[Seed]):
    found = table(seeds)
    worse = one(found, "robust", "worse")
    assert worse["difference"] == pytest.approx(-0.1)
    assert worse["pairs"] == 10, "two trainings of a search are one pair"
    assert worse["p"] == 2**-9
    assert worse["p_holm"] == 2**-8, "two methods are compared with the reference"
    gaps = [-0.11, -0.09] * 5
    half = 2.2621571627 * np.std(gaps, ddof=1) / 10**0.5
    assert worse["interval"] == pytest.approx([-0.1 - half, -0.1 + half])
    assert one(found, "robust", "level")["p_holm"] == 1.0
    assert marks(found, "robust %") == [True, False, True]
    assert marks(found, "clean %") == [False] * 3, "where none can be told apart none is marked"
    assert marks(found, "parameters") == [False] * 3
    (line,) = claims(found)
    assert line.startswith("marked: the best mean and every method that 10 s")
    assert ["search_seconds"] not in [c["column"] for c in found.comparisons], "time is the machine's"


def test_the_family_of_the_best_is_corrected_on_its_own():
    found = table(PLAIN)
    best = [c for c in found.comparisons if c["column"] == ["robust"] and c["role"] == "best"]
    assert {c["against"] for c in best} == {"first"}
    assert [c["p_holm"] for c in best] == paired.holm([c["p"] for c in best])


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (1, "1 seed: no claim about a difference between methods is possible; 7 or more would do"),
        (4, "4 seeds: no claim about a difference"),
        (5, "5 seeds: intervals of differences, and no test that could find one; 7 or more would do"),
        (7, "marked: the best mean and every method that 7 seeds cannot tell apart from it"),
    ],
)
def test_few_seeds_support_no_claim_and_the_table_says_so(count: int, words: str):
    found = table(PLAIN[:count])
    (line,) = claims(found)
    assert line.startswith(words)
    assert f"- {line}" in markdown(found)
    worse = one(found, "robust", "worse")
    assert worse["pairs"] == count
    assert (worse["p"] is None) == (worse["interval"] is None) == (count < 5)
    assert (differences(found) is None) == (count < 5)
    assert worse["difference"] == pytest.approx(-0.1, abs=0.011)
    if count in (1, 5):
        assert sum(marks(found, "robust %")) == 1, "the best mean alone, as where nothing is tested"


def test_images_are_compared_seed_by_seed_and_together():
    found = table(NESTED[:4])
    worse = one(found, "robust", "worse")
    assert list(worse["mcnemar"]) == ["0.0", "0.1", "1.0", "1.1"]
    ours = [images(0.5 + (0.01 if seed.search % 2 else -0.01), seed) for seed in NESTED[:4]]
    theirs = [images(0.6, seed) for seed in NESTED[:4]]
    assert list(worse["mcnemar"].values()) == [paired.mcnemar(*both) for both in zip(ours, theirs, strict=True)]
    assert worse["mcnemar_together"] == paired.mcnemar_over_networks(ours, theirs)
    assert one(found, "parameters", "level")["mcnemar"] == {}


def test_networks_made_elsewhere_are_the_same_under_every_seed():
    found = table(PLAIN, trained=False)
    worse = one(found, "robust", "worse")
    assert (worse["pairs"], worse["p"], list(worse["mcnemar"])) == (0, None, ["0"])
    assert claims(found) == []


def test_methods_without_a_search_are_compared_over_their_trainings():
    trainings = [Seed(0, train, nested=True) for train in range(8)]
    measured = {
        "given": [result(seed, 0.9, 0.6, searched=False) for seed in trainings],
        "other": [result(seed, 0.9, 0.5, searched=False) for seed in trainings],
        "found": [result(Seed(s, t, nested=True), 0.9, 0.5) for s in range(3) for t in range(8)],
    }
    rows = [row(method, results, COLUMNS) for method, results in measured.items()]
    made = Comparison(str(THREAT), rows, COLUMNS, [], [])
    found = evolve(made, comparisons=comparisons.compared(made, measured))
    assert [r["seeds"] for r in rows[1:]] == [{"train": [*range(8)]}, {"search": [0, 1, 2], "train": [*range(8)]}]
    assert [len(r["clean"]["values"]) for r in rows] == [1, 1, 3]
    assert one(found, "robust", "other")["pairs"] == 8
    assert one(found, "robust", "found")["pairs"] == 0, "an architecture and searches have no seeds in common"
    titles, body = cells(found)
    assert [line[1][0] for line in body] == ["8", "8", "3 x 8"]
    assert body[0][titles.index("clean %")][0] == "90.00 ± - ± 0.00"
    assert [line[titles.index("parameters")][0] for line in body] == ["1,000", "1,000", "1,000 ± 0"]


def test_every_form_tells_differences():
    found = table(NESTED)
    laid = differences(found)
    assert laid is not None
    title, titles, body = laid
    assert title.startswith("less first: mean difference")
    assert titles == ["method", "clean %", "robust %"]
    assert [line[0][0] for line in body] == ["worse", "level"]
    assert body[0][2] == ("-10.00 (-10.75 to -9.25)", True)
    assert body[1][2] == ("+0.00 (-1.51 to +1.51)", False)
    assert "| worse | +0.00 (-1.51 to +1.51) | **-10.00 (-10.75 to -9.25)** |" in markdown(found)
    out = io.StringIO()
    show(found, Console(file=out))
    assert "-10.00* (-10.75 to -9.25)" in out.getvalue()
    lines = list(csv.DictReader(io.StringIO(comparisons_csv(found))))
    (line,) = [x for x in lines if (x["column"], x["method"], x["role"]) == ("robust", "worse", "reference")]
    assert float(line["difference"]) == pytest.approx(-0.1)
    assert (float(line["p_holm"]), line["pairs"], line["against"]) == (2**-8, "10", "first")
    (first, *_) = csv.DictReader(io.StringIO(csv_text(found)))
    assert (first["clean_mean"], first["clean_std"], first["clean_std_within"]) == ("0.9", "0.0", "0.0")
    assert first["seeds"] == "search 0 1 2 3 4 5 6 7 8 9; train 0 1"
    assert "search_std_within_seconds" in first


def test_every_key_of_a_comparison_is_documented():
    (one, *_) = json_data(table(PLAIN))["comparisons"]
    text = (places.ROOT / "docs" / "results.md").read_text()
    assert [key for key in one if f"`{key}`" not in text] == []
