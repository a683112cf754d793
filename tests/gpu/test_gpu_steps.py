"""A step of a search on the device is the CPU's: every metric with every order, every space, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustnas.contracts import is_differentiable
from robustnas.registry import METRICS, ORDERS
from robustnas.runtime.processes import ALONE
from robustnas.search.bilevel import inner_step
from robustnas_plugins.search_spaces.darts import Darts
from robustnas_plugins.search_spaces.pc_darts import PcDarts
from support.shared_batches import step_of

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]  # what libraries of a device warn of

SPACES = {"darts": Darts(cells=3, channels=2), "pc-darts": PcDarts(cells=3, channels=4, partial=2)}


def taken(device: torch.device | str, metrics: tuple[Any, ...], order: str, build: Callable[[], nn.Module]) -> Tensor:
    """Gradients of alpha, and w after one step, as one line on the CPU."""
    torch.manual_seed(0)
    step = step_of(metrics, ALONE, device, build())
    found = ORDERS.load(order)().gradient(step).gradients
    inner_step(step, 5.0)
    assert all(tensor.device.type == torch.device(device).type for tensor in (*found, *step.weights.parameters))
    return torch.cat([tensor.detach().cpu().flatten() for tensor in (*found, *step.weights.parameters)])


def agree(device: torch.device, metrics: tuple[Any, ...], order: str, build: Callable[[], Any]) -> None:
    here, there = (taken(place, metrics, order, build) for place in ("cpu", device))
    assert bool(here.isfinite().all())
    torch.testing.assert_close(there, here, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("order", ORDERS.names())
@pytest.mark.parametrize("metric", [None, *(name for name in METRICS.names() if is_differentiable(METRICS.load(name)))])
def test_every_metric_with_every_order(metric: str | None, order: str, device: torch.device) -> None:
    agree(device, () if metric is None else (METRICS.load(metric)(),), order, lambda: None)


@pytest.mark.parametrize("metric", ["jacobian", "certified-bound", "adversarial-alpha"])
@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_every_space(space: Any, metric: str, device: torch.device) -> None:
    options = {"epsilon": 1e-6, "scale": "log"} if metric == "certified-bound" else {}
    agree(device, (METRICS.load(metric)(**options),), "unrolled", lambda: space.supernet((2, 6, 6), 3))
