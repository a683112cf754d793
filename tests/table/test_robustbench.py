"""Results in the form of RobustBench."""

import json
import subprocess
import sys

import pytest

from robustnas.errors import InputError
from robustnas.table import robustbench
from robustnas.threat import ThreatModel

LINF, L2, L1 = ThreatModel("linf", "8/255"), ThreatModel("l2", 0.5), ThreatModel("l1", 12)

KEYS = {
    "link": str,
    "name": str,
    "authors": str,
    "additional_data": bool,
    "number_forward_passes": int,
    "dataset": str,
    "venue": str,
    "architecture": str,
    "eps": str,
    "clean_acc": str,
    "reported": str,
    "autoattack_acc": str,
    "footnote": str,
    "unreliable": bool,
}
"""The keys of the files in its repository, in their order, each with its type."""


def entry(**more):
    given = {"name": "Ours", "dataset": "cifar10", "architecture": "DARTS, 20 cells", "threat": LINF, "clean": 0.8}
    return robustbench.entry(**{**given, "autoattack": 0.5, **more})


@pytest.mark.parametrize("reported", [None, 0.51])
def test_it_has_the_keys_and_types_of_the_leaderboard(reported):
    found = entry(reported=reported)
    assert [(key, type(value)) for key, value in found.items()] == list(KEYS.items())
    assert list(json.loads(robustbench.text(found)).items()) == list(found.items())


def test_figures_are_percent_with_two_decimals():
    found = entry(clean=0.95164, autoattack=0.0, reported=1 / 3)
    assert (found["clean_acc"], found["autoattack_acc"], found["reported"]) == ("95.16", "0.00", "33.33")
    assert entry(clean=1.0, autoattack=1.0)["clean_acc"] == "100.00"
    assert entry()["reported"] == "N/A"


@pytest.mark.parametrize(
    ("threat", "eps"), [(LINF, "8/255"), (L2, "0.5"), (ThreatModel("l2", 3), "3"), (ThreatModel("linf", 0.3), "0.3")]
)
def test_epsilon_is_text(threat, eps):
    assert entry(threat=threat)["eps"] == eps


def test_what_is_given_is_listed():
    words = {"link": "https://arxiv.org/abs/0000.00000", "authors": "A, Jérôme B", "venue": "X 2026", "footnote": "f"}
    more = {"number_forward_passes": 10, "additional_data": True, "unreliable": True}
    found = entry(**words, **more)
    assert {**words, **more}.items() <= found.items()
    assert "Jérôme" in robustbench.text(found)


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        ({"autoattack": None}, InputError, r"no result of autoattack at linf 8/255.*would do"),
        ({"threat": L1}, InputError, "linf or l2 would do"),
        ({"name": ""}, InputError, "at least one forward pass"),
        ({"number_forward_passes": 0}, InputError, "at least one forward pass"),
        ({"clean": 80.0}, ValueError, "autoattack <= clean"),
        ({"autoattack": 0.9}, ValueError, "autoattack <= clean"),
        ({"autoattack": -0.1}, ValueError, "autoattack <= clean"),
        ({"clean": float("nan")}, ValueError, "autoattack <= clean"),
    ],
)
def test_what_cannot_be_listed_is_refused(more, error, message):
    with pytest.raises(error, match=message):
        entry(**more)


def test_it_needs_no_torch():
    code = "import robustnas.table.robustbench, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
