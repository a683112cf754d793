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
