"""Certified margins lie below what Marabou, a complete verifier, found: `tests/evidence/golden/marabou.json`."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import pytest
import torch

from evidence.golden import marabou
from robustnas import certify
from robustnas.bounds import METHODS
from robustnas.threat import ThreatModel
from support import places

GOLDEN = json.loads((places.GOLDEN / "marabou.json").read_text())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", METHODS)
def test_margins_lie_below_what_marabou_found(method: str, dtype: torch.dtype) -> None:
    """Marabou found an image whose margin is at most `below`; a certified lower bound above it would be false."""
    network, images = marabou.network(GOLDEN, dtype), marabou.images(GOLDEN, dtype)
    slack = GOLDEN["provenance"]["slack"]
    walked = 0
    for row in GOLDEN["least_margins"]:
        image, label = images[row["image"]][None], torch.tensor([row["label"]])
        found = float(certify.margins(network, image, label, ThreatModel("linf", row["epsilon"]), method=method).amin())
        assert found <= row["below"] + slack
        if found > slack:
            assert row["property"] == "unsat"
        walked += 1
    assert walked == 12


def test_marabou_proved_and_refuted() -> None:
    """The golden file has verdicts of both kinds and numbers that agree with them; tighter methods come nearer."""
    network, images = marabou.network(GOLDEN), marabou.images(GOLDEN)
    assert {row["property"] for row in GOLDEN["least_margins"]} == {"sat", "unsat"}
    gaps: dict[str, list[float]] = {method: [] for method in METHODS}
    certified = dict.fromkeys(METHODS, 0)
    for row in GOLDEN["least_margins"]:
        assert row["above"] < row["below"] <= row["above"] + 2.0**-8
        assert not row["above"] <= 0 <= row["below"], "too near 0 to say which verdict is right"
        assert row["property"] == ("unsat" if row["above"] > 0 else "sat")
        image, label = images[row["image"]][None], torch.tensor([row["label"]])
        logits = network(image)[0].detach()
        clean = float(logits[row["label"]] - max(v for j, v in enumerate(logits) if j != row["label"]))
        assert row["above"] < clean
        for method in METHODS:
            found = certify.margins(network, image, label, ThreatModel("linf", row["epsilon"]), method=method)
            gaps[method].append((row["below"] - float(found.amin())) / row["epsilon"])
            certified[method] += float(found.amin()) > 0
    means = [math.fsum(gaps[method]) / 12 for method in METHODS]
    print("mean distance to the least margin, over epsilon:", dict(zip(METHODS, means, strict=True)))
    print("certified, of 10 that are robust and 2 that are not:", certified)
    assert all(after <= before + 1e-6 for before, after in pairwise(means))
    assert 0 < certified["crown-ibp"] <= certified["crown"] <= 10
