"""What a regime's loss is told in a test, without a training around it."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustnas.contracts import TrainingContext, TrainingLoss
from robustnas.threat import ThreatModel


def loss_of(
    regime: Any,
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    *,
    seed: int = 0,
    passed: float = 1.0,
    epochs: int = 1,
    auxiliary: float = 0.0,
    backward: bool = False,
) -> TrainingLoss:
    """The loss of a regime, and its backward pass if asked for, as `robustnas.train.loop` does them."""

    def plain(network: Any, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits, head = network.with_auxiliary(images) if auxiliary else (network(images), None)
        loss = F.cross_entropy(logits, labels)
        return (loss if head is None else loss + auxiliary * F.cross_entropy(head, labels)), logits

    with ExitStack() as held:

        def hold(manager: AbstractContextManager[Any]) -> Any:
            return held.enter_context(manager)

        generator = torch.Generator().manual_seed(seed)
        context = TrainingContext(passed, epochs, generator, F.cross_entropy, plain, hold)
        found: TrainingLoss = regime.loss(network, images, labels, threat, context)
        if backward:
            torch.autograd.backward(found.loss)
    return found
