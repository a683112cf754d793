"""How much memory a program would take, counted without taking it: on the `meta` device, where no tensor has numbers.

with Tally() as tally:       counts tensors that are built and dropped inside
    ...
tally.peak
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Tally(TorchDispatchMode):
    """Counts the bytes of all tensors that are alive of those made inside, and their highest sum.

    Works on every device, and on `meta`, where nothing is allocated.  A storage counts from the operation that returns
    it until nothing refers to it: weights, gradients, optimiser state, what autograd saves, and results on their way.
    It does not see what an operation needs inside (work space of a convolution, say) and how an allocator rounds up.
    Tensors made inside a custom operation count when they are returned.

    Attributes:
        live: bytes alive now.
        trace: `live` after each operation that made something, since the last `restart`.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.trace: list[int] = []
        self._sizes: dict[int, int] = {}

    @property
    def peak(self) -> int:
        """The highest sum since the last `restart`."""
        return max(self.trace, default=self.live)

    def restart(self) -> None:
        """Forget the past; what is alive goes on counting."""
        self.trace = [self.live]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, list | tuple) else (result,):
            if isinstance(tensor, Tensor):
                self._note(tensor)
        return result

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        place = storage._cdata
        if place not in self._sizes:
            self._sizes[place] = storage.nbytes()
            self.live += storage.nbytes()
            self.trace.append(self.live)
            weakref.finalize(storage, self._drop, place).atexit = False

    def _drop(self, place: int) -> None:
        self.live -= self._sizes.pop(place)


def extrapolated(small: tuple[int, Sequence[int]], large: tuple[int, Sequence[int]], images: int) -> int:
    """The peak at `images` images, from traces at two sizes of the batch, each `(images, trace)`.

    Bytes are linear in the size of the batch at each moment of the same program, and which moment is the highest
    depends on the size: a trace is continued moment by moment where the two are of the same length, and by its peaks
    where they are not.
    """
    (few, low), (many, high) = small, large
    if len(low) != len(high):
        low, high = [max(low)], [max(high)]
    factor = (images - few) / (many - few)
    return max(round(a + (b - a) * factor) for a, b in zip(low, high, strict=True))
