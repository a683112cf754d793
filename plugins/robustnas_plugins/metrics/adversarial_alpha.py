"""Adversarial mixing weights in the inner level (SDARTS-ADV).

w is trained at p + delta where delta, at most eps in each entry, raises the training loss: sign gradient
ascent from a random start, p = softmax(alpha).  Alpha itself moves at p.  There is no attack on the images
here.

During the ascent the supernet is in eval mode, with the batch norm statistics of this batch at the clean
weights (the published code uses the running ones).  The perturbation is dropped when the loss did not rise.
After every step entries are clamped to [0, 1] and rows scaled to sum to 1; for what that does to eps see
`mixing`.

On space `pc-darts` this is PC-DARTS-ADV, a baseline of DSRNA (arXiv:2012.06122) of which no code is published.  Every
table of alpha is perturbed there, the edge weights (beta) too, each row within eps; with `edges: false` beta stays,
as SDARTS knows none.  The ascent also acts while alpha still stands (`search.warmup_epochs`), because it is w that it
trains.

Source: Chen and Hsieh 2020 (SmoothDARTS), arXiv:2002.05283: 7 steps of 2 eps / 7, eps from 0.03 to 0.3.
"""

from __future__ import annotations

from typing import Any

import torch
from attrs import frozen
from attrs.validators import ge, instance_of
from torch import Tensor

from robustnas.contracts import Context, Supernet
from robustnas.nn.batch_statistics import frozen_statistics, scratch_statistics
from robustnas.options import option
from robustnas.threat import ThreatModel
from robustnas_plugins.metrics.mixing import END, START, perturbed, schedule
from robustnas_plugins.metrics.noise import drawn

EDGES = "beta"
"""What names of tables that weigh edges, and not operations, have in them."""


@frozen
class AdversarialAlpha:
    """Trains w at the mixing weights near the clean ones that hurt most; has no score."""

    steps: int = option(7, "steps of the ascent, each of size 2 eps / steps", at_least=1)
    start: float = option(START, "eps at the first epoch, largest change of a mixing weight", ge(0.0), converter=float)
    end: float = option(END, "eps after the last epoch, largest change of a mixing weight", ge(0.0), converter=float)

    edges: bool = option(
        True,
        "whether the weights of edges (beta of pc-darts) are perturbed, beside those of operations",
        instance_of(bool),
        identity="if given",
    )

    def inner_loss(
        self, supernet: Supernet, images: Tensor, labels: Tensor, threat: ThreatModel, context: Context
    ) -> Tensor:
        """The loss at the worst weights found, a scalar: these are a constant, and gradients in alpha go through p."""
        mixing = supernet.mixing()
        worst = self.ascend(supernet, images, labels, context)
        shifted = {name: p + (worst[name] - p).detach() for name, p in mixing.items()}
        return context.loss(supernet(images, mixing=shifted), labels)

    def ascend(self, supernet: Any, images: Tensor, labels: Tensor, context: Context) -> dict[str, Tensor]:
        """Mixing weights with a loss at least as high as the clean ones': by name, (E, O), detached."""
        eps = schedule(self.start, self.end, context.progress)
        clean = {name: p.detach() for name, p in supernet.mixing().items()}

        def loss(mixing: dict[str, Tensor]) -> Tensor:
            return context.loss(supernet(images, mixing=clean | mixing), labels)

        def average(value: Tensor) -> Tensor:
            """The mean over all processes that share the batch, so that they perturb alpha alike."""
            return context.average(value.detach(), len(images))

        with scratch_statistics(supernet):
            with torch.no_grad():
                supernet(images)
            with frozen_statistics(supernet):
                worst = {
                    name: perturbed(p, eps * drawn(p, "uniform", context))
                    for name, p in clean.items()
                    if self.edges or EDGES not in name
                }
                for _ in range(self.steps):
                    worst = {name: p.requires_grad_() for name, p in worst.items()}
                    with torch.enable_grad():
                        gradients = torch.autograd.grad(
                            loss(worst), list(worst.values()), allow_unused=True, materialize_grads=True
                        )
                    worst = {
                        name: _ascended(p.detach(), average(gradient), clean[name], eps, 2 * eps / self.steps)
                        for (name, p), gradient in zip(worst.items(), gradients, strict=True)
                    }
                with torch.no_grad():
                    rose = average(loss(worst)) > average(loss(clean))
        return clean | {name: torch.where(rose, found, clean[name]) for name, found in worst.items()}


def _ascended(mixing: Tensor, gradient: Tensor, clean: Tensor, eps: float, length: float) -> Tensor:
    """Take one sign step, go back into the box around the clean weights, and make mixing weights of it again."""
    delta = (mixing + length * gradient.sign() - clean).clamp(-eps, eps)
    return perturbed(clean, delta)
