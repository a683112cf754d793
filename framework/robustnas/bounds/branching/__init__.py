"""Method `bab`: complete verification by branch and bound on rectifiers, with beta-CROWN's dual.

A margin that `crown` leaves open is bounded on parts of the region.  A part fixes the signs of some entries in front of
rectifiers; there these rectifiers are linear.  On the part where s_i z_i <= 0 for its splits i (s_i is -1 where z_i is
at least 0, and 1 where it is at most 0),

    min m(x)  >=  max over b >= 0 of  min over the region of  m(x) + sum_i b_i s_i z_i(x)

and the inner minimum is bounded by a backward pass through lines, as in `crown`, whatever b and the slopes of the lower
lines are; both are chosen by ascent.  The part whose bound is least is split in two at the entry whose lines lose most.
A margin is proved when every part is, and refuted when the image that minimises a part's linear bound is
classified otherwise.  What the budget leaves is open: its least bound is still a bound.

    problem.py    the images, their intervals by `crown`, and the parts as a pass sees them
    bounding.py   bounds of many parts at once, by ascent on slopes and multipliers; where to split each
    search.py     which parts to split next, budgets, and what is proved, refuted or open

Max pooling and functions that are not rectifiers stay relaxed as in `crown`; a margin that needs more of them stays
open.

Sources: Bunel et al. 2020, arXiv:1909.06588 (branch and bound, where to split); Wang et al. 2021, arXiv:2103.06624
(beta-CROWN: the multipliers).
"""

from robustnas.bounds.branching.search import Completed, complete

__all__ = ["Completed", "complete"]
