"""Lower bounds of margins by auto_LiRPA, of the networks, images and threats that ours are made of.

Their optimised slopes start on the border of a clamp whose gradient is 0 from torch 2.14 on; `moving_slopes` puts them
1e-4 inside, without which none of them moves.

Source: Xu et al. 2020, arXiv:2002.12920; Xu et al. 2021 (alpha-CROWN), arXiv:2011.13824.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:  # what makes golden values runs where the project is not installed
    from robustnas.threat import ThreatModel

ORDERS = {"linf": math.inf, "l2": 2.0, "l1": 1.0}
THEIRS = {"ibp": "IBP", "crown-ibp": "IBP+backward", "crown": "backward", "alpha-crown": "CROWN-Optimized"}
"""Our name of a method -> theirs."""
INSIDE = 1e-4


def differences(labels: Sequence[int], classes: int, dtype: torch.dtype) -> Tensor:
    """(N, K - 1, K) differences of logits, columns in class order without the true one: the order of our margins."""
    unit = torch.eye(classes, dtype=dtype)
    return torch.stack([torch.stack([unit[y] - unit[j] for j in range(classes) if j != y]) for y in labels])


def moving_slopes() -> None:
    """Keep their slopes off the ends of the interval that they are clamped to."""
    from auto_LiRPA.operators.relu import BoundRelu, BoundTwoPieceLinear

    begin = BoundTwoPieceLinear.init_opt_parameters

    def inside(self: Any, *given: Any, **named: Any) -> None:
        if given or named:
            begin(self, *given, **named)
        for slopes in self.alpha.values():
            slopes.data.clamp_(INSIDE, 1 - INSIDE)

    BoundTwoPieceLinear.init_opt_parameters = inside
    for owner in (BoundTwoPieceLinear, BoundRelu):
        if "clip_alpha" in vars(owner):
            owner.clip_alpha = lambda self: inside(self)


def theirs(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    method: str,
    *,
    iterations: int = 20,
    mode: str = "patches",
) -> Callable[[], Tensor]:
    """Trace the network, and return what computes their margins (N, K - 1), columns in the order of ours.

    In l_inf pixels stay in [0, 1], as with ours; in l_2 and l_1 they know the ball alone.

    Args:
        method: one of THEIRS.
        iterations: of their optimisation of slopes, those behind intermediate bounds included.
        mode: how they hold the coefficients of convolutions, `patches` or `matrix`.
    """
    from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm

    steps = {"iteration": iterations, "fix_interm_bounds": False, "early_stop_patience": 1000}
    options = {"conv_mode": mode, "relu": "adaptive", "optimize_bound_args": steps}
    epsilon = threat.epsilon
    ends: dict[str, Tensor] = {}
    if threat.norm == "linf":
        ends = {"x_L": (images - epsilon).clamp(0, 1), "x_U": (images + epsilon).clamp(0, 1)}
    ball = BoundedTensor(images, PerturbationLpNorm(norm=ORDERS[threat.norm], eps=epsilon, **ends))
    bounded = BoundedModule(network, images, bound_opts=options, device="cpu")
    with torch.no_grad():
        classes = network(images[:1]).shape[1]
    rows = differences(labels.tolist(), classes, images.dtype)

    def compute() -> Tensor:
        with torch.set_grad_enabled(method == "alpha-crown"):
            lower, _ = bounded.compute_bounds(x=(ball,), C=rows, method=THEIRS[method], bound_upper=False)
        return lower.detach()

    return compute
