"""Where the states and the labels of a cell are drawn: in layers from left to right, so that nothing overlaps.

Layers take turns: of states, which stand as far to the right as the longest path that leads to them, and of what runs
between them.  An edge has a place in each layer that it crosses, and its label in the last one, before the state it
enters.  Lines are level inside a layer and bend between two, so no line meets a label that is not its own.

Source of the scheme: Sugiyama, Tagawa and Toda 1981, doi:10.1109/TSMC.1981.4308636; of the places in a layer, best
under a smallest distance, pool adjacent violators (Ayer et al. 1955, doi:10.1214/aoms/1177728423).
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Sequence
from itertools import pairwise

from attrs import define, frozen

BEND = 30.0
"""Between two layers, in pixels, as all lengths here."""

GAP = 8.0
"""Between two boxes, one above the other."""

PASSING = 8.0
"""The height that a line takes which passes a layer."""

SWEEPS = 12
"""Times that the layers are sorted by what they are connected to; the order with the fewest crossings stays."""

ROUNDS = 40
"""Times that boxes are drawn towards what they are connected to."""

STRAIGHT = 8
"""Times as strongly as else they are drawn towards the other boxes of their edge."""


@define
class Box:
    """A place in a layer.

    Args:
        width: of what stands there.
        height: of it.
        x: the middle.
        y: the middle.
        left: where its layer begins.
        right: where its layer ends.
        edge: the edge that passes there; None: a state.
    """

    width: float
    height: float
    edge: int | None = None
    x: float = 0.0
    y: float = 0.0
    left: float = 0.0
    right: float = 0.0


@frozen
class Layout:
    """The places of a drawing, whose upper left corner is (0, 0).

    Args:
        states: a box a state.
        routes: for each edge its boxes from left to right, the label's the last.
        width: of all.
        height: of all.
    """

    states: list[Box]
    routes: list[list[Box]]
    width: float
    height: float


Size = tuple[float, float]


def layout(inputs: int, states: Sequence[Size], edges: Sequence[tuple[int, int]], labels: Sequence[Size]) -> Layout:
    """Lay out a graph.

    Args:
        inputs: so many states have nothing before them; their order stays.
        states: width and height of each; the last stands rightmost.
        edges: the states that each leaves and enters, a later one.
        labels: width and height of the label of each edge.
    """
    boxes = [Box(width, height) for width, height in states]
    ranks = _ranks(inputs, len(states), edges)
    layers: list[list[int]] = [[] for _ in range(2 * max(ranks) + 1)]
    for state, rank in enumerate(ranks):
        layers[2 * rank].append(state)
    before, after = dict[int, list[int]](), dict[int, list[int]]()
    routes = []
    for edge, (source, target) in enumerate(edges):
        through = range(2 * ranks[source] + 1, 2 * ranks[target])
        route = []
        for layer in through:
            width, height = labels[edge] if layer == through[-1] else (0.0, PASSING)
            layers[layer].append(len(boxes))
            route.append(len(boxes))
            boxes.append(Box(width, max(height, PASSING), edge))
        for one, following in zip([source, *route], [*route, target], strict=True):
            before.setdefault(following, []).append(one)
            after.setdefault(one, []).append(following)
        routes.append([boxes[place] for place in route])
    layers = _ordered(layers, before, after)
    _across(layers, boxes)
    _down(layers, boxes, before, after)
    height = max(box.y + box.height / 2 for box in boxes)
    return Layout(boxes[: len(states)], routes, max(box.right for box in boxes), height)


def _ranks(inputs: int, states: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    """How many edges the longest path to each state has; at least one but for inputs."""
    ranks = [0 if state < inputs else 1 for state in range(states)]
    for source, target in sorted(edges, key=lambda edge: edge[1]):
        ranks[target] = max(ranks[target], ranks[source] + 1)
    ranks[-1] = 1 + max(ranks[:-1])
    return ranks


def _ordered(layers: list[list[int]], before: dict[int, list[int]], after: dict[int, list[int]]) -> list[list[int]]:
    """Order each layer but the first by the mean place of what its entries are connected to, back and forth."""
    best, fewest = [list(layer) for layer in layers], _crossings(layers, after)
    for sweep in range(SWEEPS):
        ahead = sweep % 2 == 0
        for index in range(1, len(layers)) if ahead else range(len(layers) - 2, 0, -1):
            beside = _places(layers[index - 1 if ahead else index + 1])
            own = _places(layers[index])
            neighbours = before if ahead else after
            layers[index].sort(key=lambda one: _mean([beside[n] for n in neighbours.get(one, ())], own[one]))
        crossings = _crossings(layers, after)
        if crossings < fewest:
            best, fewest = [list(layer) for layer in layers], crossings
    return best


def _places(layer: Sequence[int]) -> dict[int, int]:
    return {one: place for place, one in enumerate(layer)}


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _crossings(layers: Sequence[Sequence[int]], after: dict[int, list[int]]) -> int:
    """How many pairs of lines cross between two layers."""
    count = 0
    for layer, following in pairwise(layers):
        places, ends = _places(following), list[int]()
        for one in layer:
            own = [places[end] for end in after.get(one, ())]
            count += sum(len(ends) - bisect_right(ends, end) for end in own)
            for end in own:
                insort(ends, end)
    return count


def _across(layers: Sequence[Sequence[int]], boxes: Sequence[Box]) -> None:
    """Set where each layer begins and ends; boxes stand in its middle."""
    left = 0.0
    for layer in layers:
        right = left + max((boxes[one].width for one in layer), default=0.0)
        for one in layer:
            boxes[one].left, boxes[one].x, boxes[one].right = left, (left + right) / 2, right
        left = right + BEND


def _down(
    layers: Sequence[Sequence[int]], boxes: Sequence[Box], before: dict[int, list[int]], after: dict[int, list[int]]
) -> None:
    """Draw boxes towards the mean height of what they are connected to, in their order and apart."""
    for turn in range(ROUNDS):
        for layer in layers if turn % 2 == 0 else reversed(layers):
            wanted = [_wanted(boxes, one, (*before.get(one, ()), *after.get(one, ()))) for one in layer]
            for one, y in zip(layer, _apart(wanted, [boxes[one].height + GAP for one in layer]), strict=True):
                boxes[one].y = y
    top = min(box.y - box.height / 2 for box in boxes)
    for box in boxes:
        box.y -= top


def _wanted(boxes: Sequence[Box], one: int, beside: Sequence[int]) -> float:
    """The mean height of the boxes beside one; those of its own edge count more, so that lines are straight."""
    own = boxes[one].edge is not None
    weights = [STRAIGHT if own and boxes[n].edge is not None else 1 for n in beside]
    drawn = sum(weight * boxes[n].y for weight, n in zip(weights, beside, strict=True))
    return drawn / sum(weights) if beside else boxes[one].y


def _apart(wanted: Sequence[float], heights: Sequence[float]) -> list[float]:
    """The middles closest to those wanted, in squares, of boxes that follow one another and do not overlap."""
    offsets = [0.0]
    for one, following in pairwise(heights):
        offsets.append(offsets[-1] + (one + following) / 2)
    blocks: list[tuple[float, int]] = []  # mean and count of boxes that touch, as if all heights were 0
    for y, offset in zip(wanted, offsets, strict=False):
        mean, count = y - offset, 1
        while blocks and blocks[-1][0] > mean:
            above, many = blocks.pop()
            mean, count = (mean * count + above * many) / (count + many), count + many
        blocks.append((mean, count))
    flat = [mean for mean, count in blocks for _ in range(count)]
    return [mean + offset for mean, offset in zip(flat, offsets, strict=False)]
