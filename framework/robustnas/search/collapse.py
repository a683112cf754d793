"""Whether a search collapses: onto operations without weights, or into a landscape so sharp that discretisation fails.

    eigenvalue        the dominant eigenvalue of d2 L_val / d alpha2, by power iteration, after each epoch
    parameter_free    the share of the genotype's operations that have no weights
    none              the share of the mixing weights on the operation that leaves an edge out

The eigenvalue, smoothed over k = 5 epochs, rises where the search is about to end in a poor genotype.  It is stopped at
epoch i where mean(i - k) / mean(i) < 0.75, and the genotype is that of epoch i - k.
Source: Zela et al. 2020 (RobustDARTS), arXiv:1909.09656, sec. 4.3; there the whole Hessian is computed on a batch of
validation images, here its eigenvalue of largest modulus is found by products with vectors.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from robustnas.contracts import Genotype, SearchSpace, candidates
from robustnas.data.batches import Part
from robustnas.nn.batch_statistics import scratch_statistics
from robustnas.nn.normalize import PixelSupernet
from robustnas.runtime.precision import single
from robustnas.runtime.processes import Processes
from robustnas.search.weights import Weights, constant

WINDOW = 5
"""Epochs over which the eigenvalue is smoothed, and between the two that are compared."""

LEAST_RATIO = 0.75
"""The search has become too sharp where the eigenvalue before is less than this share of it now."""

ITERATIONS, TOLERANCE = 20, 0.01
"""Power iteration ends after so many products, or where the eigenvalue moves by less than this share."""

PARAMETER_FREE = frozenset({"none", "skip_connect", "identity", "skip", "max_pool_3x3", "avg_pool_3x3", "noise"})
"""Operations without weights, as the field's spaces call them (a skip that halves the map has some)."""

MOST_PARAMETER_FREE, MOST_NONE = 0.75, 0.5
"""Shares above which a genotype, or the mixing weights, are told to have collapsed."""


def dominant_eigenvalue(
    supernet: PixelSupernet, w: Weights, part: Part, processes: Processes, generator: torch.Generator
) -> float:
    """The eigenvalue of largest modulus of the Hessian of L_val in alpha, w as it is.

    Running statistics stay as they are.

    Args:
        supernet: in training mode.
        w: its weights, which are constants here.
        part: validation images of this process; its share is of those of all processes, whose mean loss is meant.
        processes: those that share the batch; all call this alike.
        generator: on the CPU, for the first vector.
    """
    alpha = list(supernet.alpha.values())
    with single(part.images.device), constant(w.parameters), scratch_statistics(supernet, biased=False):
        loss = part.share * F.cross_entropy(supernet(part.images), part.labels)
        slopes = torch.autograd.grad(loss, alpha, create_graph=True, allow_unused=True, materialize_grads=True)
        vector = _unit([torch.randn(table.shape, generator=generator).to(table) for table in alpha])
        eigenvalue = 0.0
        for _ in range(ITERATIONS):
            along = sum((slope * one).sum() for slope, one in zip(slopes, vector, strict=True))
            assert isinstance(along, Tensor)
            if not along.requires_grad:
                return 0.0  # the loss does not bend in alpha
            products = torch.autograd.grad(along, alpha, retain_graph=True, allow_unused=True, materialize_grads=True)
            product = processes.sum(list(products))
            before, eigenvalue = eigenvalue, float(sum((a * b).sum() for a, b in zip(vector, product, strict=True)))
            vector = _unit(product)
            if abs(eigenvalue - before) <= TOLERANCE * abs(eigenvalue):
                break
    return eigenvalue


def _unit(vector: Sequence[Tensor]) -> list[Tensor]:
    """The vector at length 1; zero stays zero."""
    length = torch.stack([one.square().sum() for one in vector]).sum().sqrt()
    return [one / length.clamp(min=torch.finfo(one.dtype).tiny) for one in vector]


def parameter_free(space: SearchSpace, genotype: Genotype) -> float | None:
    """The share of a genotype's operations that have no weights; None where the space does not name its operations."""
    known = {op for ops in candidates(space).values() for op in ops}
    kept = [word for word in re.findall(r"\w+", json.dumps(genotype)) if word in known]
    return sum(op in PARAMETER_FREE for op in kept) / len(kept) if kept else None


def too_sharp(records: Sequence[Mapping[str, Any]]) -> int | None:
    """The number of epochs after which the genotype was still good, where the eigenvalue has risen too far since.

    Args:
        records: the history, an epoch each.
    """
    values = [record.get("eigenvalue") for record in records]
    if len(values) < 2 * WINDOW or any(value is None for value in values[-2 * WINDOW :]):
        return None
    before, now = (sum(values[end - WINDOW : end]) / WINDOW for end in (len(values) - WINDOW, len(values)))  # type: ignore[arg-type]
    return len(values) - WINDOW if now > 0 and before / now < LEAST_RATIO else None


def verdict(records: Sequence[Mapping[str, Any]], free: float | None) -> dict[str, Any]:
    """What is to be said of a search: plain data with the signs of collapse, and the figures they are of.

    Args:
        records: the history.
        free: as `parameter_free` has it of the genotype.
    """
    last = records[-1] if records else {}
    sharp = next((count for count in range(1, len(records) + 1) if too_sharp(records[:count]) is not None), None)
    watched = any(record.get("eigenvalue") is not None for record in records)
    found = {
        "sharp": sharp is not None,
        "parameter-free": (free or 0.0) >= MOST_PARAMETER_FREE,
        "none": (last.get("none") or 0.0) > MOST_NONE,
    }
    return {
        "signs": [sign for sign, there in found.items() if there],
        "parameter_free": free,
        **({"none": last["none"]} if "none" in last else {}),
        **({"eigenvalue": last.get("eigenvalue"), "sharp_after": sharp} if watched else {}),
    }


def notes(told: Mapping[str, Any], stopped: int | None) -> list[str]:
    """Lines for readers of the table.

    Args:
        told: a verdict.
        stopped: the number of epochs that the genotype is of, where the search was stopped for it.
    """
    lines = []
    if "sharp" in told["signs"]:
        then = "search: {collapse: stop} would do"
        if stopped is not None:
            then = f"it was stopped, and the genotype is that of epoch {stopped}"
        lines.append(
            f"the dominant eigenvalue of the outer Hessian in alpha rose too far by epoch {told['sharp_after']} of the "
            f"search (RobustDARTS's rule): {then}"
        )
    lines += of_genotype(told)
    if "none" in told["signs"]:
        share = f"{100 * told['none']:.0f} %"
        lines.append(f"{share} of the mixing weights ended on none, which no genotype keeps: it may have collapsed")
    return lines


def of_genotype(told: Mapping[str, Any]) -> list[str]:
    """Of the lines of a verdict the one that is of its genotype alone, if it is there."""
    if "parameter-free" not in told["signs"]:
        return []
    share = f"{100 * told['parameter_free']:.0f} %"
    return [f"{share} of the operations that the search kept have no weights: it may have collapsed"]
