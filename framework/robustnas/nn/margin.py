"""The margin of a label: by how much its logit leads the largest logit of another class."""

from __future__ import annotations

import torch
from torch import Tensor


def other_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """The logits of all classes but the label's, which becomes minus infinity: (n, K), (n,) -> (n, K)."""
    return logits.scatter(1, labels[:, None].long(), -torch.inf)


def margin_to_best_other(logits: Tensor, labels: Tensor) -> Tensor:
    """The label's logit minus the largest other one, below 0 where the image is fooled: (n, K), (n,) -> (n,)."""
    own = logits.gather(1, labels[:, None].long()).squeeze(1)
    return own - other_logits(logits, labels).amax(dim=1)
