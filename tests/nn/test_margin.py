"""`robustnas.nn.margin`."""

import torch

from robustnas.nn.margin import margin_to_best_other, other_logits


def test_the_margin_is_the_least_difference_to_another_class():
    logits = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(50) % 7
    differences = logits[torch.arange(50), labels][:, None] - logits
    differences[torch.arange(50), labels] = torch.inf
    assert torch.equal(margin_to_best_other(logits, labels), differences.amin(dim=1))
    assert torch.equal(other_logits(logits, labels).argmax(dim=1), differences.argmin(dim=1))
