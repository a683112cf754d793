"""Certified radii of a stage: what is known of one norm carries over to the others."""

from types import SimpleNamespace

import pytest
import torch

from robustnas import certify
from robustnas.recipe.schema import Certify
from robustnas.run.certification import _radii
from robustnas.threat import ThreatModel

FOUND = {"linf": [0.02, 0.0, 0.3, 0.0], "l2": [0.01, 0.0, 0.5, 0.0], "l1": [0.04, 0.0, 0.2, 0.0]}
CERTIFIED = torch.tensor([True, False, True, True])


@pytest.mark.parametrize(
    ("threat", "norms", "expected"),
    [
        (
            ("linf", 0.1),
            ["linf", "l2", "l1"],
            {"linf": [0.1, 0, 0.3, 0.1], "l2": [0.1, 0, 0.5, 0.1], "l1": [0.1, 0, 0.5, 0.1]},
        ),
        (
            ("l2", 0.1),
            ["l1", "linf", "l2"],
            {"linf": [0.02, 0, 0.3, 0], "l2": [0.1, 0, 0.5, 0.1], "l1": [0.1, 0, 0.5, 0.1]},
        ),
        (("l1", 0.1), ["linf", "l1"], {"linf": [0.02, 0, 0.3, 0], "l1": [0.1, 0, 0.3, 0.1]}),
        (("linf", 0.1), ["l1"], {"l1": [0.1, 0, 0.2, 0.1]}),
        (("l1", 0.1), ["linf"], {"linf": [0.02, 0, 0.3, 0]}),
        (("linf", 0.1), [], {}),
    ],
    ids=str,
)
def test_a_ball_inside_a_certified_ball_is_certified(monkeypatch, threat, norms, expected):
    monkeypatch.setattr(certify, "radius", lambda network, x, y, norm, method: torch.tensor(FOUND[norm]))
    plan = SimpleNamespace(certify=Certify(norms=norms), threat=ThreatModel(*threat))
    images, labels = torch.rand(4, 1, 2, 2), torch.zeros(4, dtype=torch.long)
    found = _radii(None, images, labels, plan, CERTIFIED)
    assert list(found) == norms  # in the order of the recipe
    for norm, radii in expected.items():
        torch.testing.assert_close(found[norm], torch.tensor(radii, dtype=torch.float32))
