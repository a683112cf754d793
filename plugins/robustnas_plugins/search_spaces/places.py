"""Where the cells of a network of the DARTS family stand: their channels, and which halve rows and columns.

Source: Liu et al. 2019 (DARTS), arXiv:1806.09055.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen

from robustnas.nn.cells import reduction_cells
from robustnas_plugins.search_spaces.stems import CifarStem, ImageNetStem


@frozen
class Place:
    """A cell's place among the cells of a network.

    Args:
        reduction: its operations on the inputs have stride 2.
        in_channels: channels of its two inputs.
        channels: of each of its nodes.
        out_channels: of its output.
        halve_first: its first input has twice the rows and columns of the second.
    """

    reduction: bool
    in_channels: tuple[int, int]
    channels: int
    out_channels: int
    halve_first: bool


def places(
    stem: CifarStem | ImageNetStem, cells: int, channels: int, joined: Callable[[bool], int]
) -> tuple[Place, ...]:
    """The places of `cells` cells behind a stem, the first with `channels` channels; a reduction cell doubles them.

    Args:
        joined: how many nodes make the output of a reduction cell (True), or of a normal one.
    """
    found, reductions = list[Place](), reduction_cells(cells)
    before = last = stem.out_channels
    halve_first = stem.halves
    for index in range(cells):
        reduction = index in reductions
        channels = 2 * channels if reduction else channels
        place = Place(reduction, (before, last), channels, joined(reduction) * channels, halve_first)
        found.append(place)
        before, last, halve_first = last, place.out_channels, reduction
    return tuple(found)
