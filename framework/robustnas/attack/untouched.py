"""Compares a network's numbers before and after an attack: the network that judges must be the one that was given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Self

import attrs
import torch
from torch import Tensor, nn

from robustnas.errors import RunError

ASKED = 32
"""Before an attack is blamed for a change, the network is called on one image so many times: enough to catch a network
that changes itself at every few calls, and still cheaper than a step of an attack."""


@attrs.frozen(eq=False)
class _Slot:
    """A parameter or buffer: the module that holds it, its storage, and a copy of its numbers."""

    name: str
    owner: dict[str, Tensor | None]
    key: str
    tensor: Tensor
    storage: Tensor
    value: Tensor

    def as_it_was(self) -> bool:
        """Whether the same tensor is in the same place, with the same numbers."""
        now = self.tensor.detach()
        same_form = (now.shape, now.dtype) == (self.value.shape, self.value.dtype)
        if self.owner.get(self.key) is not self.tensor or not same_form:
            return False
        return torch.equal(now, self.value) or bool(
            ((now == self.value) | (now != now) & (self.value != self.value)).all()
        )

    def put_back(self) -> None:
        """Put the tensor where it was, with the numbers it had."""
        self.owner[self.key] = self.tensor
        self.tensor.data = self.storage
        with torch.no_grad():
            self.storage.copy_(self.value)


def _slots(network: nn.Module) -> Iterator[_Slot]:
    """Yield every parameter and buffer of a network, with its numbers."""
    for prefix, module in network.named_modules():
        for owner in (module._parameters, module._buffers):
            for key, tensor in owner.items():
                if tensor is not None:
                    stored = tensor.detach()
                    yield _Slot(".".join(filter(None, (prefix, key))), owner, key, tensor, stored, stored.clone())


@attrs.frozen(eq=False)
class Untouched:
    """Parameters and buffers of networks as they were."""

    slots: tuple[_Slot, ...]

    @classmethod
    @contextmanager
    def held(cls, networks: Sequence[nn.Module]) -> Iterator[Self]:
        """Hold the networks: inside the block `check` finds changes, at its end everything is restored."""
        slots = {(id(slot.owner), slot.key): slot for network in networks for slot in _slots(network)}
        untouched = cls(tuple(slots.values()))
        try:
            yield untouched
        finally:
            untouched._put_back()

    def check(self, who: str, networks: Sequence[nn.Module], images: Tensor) -> None:
        """Refuse changes by the attack `who` or by the networks themselves.

        To tell which, the networks are restored and called again, without the attack.

        Args:
            networks: the networks whose forward pass may be to blame.
            images: (n, C, H, W), the input of these calls.

        Raises:
            RunError: a parameter or buffer has changed; names the first, and what changed it.
        """
        if (changed := self._changed()) is None:
            return
        self._put_back()
        for network in networks:
            network(images)
            for _ in range(ASKED):  # some networks count calls, and change at every few of them
                network(images[:1])
            self.check_itself()
        raise RunError(
            f"attack {who} changed the network ({changed}); its results are not used and the network is as it was"
        )

    def check_itself(self) -> None:
        """Refuse changes by the network's own forward pass, for which an attack would be blamed.

        Raises:
            RunError: a parameter or buffer has changed; names the first.
        """
        if (changed := self._changed()) is not None:
            raise RunError(
                f"the network's own forward pass changes {changed} in eval mode, so an image's answer may depend on "
                "what was asked before; a network whose parameters and buffers stay as they are would do"
            )

    def _put_back(self) -> None:
        for slot in self.slots:
            if not slot.as_it_was():
                slot.put_back()

    def _changed(self) -> str | None:
        """Name the first parameter or buffer that has changed; None where all are as they were."""
        return next((slot.name for slot in self.slots if not slot.as_it_was()), None)
