"""Jacobian norm bound (DSRNA-Jacobian): how fast the logits can move with the image, to first order.

    norm   R = - 1/K sum_k || J_k(x) ||_q      J_k = d f_k / d x,   1/p + 1/q = 1,   p the norm of the threat
    log    R = - log( 1/K sum_k || J_k(x) ||_q )

A perturbation of size epsilon in the p-norm moves logit k by at most ||J_k||_q * epsilon + o(epsilon)
(Hoelder). The score leaves epsilon out, as the paper does: gamma scales it.  In logits per pixel unit, the first at
most 0.

With `normalise` the logits are divided by their deviation over the classes at x, as in `certified_bound`: multiplying
all of them by a number, which changes no decision, is then no gain.

Source: Hosseini et al. 2021 (DSRNA), arXiv:2012.06122, eqs. 12 to 15, the first without `normalise`; the rest is ours.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from attrs import frozen
from attrs.validators import ge, in_, instance_of, optional
from torch import Tensor, nn

from robustnas.contracts import Shape
from robustnas.errors import OptionError
from robustnas.nn.fast import double_backward
from robustnas.options import option
from robustnas.threat import DUAL_ORDER, ThreatModel

ROWS_AT_ONCE = 10
"""Rows of one pass, each on a copy of the images: less work to launch than a pass for each row."""


@frozen
class Jacobian:
    """Minus the mean dual norm of the rows of the logits' Jacobian, or minus its logarithm."""

    rows: int | None = option(
        None,
        "rows of the Jacobian per image, drawn afresh without replacement; default all K, exactly",
        optional([instance_of(int), ge(1)]),
    )

    scale: str = option(
        "norm", "the mean norm (the paper's), or its natural logarithm", in_(("norm", "log")), identity="if given"
    )
    normalise: bool = option(
        False,
        "divide by the deviation of the clean logits, so that their scale cannot be the gain",
        instance_of(bool),
        identity="if given",
    )

    def check(self, shape: Shape, classes: int, threat: ThreatModel) -> None:
        """Refuse more rows than there are classes.

        Raises:
            OptionError: there are more.
        """
        self._drawn_of(classes)

    def score(self, network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel) -> Tensor:
        """(N, C, H, W), (N,) -> (N,) in logits per pixel unit, or minus their logarithm; larger is more robust.

        Sampled rows are drawn from torch's global generator, for each image on its own: their mean is an
        unbiased estimate of the mean over all K (and its logarithm a biased one of that mean's).  The graph is kept
        where gradients are enabled.

        Raises:
            OptionError: more rows than the network has classes.
        """
        create_graph = torch.is_grad_enabled()
        chosen = _all_rows(network, images) if self.rows is None else None
        count = chosen.shape[1] if chosen is not None else self.rows or 0
        norms: list[Tensor] = []
        clean = images.new_zeros(0)
        with torch.enable_grad():
            for first in range(0, count, ROWS_AT_ONCE):
                rows = min(ROWS_AT_ONCE, count - first)
                copies = images.detach().repeat_interleave(rows, dim=0).requires_grad_()
                with double_backward() if create_graph else nullcontext():
                    logits = network(copies)
                clean = logits[::rows] if first == 0 else clean
                if chosen is None:
                    chosen = self._sampled_rows(len(images), logits)
                # An image's logits depend on that image alone, so a sum over images mixes nothing.
                picked = logits.gather(1, chosen[:, first : first + rows].reshape(-1, 1)).sum()
                (gradient,) = torch.autograd.grad(picked, copies, create_graph=create_graph)
                norm = torch.linalg.vector_norm(gradient.flatten(1), ord=DUAL_ORDER[threat.norm], dim=1)
                norms.append(norm.view(-1, rows))
        size = torch.cat(norms, dim=1).mean(dim=1)
        tiny = torch.finfo(size.dtype).tiny
        if self.normalise:
            size = size / clean.std(dim=1).clamp_min(tiny)
        return -size if self.scale == "norm" else -size.clamp_min(tiny).log()

    def _sampled_rows(self, count: int, logits: Tensor) -> Tensor:
        """Random rows of each image's Jacobian, none twice: (N, rows) class indices."""
        classes = logits.shape[1]
        rows = self._drawn_of(classes)
        return torch.rand(count, classes, device=logits.device).argsort(dim=1)[:, :rows]

    def _drawn_of(self, classes: int) -> int:
        """The number of rows that are drawn of so many classes; 0 where all are taken."""
        rows = self.rows or 0
        if rows > classes:
            raise OptionError(f"rows: {rows} of a network with {classes} classes; at most {classes} would do")
        return rows


def _all_rows(network: nn.Module, images: Tensor) -> Tensor:
    """Every row of each image's Jacobian: (N, K) class indices."""
    with torch.no_grad():
        classes = network(images[:1]).shape[1]
    return torch.arange(classes, device=images.device).expand(len(images), classes)
