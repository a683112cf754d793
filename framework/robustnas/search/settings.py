"""Settings of the search: section `search` of a recipe, and the orders of the hypergradient."""

from __future__ import annotations

from typing import Literal

from attrs import field, frozen
from attrs.validators import ge, gt, lt, optional

from robustnas.data.parts import two_images_a_part
from robustnas.options import option


@frozen
class FirstOrder:
    """Order `first`: the weights as they are (Liu et al. 2019, arXiv:1806.09055, with xi = 0)."""


@frozen
class Unrolled:
    """Order `unrolled`: through one virtual step of w, by a finite difference (arXiv:1806.09055, eqs. 7 and 8)."""

    radius: float = option(0.01, "length of the finite difference's step in w, over all weights together", gt(0.0))


@frozen
class Exact:
    """Order `exact`: through the same virtual step, by differentiating twice."""


@frozen
class Neumann:
    """Order `neumann`: implicit, by a truncated Neumann series (Lorraine et al. 2020, arXiv:1911.02590)."""

    terms: int = option(3, "terms of the series after the first", ge(0))
    rate: float | None = option(
        None, "its step, below 2 over the largest curvature; default the present learning rate of w", optional(gt(0.0))
    )


@frozen
class ConjugateGradient:
    """Order `cg`: implicit, by conjugate gradient (Rajeswaran et al. 2019, arXiv:1909.04630)."""

    iterations: int = option(5, "iterations at most; it stops at directions of negative curvature", ge(1))
    damping: float = option(1.0, "added to the curvature in every direction, which need not be positive", ge(0.0))
    tolerance: float = option(1e-6, "residual, relative to the right-hand side, at which it stops", ge(0.0))


Order = FirstOrder | Unrolled | Exact | Neumann | ConjugateGradient
ORDERS: dict[str, type[Order]] = {
    "first": FirstOrder,
    "unrolled": Unrolled,
    "exact": Exact,
    "neumann": Neumann,
    "cg": ConjugateGradient,
}


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
            "(ours: first)"
        },
    )
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

    gamma: float = option(0.01, "weight of the robustness metric in the outer level", ge(0.0))
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
        """What decides, with the seed, how training images are divided: searches that agree in it share them alike."""
        return self.train_share, self.batch, self.accumulate
