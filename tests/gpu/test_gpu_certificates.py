"""Bounds and certificates on the device: the CPU's to rounding, and sound."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from evidence.soundness.networks import of_space
from evidence.soundness.points import margins_at, some_points
from robustnas import certify
from robustnas.threat import ThreatModel
from support.evaluated_digits import some, trained

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]  # what libraries of a device warn of

METHODS = ("ibp", "crown-ibp", "crown", "alpha-crown")
THREATS = {"linf": ThreatModel("linf", 0.01), "l2": ThreatModel("l2", 0.05), "l1": ThreatModel("l1", 0.1)}


def networks() -> dict[str, tuple[nn.Module, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return {
        "digits": (trained(), some(16)[0]),
        "darts": (of_space("darts", True, 1, (1, 8, 8)), torch.rand(3, 1, 8, 8, generator=generator)),
        "pc-darts supernet": (of_space("pc-darts", False, 1, (1, 8, 8)), torch.rand(3, 1, 8, 8, generator=generator)),
    }


class Case:
    """A network, images and its answers on the CPU, and the smallest margins found among admissible images."""

    def __init__(self, network: nn.Module, images: torch.Tensor):
        self.network, self.images = network, images
        with torch.no_grad():
            self.labels = network(images).argmax(1)
        self._least: dict[str, torch.Tensor] = {}

    def least(self, norm: str) -> torch.Tensor:
        """(N, K - 1), in float64; looked for once a norm."""
        if norm not in self._least:
            network, images = copy.deepcopy(self.network).double(), self.images.double()
            points = some_points(network, images, self.labels, THREATS[norm], seed=0, draws=4)
            with torch.no_grad():
                self._least[norm] = margins_at(network, points, self.labels)[0].amin(dim=0)
        return self._least[norm]


@pytest.fixture(scope="module", params=["digits", "darts", "pc-darts supernet"])
def case(request: pytest.FixtureRequest) -> Case:
    return Case(*networks()[request.param])


@pytest.mark.parametrize("norm", THREATS)
@pytest.mark.parametrize("method", METHODS)
def test_margins_and_radii(method: str, norm: str, case: Case, device: torch.device) -> None:
    network, images, labels, threat = case.network, case.images, case.labels, THREATS[norm]
    if method != "crown-ibp" and norm != "linf" and len(images) < 16:
        pytest.skip("the other norms are tried on the small network")
    if method in ("crown", "alpha-crown") and hasattr(network, "alpha"):
        pytest.skip("takes minutes of the CPU on a supernet")
    there, away = copy.deepcopy(network).to(device), (images.to(device), labels.to(device))
    here = certify.margins(network, images, labels, threat, method)
    found = certify.margins(there, *away, threat, method)
    assert found.device.type == device.type
    # alpha-crown climbs, so that rounding can take another way
    rtol = 0.02 if method == "alpha-crown" else 1e-3
    torch.testing.assert_close(found.cpu(), here, rtol=rtol, atol=1e-4)
    assert bool((found.cpu().double() <= case.least(norm)).all())
    radii = [certify.radius(net, *data, norm, method) for net, data in ((network, (images, labels)), (there, away))]
    torch.testing.assert_close(radii[1].cpu(), radii[0], rtol=max(rtol, 3e-3), atol=1e-6)
