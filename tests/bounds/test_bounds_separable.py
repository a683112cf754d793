"""Bounds of a supernet's depthwise-separable layers are those of the convolutions that they are made of."""

from __future__ import annotations

import pytest
import torch

from robustnas.bounds import log_widths, margins
from robustnas.nn.fast import plain
from robustnas.threat import ThreatModel
from robustnas_plugins.search_spaces.darts import Darts


@pytest.mark.parametrize(
    ("method", "targets", "scale"),
    [
        ("ibp", "all", 1.0),
        ("crown-ibp", "all", 1.0),
        ("crown-ibp", "strongest", 1e8),
        pytest.param("crown", "strongest", 1.0, marks=pytest.mark.slow),
    ],
)
def test_they_are_those_of_convolutions_with_their_gradients(method: str, targets: str, scale: float):
    """With large weights the intervals are carried with an exponent."""
    torch.manual_seed(0)
    net = Darts(cells=2, channels=2).supernet((1, 4, 4), 3).double()
    with torch.no_grad():
        net.train()(torch.rand(8, 1, 4, 4, dtype=torch.float64))
        for name, buffer in net.named_buffers():
            if name.endswith("running_var"):
                buffer.div_(scale)
    net.eval()
    images, labels = torch.rand(2, 1, 4, 4, dtype=torch.float64), torch.tensor([0, 2])
    compute, threat = (margins if scale == 1 else log_widths), ThreatModel("linf", 1e-3)
    tables = list(net.alpha.values())

    def bounds() -> tuple[torch.Tensor, ...]:
        found = compute(net, images, labels, threat, method, targets)
        return found, *torch.autograd.grad(found.sum(), tables)

    with plain("stages"):
        expected = bounds()
    assert expected[1].abs().max() > 0
    for one, other in zip(bounds(), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9 * float(other.detach().abs().max()))
