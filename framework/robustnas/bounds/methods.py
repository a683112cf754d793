"""The bound methods: each makes one or several passes through a network, and takes the larger of their bounds.

    IBP          ibp          intervals, the last linear layer folded into the function (arXiv:1810.12715)
    CrownIBP     crown-ibp    intervals in front of nonlinearities, one backward pass a function (arXiv:1906.06316)
    Crown        crown        backward passes in front of nonlinearities too (arXiv:1811.00866)
    AlphaCrown   alpha-crown  the same, with lower lines of rectifiers optimised for each function (arXiv:2011.13824)
    Branching    bab          parts of the region, until every margin is proved or refuted (`branching/`)

A method is given as an object (`Crown()`) or by its name (`"crown"`).  The bound of `crown` is never below those of
the methods above it, because it makes their passes too; the last two start from those of `crown-ibp`, and from
intervals that are never wider than those of `crown`.  The first four bound any linear function in a fixed number of
passes, and metrics may use them; `bab` verifies margins, as long as its budget goes.
"""

from __future__ import annotations

from typing import ClassVar

from attrs import frozen

from robustnas.bounds.propagation import Ascent, Budget, Pass
from robustnas.errors import InputError

INTERVALS = Pass()
LINES = Pass(backward=True)
TIGHT_LINES = Pass(backward=True, tightens=True)


@frozen
class IBP:
    """Interval bound propagation."""

    name: ClassVar[str] = "ibp"
    passes: ClassVar[tuple[Pass, ...]] = (INTERVALS,)


@frozen
class CrownIBP:
    """Linear bounds through lines that are drawn around intervals."""

    name: ClassVar[str] = "crown-ibp"
    passes: ClassVar[tuple[Pass, ...]] = (LINES,)


@frozen
class Crown:
    """Linear bounds through lines that are drawn around linear bounds."""

    name: ClassVar[str] = "crown"
    passes: ClassVar[tuple[Pass, ...]] = (LINES, TIGHT_LINES)


@frozen
class AlphaCrown(Ascent):
    """Linear bounds as `Crown` has them, with lower lines of rectifiers optimised for each linear function."""

    name: ClassVar[str] = "alpha-crown"

    @property
    def passes(self) -> tuple[Pass, ...]:
        return (LINES, Pass(backward=True, tightens=True, ascent=self))


@frozen
class Branching(Budget):
    """Branch and bound on rectifiers: complete, given time (arXiv:2103.06624)."""

    name: ClassVar[str] = "bab"
    passes: ClassVar[tuple[Pass, ...]] = Crown.passes
    """Those that come first: they settle the intervals, and most margins."""


BoundMethod = IBP | CrownIBP | Crown | AlphaCrown | Branching
BY_NAME: dict[str, BoundMethod] = {
    method.name: method for method in (IBP(), CrownIBP(), Crown(), AlphaCrown(), Branching())
}
METHODS = tuple(name for name, method in BY_NAME.items() if not isinstance(method, Branching))
"""Names of the methods that bound linear functions, each tighter and dearer than the one before."""


def bound_method(method: str | BoundMethod) -> BoundMethod:
    """Return the method, which is given as an object or by its name.

    Raises:
        InputError: no method has this name.
    """
    if isinstance(method, BoundMethod):
        return method
    if method not in BY_NAME:
        raise InputError(f"method {method!r} is unknown; known are {', '.join(BY_NAME)}")
    return BY_NAME[method]
