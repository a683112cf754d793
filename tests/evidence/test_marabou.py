"""Certified margins lie below what Marabou, a complete verifier, found: `tests/evidence/golden/marabou.json`."""

from __future__ import annotations

import json
import math
from functools import cache
from itertools import pairwise

import pytest
import torch

from evidence.golden import marabou
from robustnas import certify
from robustnas.bounds import METHODS
from robustnas.threat import ThreatModel
from support import places

GOLDEN = json.loads((places.GOLDEN / "marabou.json").read_text())


ROWS = GOLDEN["least_margins"]


@cache
def certified(method: str, dtype: torch.dtype) -> list[float]:
    """The least certified margin of each row."""
    network, images = marabou.network(GOLDEN, dtype), marabou.images(GOLDEN, dtype)
    cases = [(images[r["image"]][None], torch.tensor([r["label"]]), ThreatModel("linf", r["epsilon"])) for r in ROWS]
    return [float(certify.margins(network, *case, method=method).amin()) for case in cases]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", METHODS)
def test_margins_lie_below_what_marabou_found(method: str, dtype: torch.dtype) -> None:
    """Marabou found an image whose margin is at most `below`; a certified lower bound above it would be false."""
    slack = GOLDEN["provenance"]["slack"]
    assert len(ROWS) == 12
    for row, found in zip(ROWS, certified(method, dtype), strict=True):
        assert found <= row["below"] + slack
        assert found <= slack or row["property"] == "unsat"


def test_marabou_proved_and_refuted() -> None:
    """The golden file has verdicts of both kinds and numbers that agree with them; tighter methods come nearer."""
    network, images = marabou.network(GOLDEN), marabou.images(GOLDEN)
    assert {row["property"] for row in ROWS} == {"sat", "unsat"}
    for row in ROWS:
        assert row["above"] < row["below"] <= row["above"] + 2.0**-8
        assert not row["above"] <= 0 <= row["below"], "too near 0 to say which verdict is right"
        assert row["property"] == ("unsat" if row["above"] > 0 else "sat")
        logits = network(images[row["image"]][None])[0].detach()
        assert row["above"] < float(logits[row["label"]] - max(v for j, v in enumerate(logits) if j != row["label"]))
    found = {method: certified(method, torch.float32) for method in METHODS}
    gaps = {
        method: [(row["below"] - margin) / row["epsilon"] for row, margin in zip(ROWS, found[method], strict=True)]
        for method in METHODS
    }
    robust = {method: sum(margin > 0 for margin in found[method]) for method in METHODS}
    means = [math.fsum(gaps[method]) / 12 for method in METHODS]
    print("mean distance to the least margin, over epsilon:", dict(zip(METHODS, means, strict=True)))
    print("certified, of 10 that are robust and 2 that are not:", robust)
    assert all(after <= before + 1e-6 for before, after in pairwise(means))
    assert 0 < robust["crown-ibp"] <= robust["crown"] <= 10
