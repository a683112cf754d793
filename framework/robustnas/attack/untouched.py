"""The network's numbers before it is looked at, and again afterwards: what judges is what was asked about."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Self

import attrs
import torch
from torch import Tensor, nn

from robustnas.errors import RunError

ASKED = 32
"""Times that a network is asked about one image before an attack is said to have changed it: more than those networks
need that change themselves at every few calls, and still less than a step of an attack costs."""


@attrs.frozen(eq=False)
class _Slot:
    """A parameter or buffer: where a module holds it, where its numbers are stored, and which they were."""

    name: str
    owner: dict[str, Tensor | None]
    key: str
    tensor: Tensor
    storage: Tensor
    value: Tensor

    def as_it_was(self) -> bool:
        """Say whether the same tensor is in the same place, with the same numbers."""
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
        """Inside, `check` tells of a change; at the end everything is put back."""
        slots = {(id(slot.owner), slot.key): slot for network in networks for slot in _slots(network)}
        found = cls(tuple(slots.values()))
        try:
            yield found
        finally:
            found._put_back()

    def check(self, who: str, networks: Sequence[nn.Module], images: Tensor) -> None:
        """Refuse what the attack `who` has done, or the networks it asked: those are asked again, without it.

        Args:
            networks: whose forward pass may be to blame.
            images: (n, C, H, W), what they are asked about.

        Raises:
            RunError: a parameter or buffer is another; names the first, and whose doing it is.
        """
        if (changed := self._changed()) is None:
            return
        self._put_back()
        for network in networks:
            network(images)
            for _ in range(ASKED):  # some count how often they were asked
                network(images[:1])
            self.check_itself()
        raise RunError(
            f"attack {who} changed the network ({changed}); its results are not used and the network is as it was"
        )

    def check_itself(self) -> None:
        """Refuse what the network's own forward pass has done: an attack would be blamed for it.

        Raises:
            RunError: a parameter or buffer is another; names the first.
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
        """Name the first parameter or buffer that is another; None where all are as they were."""
        return next((slot.name for slot in self.slots if not slot.as_it_was()), None)
