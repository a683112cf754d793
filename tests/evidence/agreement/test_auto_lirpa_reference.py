"""Certified bounds against auto_LiRPA: equal where the relaxation is the same, and never looser.

    PYTHONPATH=CLONE python -m pytest -n 0 -m "" tests/evidence/agreement/test_auto_lirpa_reference.py

It looks at the release that is installed, or at a CLONE of https://github.com/Verified-Intelligence/auto_LiRPA on the
path (which wants appdirs, graphviz, packaging, pyyaml, sortedcontainers and tqdm).  Where neither is, values of an
older release stand for it: `evidence/golden/auto_lirpa.yaml`, in `tests/bounds/test_bounds_exact.py`.
"""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

from evidence.soundness import formula_networks as formulas
from robustnas.bounds import METHODS, AlphaCrown, margins
from robustnas.threat import NORMS, ThreatModel
from support.their_bounds import THEIRS, moving_slopes, theirs

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("auto_LiRPA", reason="the reference implementation, auto_LiRPA, is not installed")

pytestmark = pytest.mark.filterwarnings("ignore")

FIXED = tuple(method for method in METHODS if method != "alpha-crown")
RADIUS = {"linf": 0.08, "l2": 0.3, "l1": 0.4}
"""Of the trained network: crown certifies some of the images, and not all."""


@pytest.fixture(scope="module", autouse=True)
def _their_slopes_move() -> None:
    moving_slopes()


def both(network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, method: str) -> tuple[Tensor, Tensor]:
    """Our margins and theirs, (N, K - 1) each: of ours the larger of a method's own and its predecessors', so of
    theirs, too."""
    found = [theirs(network, images, labels, threat, each)() for each in METHODS[: METHODS.index(method) + 1]]
    with torch.no_grad():
        return margins(network, images, labels, threat, method), torch.stack(found).amax(dim=0)


def test_they_have_every_method_of_ours():
    assert tuple(THEIRS) == METHODS


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", formulas.NETWORKS)
def test_bounds_of_small_networks_agree(name: str, norm: str):
    """In l_2 and l_1 theirs takes the interval behind the first convolution from the box, ours from the dual norm.

    In float32, because some of its paths know no other numbers.
    """
    network, images, labels = (
        formulas.network(name).float(),
        formulas.images(name).float(),
        torch.tensor(formulas.LABELS),
    )
    for epsilon in formulas.EPSILONS[norm]:
        for method in FIXED:
            own, other = both(network, images, labels, ThreatModel(norm, epsilon), method)
            assert (own >= other - 1e-5).all(), f"{method} is looser than the reference"
            if norm == "linf" or name == "mlp":
                torch.testing.assert_close(own, other, rtol=0, atol=1e-5)


class Pooling(nn.Module):
    """A convolution, a rectifier, overlapping maxima, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 3, 3, padding=1), nn.Linear(3 * 9, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.max_pool2d(torch.relu(self.conv(x)), 2, 2).flatten(1))


def test_maxima_are_at_least_as_tight():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network, images = Pooling().eval(), torch.rand(4, 1, 6, 6)
    labels, threat = network(images).argmax(dim=1), ThreatModel("linf", 0.1)
    for method in ("crown-ibp", "crown"):
        own, other = both(network, images, labels, threat, method)
        assert (own >= other - 1e-5).all()
        assert (own > other + 1e-4).any()


@pytest.mark.slow
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("method", FIXED)
def test_bounds_of_a_trained_network_agree(subject, norm, method):
    images, labels, threat = subject.images[:16], subject.labels[:16], ThreatModel(norm, RADIUS[norm])
    own, other = both(subject.network, images, labels, threat, method)
    size = float(other.abs().amax())
    assert (own >= other - 1e-5 * size).all()
    if norm == "linf":
        torch.testing.assert_close(own, other, rtol=0, atol=1e-5 * size)
    else:
        # theirs knows no pixel box
        assert (own > other + 1e-3 * size).any()
    certified = [int((each > 0).all(dim=1).sum()) for each in (own, other)]
    # `pytest -rP` shows it
    print(f"{norm} {method}: {certified[0]} certified, {certified[1]} by the reference, of {len(images)}")
    assert certified[0] >= certified[1]
    assert method != "crown" or 0 < certified[1] < len(images), "the radius tells nothing"


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_optimised_bounds_of_a_trained_network_are_at_least_as_tight(subject, norm):
    """Both take 20 steps; the least margin of an image is what certifies it, and may fall short of theirs by 1 % of its
    size."""
    images, labels, threat = subject.images[:8], subject.labels[:8], ThreatModel(norm, RADIUS[norm])
    network = subject.network
    own, other = both(network, images, labels, threat, "alpha-crown")
    fixed = both(network, images, labels, threat, "crown")[1]
    least, reference = own.amin(dim=1), other.amin(dim=1)
    gained = float((reference - fixed.amin(dim=1)).mean())
    share = (least - reference) / reference.abs()
    print(f"{norm}: mean least margin {float(least.mean()):.4f}, reference {float(reference.mean()):.4f}, ", end="")
    print(f"of which its slopes gained {gained:.4f}; worst of ours {float(share.amin()):+.2%}")
    assert AlphaCrown().steps == 20
    assert gained > 0.02, "their slopes did not move, so the comparison tells nothing"
    assert (share >= -0.01).all()
