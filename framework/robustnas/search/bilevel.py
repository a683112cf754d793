"""One step of each level of the bilevel problem.

    outer   alpha <- Adam along the hypergradient of L_val - gamma * R
    inner   w     <- SGD along grad_w L_train, its norm clipped

Source: Liu et al. 2019 (DARTS), arXiv:1806.09055, algorithm 1, with the robustness term of Hosseini et al.
2021 (DSRNA), arXiv:2012.06122.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, get_total_norm

from robustnas.contracts import Order
from robustnas.runtime.epochs import sum_gradients
from robustnas.search.balancing import Balancing
from robustnas.search.hypergradient.step import Step
from robustnas.search.objective import Validation, training_loss
from robustnas.search.weights import constant


def outer_step(step: Step, order: Order, alpha_optimizer: torch.optim.Optimizer) -> tuple[Validation, Tensor]:
    """Move alpha.  Returns what the validation pass saw before the step, and the hypergradient's norm.

    Where scores are balanced, what the step has seen decides about the next one; before the first it is measured.
    """
    balancing = step.objective.balancing
    if balancing is not None and not balancing.measured:
        _note(balancing, step.outer_gradient(step.alpha).validation)
    hypergradient = order.gradient(step)
    if balancing is not None:
        _note(balancing, hypergradient.validation)
    for parameter, gradient in zip(step.alpha, hypergradient.gradients, strict=True):
        parameter.grad = gradient
    alpha_optimizer.step()
    alpha_optimizer.zero_grad()
    return hypergradient.validation, get_total_norm(hypergradient.gradients, foreach=True)


def _note(balancing: Balancing, seen: Validation) -> None:
    if seen.pull is not None:  # somebody's own order may leave it out
        balancing.note(seen.pull)


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
    total = sum_gradients(parameters, torch.stack(losses).sum(), step.processes)
    norm = clip_grad_norm_(parameters, clip, foreach=True)
    step.w_optimizer.step()
    step.w_optimizer.zero_grad()
    return total, norm
