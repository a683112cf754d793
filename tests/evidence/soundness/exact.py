"""Exact minima of margins on tiny networks, by solvers that share nothing with the bounds.

    by_integers   mixed-integer program of a ReLU network over the l_inf or l_1 region (HiGHS)
    by_patterns   one linear program for each pattern of active neurons, of which the least is the minimum
    over_region   a linear function over ball and pixel box: linear program (l_inf, l_1) or SLSQP (l_2)

A ReLU network is given as its layers in numpy: x -> relu(W_1 x + b_1) -> ... -> W_k x + b_k.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.optimize import LinearConstraint, linprog, milp, minimize

Array = npt.NDArray[np.float64]
Layers = Sequence[tuple[Array, Array]]


def _region(clean: Array, norm: str, epsilon: float) -> tuple[Array, Array, Array, Array]:
    """Variables (x, s), s >= |x - clean| where the norm needs it: lower, upper, and rows A (x, s) <= b."""
    size = len(clean)
    lower, upper = np.maximum(clean - epsilon, 0.0), np.minimum(clean + epsilon, 1.0)
    if norm == "linf":
        return lower, upper, np.zeros((0, size)), np.zeros(0)
    unit = np.eye(size)
    rows = np.block([[unit, -unit], [-unit, -unit], [np.zeros((1, size)), np.ones((1, size))]])
    limits = np.concatenate([clean, -clean, [epsilon]])
    return np.concatenate([lower, np.zeros(size)]), np.concatenate([upper, np.full(size, epsilon)]), rows, limits


def _ranges(layers: Layers, lower: Array, upper: Array) -> list[tuple[Array, Array]]:
    """Interval of every neuron in front of its ReLU, widened a little."""
    found = []
    for weight, bias in layers[:-1]:
        centre, radius = weight @ (lower + upper) / 2 + bias, np.abs(weight) @ (upper - lower) / 2 + 1e-6
        found.append((centre - radius, centre + radius))
        lower, upper = np.maximum(centre - radius, 0.0), np.maximum(centre + radius, 0.0)
    return found


def by_integers(layers: Layers, row: Array, clean: Array, norm: str, epsilon: float) -> float:
    """min row @ output over the region, by branch and bound."""
    low, high, rows, limits = _region(clean, norm, epsilon)
    size = len(clean)
    ranges = _ranges(layers, low[:size], high[:size])
    widths = [len(bias) for _, bias in layers[:-1]]
    total = len(low) + 2 * sum(widths)
    lower, upper = np.concatenate([low, np.zeros(2 * sum(widths))]), np.ones(total)
    upper[: len(low)] = high
    whole = np.zeros(total)
    parts, tops = [np.pad(rows, ((0, 0), (0, total - rows.shape[1])))], [limits]
    start, before = len(low), slice(0, size)
    for (weight, bias), (least, most), width in zip(layers, ranges, widths, strict=False):
        out, on = slice(start, start + width), slice(start + width, start + 2 * width)
        upper[out], whole[on] = np.maximum(most, 0.0), 1
        lower[on], upper[on] = least > 0, most > 0
        unit = np.eye(width)
        # y >= W x + b;  y <= W x + b - l (1 - z);  y <= u z
        for by_out, by_before, by_on, top in (
            (-unit, weight, np.zeros_like(unit), -bias),
            (unit, -weight, -np.diag(np.minimum(least, 0.0)), bias - np.minimum(least, 0.0)),
            (unit, np.zeros_like(weight), -np.diag(np.maximum(most, 0.0)), np.zeros(width)),
        ):
            block = np.zeros((width, total))
            block[:, out], block[:, before], block[:, on] = by_out, by_before, by_on
            parts.append(block)
            tops.append(top)
        start, before = start + 2 * width, out
    weight, bias = layers[-1]
    cost = np.zeros(total)
    cost[before] = row @ weight
    # with presolve HiGHS 1.12 gives up on a few of these programs
    found = milp(
        cost, integrality=whole, bounds=(lower, upper),
        constraints=LinearConstraint(np.vstack(parts), -np.inf, np.concatenate(tops)),
        options={"mip_rel_gap": 0.0, "presolve": False},
    )  # fmt: skip
    assert found.success, found.message
    return float(found.fun + row @ bias)


def by_patterns(layers: Layers, row: Array, clean: Array, norm: str, epsilon: float) -> float:
    """The same, by enumeration: with the pattern fixed, every neuron and the output are affine in x."""
    low, high, rows, limits = _region(clean, norm, epsilon)
    size, count = len(clean), sum(len(bias) for _, bias in layers[:-1])
    best = np.inf
    for pattern in itertools.product((0.0, 1.0), repeat=count):
        matrix, offset, used = np.eye(size), np.zeros(size), 0
        parts, tops = [rows], [limits]
        for weight, bias in layers[:-1]:
            active = np.array(pattern[used : used + len(bias)])
            used += len(bias)
            matrix, offset = weight @ matrix, weight @ offset + bias
            sign = (1 - 2 * active)[:, None]
            parts.append(np.pad(sign * matrix, ((0, 0), (0, rows.shape[1] - size))))
            tops.append(-sign[:, 0] * offset)
            matrix, offset = active[:, None] * matrix, active * offset
        weight, bias = layers[-1]
        cost = np.pad(row @ weight @ matrix, (0, len(low) - size))
        found = linprog(cost, np.vstack(parts), np.concatenate(tops), bounds=np.stack([low, high], axis=1))
        if found.status == 0:
            best = min(best, float(found.fun + row @ (weight @ offset + bias)))
    return best


def over_region(slopes: Array, clean: Array, norm: str, epsilon: float) -> float:
    """min <slopes, x - clean> over ball and pixel box."""
    low, high, rows, limits = _region(clean, "linf" if norm == "l2" else norm, epsilon)
    if norm != "l2":
        cost = np.pad(slopes, (0, len(low) - len(clean)))
        found = linprog(cost, rows, limits, bounds=np.stack([low, high], axis=1))
        return float(found.fun - slopes @ clean)
    # in units of epsilon and of the slopes' length, so that the solver's tolerances mean something
    length = float(np.linalg.norm(slopes)) + 1e-12
    found = minimize(
        lambda d: slopes @ d / length,
        np.zeros(len(clean)),
        jac=lambda d: slopes / length,
        bounds=np.stack([(low - clean) / epsilon, (high - clean) / epsilon], axis=1),
        constraints={"type": "ineq", "fun": lambda d: 1 - d @ d, "jac": lambda d: -2 * d},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    return float(slopes @ found.x * epsilon)
