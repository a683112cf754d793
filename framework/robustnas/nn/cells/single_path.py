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

    def __init__(self, mixing: Mapping[str, Tensor]):
        super().__init__(mixing)
        self.columns: dict[str, tuple[int, ...]] = {
            name: tuple(table.argmax(dim=1).tolist()) for name, table in mixing.items()
        }

    def to(self, like: Tensor) -> SinglePath:
        """The same path, of the type and on the device of `like`."""
        if all(table.dtype == like.dtype and table.device == like.device for table in self.values()):
            return self
        return SinglePath({name: table.to(like) for name, table in self.items()})
