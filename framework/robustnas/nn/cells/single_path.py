"""One path through a supernet: a single operation on each edge, as mixing weights that say so.

Cells that are told the columns compute these operations alone: all others cost nothing, and nothing of theirs moves.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


class SinglePath(dict[str, Tensor]):
    """One-hot mixing weights by the names of alpha, (E, O) each; `columns` are the places of the ones, by name.

    A supernet that does not look at `columns` mixes with the weights as with any others.
    """

    def __init__(self, mixing: Mapping[str, Tensor], columns: Mapping[str, tuple[int, ...]] | None = None):
        super().__init__(mixing)
        # read once, where the weights are made: a supernet's device need not be waited for
        self.columns = columns or {name: tuple(rows.argmax(dim=1).tolist()) for name, rows in mixing.items()}

    def to(self, like: Tensor) -> SinglePath:
        """The same path, of the type and on the device of `like`."""
        if all(rows.dtype == like.dtype and rows.device == like.device for rows in self.values()):
            return self
        return SinglePath({name: rows.to(like) for name, rows in self.items()}, self.columns)
