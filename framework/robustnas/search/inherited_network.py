"""A supernet on one path: a genotype's network with the weights that all genotypes share."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from robustnas.nn.cells import SinglePath
from robustnas.nn.normalize import PixelSupernet


class InheritedNetwork(nn.Module):
    """A supernet on one path: (N, C, H, W) in [0, 1] -> (N, K) logits; other mixing weights may be given.

    Its running statistics are those of all paths that training drew, mixed: whoever judges it uses those of a batch
    (`robustnas.nn.batch_statistics`).

    Args:
        supernet: shared, not copied.
        path: one-hot mixing weights.
    """

    def __init__(self, supernet: PixelSupernet, path: SinglePath):
        super().__init__()
        self.supernet, self.path = supernet, path

    @property
    def alpha(self) -> Mapping[str, nn.Parameter]:
        """The supernet's own."""
        return self.supernet.alpha

    def mixing(self) -> dict[str, Tensor]:
        """The path."""
        return dict(self._path())

    def forward(self, images: Tensor, mixing: Mapping[str, Tensor] | None = None) -> Tensor:
        logits: Tensor = self.supernet(images, self._path() if mixing is None else mixing)
        return logits

    def _path(self) -> SinglePath:
        """The path, of the type and on the device of the supernet."""
        self.path = self.path.to(next(iter(self.supernet.alpha.values())))
        return self.path
