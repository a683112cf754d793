"""Optimisers without the compiler do what torch's do; `test_processes` sees that they leave it where it is."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from robustnas.nn import optimizers

CASES = [
    (optimizers.SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
    (optimizers.SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "fused": True}),
    (optimizers.Adam, torch.optim.Adam, {"lr": 0.1, "betas": (0.5, 0.999), "weight_decay": 0.01}),
]


def moved(kind: Any, options: dict[str, Any]) -> tuple[torch.Tensor, dict[str, Any]]:
    """A weight after four steps of two optimisers, the second of which goes on from the state of the first."""
    torch.manual_seed(0)
    weight, images = torch.nn.Parameter(torch.randn(3, 4)), torch.randn(5, 4)
    optimizer = kind([weight], **options)
    for step in range(4):
        optimizer.zero_grad()
        (images @ weight.T).sin().sum().backward()
        optimizer.step()
        if step == 1:
            state, optimizer = optimizer.state_dict(), kind([{"params": [weight]}], **options)
            optimizer.load_state_dict(state)
    return weight.detach(), optimizer.state_dict()


@pytest.mark.parametrize(("ours", "theirs", "options"), CASES)
def test_steps_and_states_are_those_of_torch(ours: Any, theirs: Any, options: dict[str, Any]) -> None:
    (weight, state), (expected, expected_state) = moved(ours, options), moved(theirs, options)
    assert torch.equal(weight, expected)
    assert state["param_groups"] == expected_state["param_groups"]
    torch.testing.assert_close(state["state"], expected_state["state"], rtol=0, atol=0)
