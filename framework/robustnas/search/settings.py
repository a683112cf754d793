"""Settings of the search: section `search` of a recipe."""

from __future__ import annotations

from typing import Literal

from attrs import field, frozen
from attrs.validators import ge, gt, lt

from robustnas.contracts import Order
from robustnas.data.parts import two_images_a_part
from robustnas.options import option
from robustnas.search.balance import RHO, Balance
from robustnas.search.hypergradient.first_order import FirstOrder

OF_ALPHA = ("warmup_epochs", "order", "gamma", "collapse", "train_share", "alpha_lr", "alpha_decay")
"""Settings that concern alpha alone, and mean nothing to weights that are trained path by path."""


@frozen
class Search:
    """Section `search`: the bilevel search of the genotype."""

    epochs: int = option(50, "epochs of the search", ge(1))
    warmup_epochs: int = option(0, "epochs at the start in which alpha does not move", ge(0))
    batch: int = option(64, "images in a batch, of each half", ge(2))
    accumulate: int = option(1, "parts a batch is computed in where it does not fit; batch norm sees a part", ge(1))

    @accumulate.validator
    def _leaves_two(self, attribute: object, accumulate: int) -> None:
        two_images_a_part(self.batch, accumulate)

    order: Order = field(
        factory=FirstOrder,
        metadata={
            "help": "hypergradient: first, unrolled, exact, neumann or cg; with options as {name: cg, iterations: 5} "
            "(ours: first)",
            "plugin": "order",
        },
    )

    @order.validator
    def _is_made(self, attribute: object, order: Order) -> None:
        if not callable(getattr(order, "gradient", None)):
            raise ValueError(f"found {order!r}; an order with its options, such as FirstOrder(), would do")

    precision: Literal["float32", "tf32", "bfloat16"] = option(
        "float32", "of plain passes; scores, Hessian-vector products and norms stay float32"
    )
    compile: bool = option(
        False, "compile plain passes (torch.compile; CUDA graphs on CUDA); changes rounding alone", identity=False
    )
    recompute_cells: bool = option(
        False, "compute each cell again in the backward pass: less memory, more time", identity=False
    )

    @recompute_cells.validator
    def _one_of_the_two(self, attribute: object, recompute_cells: bool) -> None:
        if recompute_cells and self.compile:
            raise ValueError(
                "found true beside compile: true; compiled passes keep what they need, so one of the two would do"
            )

    gamma: float | Balance = option(
        Balance(RHO),
        "weight of the robustness metric in the outer level: a number, or {balance: rho} for one that follows the "
        "gradients, such that each score moves alpha rho times its weight as much as the loss does",
    )

    @gamma.validator
    def _not_negative(self, attribute: object, gamma: float | Balance) -> None:
        if not isinstance(gamma, Balance) and not gamma >= 0:
            raise ValueError(f"found {gamma}; at least 0, or {{balance: {RHO:g}}}, would do")

    collapse: Literal["off", "watch", "stop"] = option(
        "off",
        "watch: the dominant eigenvalue of the outer Hessian in alpha is in the history, for about ten steps an epoch; "
        "stop: where it has risen too far, the search ends with the genotype of five epochs before (RobustDARTS)",
        identity="if given",
    )
    train_share: float = option(
        0.5, "share of the training images of each class that move w; the others move alpha", gt(0.0), lt(1.0)
    )
    w_lr: float = option(0.025, "learning rate of w at the start (SGD, cosine)", gt(0.0))
    w_lr_min: float = option(0.001, "learning rate of w at the end", ge(0.0))
    w_momentum: float = option(0.9, "momentum of w", ge(0.0), lt(1.0))
    w_decay: float = option(3e-4, "weight decay of w", ge(0.0))
    w_clip: float = option(5.0, "largest norm of w's gradient", gt(0.0))
    alpha_lr: float = option(3e-4, "learning rate of alpha (Adam, betas 0.5 and 0.999)", gt(0.0))
    alpha_decay: float = option(1e-3, "weight decay of alpha", ge(0.0))
    crop: int = option(0, "augmentation: random crop after padding by this many pixels", ge(0))
    flip: bool = option(False, "augmentation: random horizontal flip")
    cutout: int = option(0, "augmentation: side of the square blanked out, in pixels", ge(0))

    @property
    def division(self) -> tuple[float, int, int]:
        """The settings that, with the seed, decide how training images are divided between the two levels."""
        return self.train_share, self.batch, self.accumulate
