"""Orders of the search: gradients of the outer level in alpha, each an attrs class with `gradient`, one file each.

    first_order          w' = w
    unrolled             w' is one virtual step from w; its dependence on alpha by a finite difference
    exact                the same, by differentiating twice
    neumann              implicit: w is taken to be at its minimum; the inverse Hessian by a truncated series
    conjugate_gradient   implicit, the inverse Hessian by conjugate gradient

They are plugins (entry points `robustnas.orders`), and what they are made of is there for others: `step` has the
gradients of the two levels, `curvature` the products with second derivatives, `virtual` the virtual step and random
draws that are repeated, `implicit` what the last two share.
"""

from typing import TYPE_CHECKING

from robustnas.runtime.facade import facade

if TYPE_CHECKING:
    from robustnas.search.hypergradient.conjugate_gradient import ConjugateGradient
    from robustnas.search.hypergradient.curvature import Curvature
    from robustnas.search.hypergradient.exact import Exact
    from robustnas.search.hypergradient.first_order import FirstOrder
    from robustnas.search.hypergradient.neumann import Neumann
    from robustnas.search.hypergradient.step import Hypergradient, Step
    from robustnas.search.hypergradient.unrolled import Unrolled

__all__ = [
    "ConjugateGradient",
    "Curvature",
    "Exact",
    "FirstOrder",
    "Hypergradient",
    "Neumann",
    "Step",
    "Unrolled",
]

__getattr__ = facade(
    __name__,
    ConjugateGradient="conjugate_gradient",
    Curvature="curvature",
    Exact="exact",
    FirstOrder="first_order",
    Hypergradient="step",
    Neumann="neumann",
    Step="step",
    Unrolled="unrolled",
)
