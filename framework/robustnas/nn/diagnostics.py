"""Which tensors of a network are not finite: what a message about divergence names."""

from __future__ import annotations

from torch import nn


def nonfinite_tensors(network: nn.Module | None) -> str:
    """The tensors of a network that hold a NaN or an infinity, the first few by name, as part of a message."""
    if network is None:
        return ""
    names = [name for name, tensor in network.state_dict().items() if not bool(tensor.isfinite().all())]
    if not names:
        return ""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f" (not finite by now: {', '.join(names[:3])}{more})"
