"""One step of each level of the bilevel problem.

    outer   alpha <- Adam along the hypergradient of L_val - gamma * R
    inner   w     <- SGD along grad_w L_train, its norm clipped

Source: Liu et al. 2019 (DARTS), arXiv:1806.09055, algorithm 1, with the robustness term of Hosseini et al.
2021 (DSRNA), arXiv:2012.06122.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, get_total_norm

from robustnas.data.batches import gradient_of
from robustnas.search.hypergradient import Hypergradient, Step
from robustnas.search.objective import Validation, training_loss
from robustnas.search.weights import constant


def outer_step(
    step: Step, hypergradient: Callable[[Step], Hypergradient], alpha_optimizer: torch.optim.Optimizer
) -> tuple[Validation, Tensor]:
    """Move alpha.  Returns what the validation pass saw before the step, and the hypergradient's norm."""
    found = hypergradient(step)
    for parameter, gradient in zip(step.alpha, found.gradients, strict=True):
        parameter.grad = gradient
    alpha_optimizer.step()
    alpha_optimizer.zero_grad()
    return found.validation, get_total_norm(found.gradients, foreach=True)


def inner_step(step: Step, clip: float) -> tuple[Tensor, Tensor]:
    """Move w.  Returns the training loss before the step, and the norm of its gradient before clipping.

    The only pass that moves the running statistics of batch norm.
    """
    parameters, losses = step.weights.parameters, []
    step.w_optimizer.zero_grad()
    # A metric's inner loss may itself differentiate with respect to alpha; the plain loss does not.
    with constant(step.alpha) if step.objective.plain_inner else nullcontext():
        for part in step.train:
            loss = training_loss(step.objective, step.supernet, part, step.inner)
            torch.autograd.backward(loss, inputs=parameters)
            losses.append(loss.detach())
    total = torch.stack(losses).sum()
    if step.processes.size > 1:
        # a weight that no loss depends on has no gradient, here as in any other process
        moved = [parameter for parameter in parameters if parameter.grad is not None]
        *gradients, total = step.processes.sum([*(gradient_of(parameter) for parameter in moved), total])
        for parameter, gradient in zip(moved, gradients, strict=True):
            # in place: fused optimisers take for granted that a gradient lies in memory as its parameter does
            gradient_of(parameter).copy_(gradient)
    norm = clip_grad_norm_(parameters, clip, foreach=True)
    step.w_optimizer.step()
    step.w_optimizer.zero_grad()
    return total, norm
