"""Jacobian norm bound (DSRNA-Jacobian): how fast the logits can move with the image, to first order.

    R = - 1/K sum_k || J_k(x) ||_q        J_k = d f_k / d x,   1/p + 1/q = 1,   p the norm of the threat

A perturbation of size epsilon in the p-norm moves logit k by at most ||J_k||_q * epsilon + o(epsilon)
(Hoelder). The score leaves epsilon out, as the paper does: gamma scales it.  In logits per pixel unit, at
most 0.

Source: Hosseini et al. 2021 (DSRNA), arXiv:2012.06122, eqs. 12 to 15.
"""

from __future__ import annotations

import torch
from attrs import field, frozen
from attrs.validators import ge, instance_of, optional
from torch import Tensor, nn

from robustnas.errors import OptionError
from robustnas.threat import DUAL_ORDER, ThreatModel


@frozen
class Jacobian:
    """Minus the mean dual norm of the rows of the logits' Jacobian."""

    rows: int | None = field(
        default=None,
        validator=optional([instance_of(int), ge(1)]),
        metadata={
            "help": "rows of the Jacobian per image, drawn afresh without replacement; default all K, exactly"
        },
    )

    def score(self, network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel) -> Tensor:
        """(N, C, H, W), (N,) -> (N,) in logits per pixel unit, at most 0; larger is more robust.

        One backward pass a row.  Sampled rows are drawn from torch's global generator, for each image on its
        own: their mean is an unbiased estimate of the mean over all K.  The graph is kept where gradients are
        enabled.

        Raises:
            OptionError: more rows than the network has classes.
        """
        create_graph = torch.is_grad_enabled()
        with torch.enable_grad():
            images = images.detach().requires_grad_()
            logits = network(images)
            chosen = self._chosen(logits)
            norms = []
            for place in range(chosen.shape[1]):
                # An image's logits depend on that image alone, so a sum over images mixes nothing.
                (row,) = torch.autograd.grad(
                    logits.gather(1, chosen[:, place : place + 1]).sum(),
                    images,
                    create_graph=create_graph,
                    retain_graph=True,
                )
                norms.append(torch.linalg.vector_norm(row.flatten(1), ord=DUAL_ORDER[threat.norm], dim=1))
            return -torch.stack(norms).mean(dim=0)

    def _chosen(self, logits: Tensor) -> Tensor:
        """The rows taken of each image's Jacobian: (N, rows) class indices."""
        count, classes = logits.shape
        if self.rows is None:
            return torch.arange(classes, device=logits.device).expand(count, classes)
        if self.rows > classes:
            raise OptionError(
                f"metric jacobian: rows: {self.rows} of a network with {classes} classes; "
                f"at most {classes} would do"
            )
        return torch.rand(count, classes, device=logits.device).argsort(dim=1)[:, : self.rows]
