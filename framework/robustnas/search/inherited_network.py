"""A supernet on one path: a genotype's network with the weights that all share; or on other fixed mixing weights."""

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
        path: one-hot mixing weights, or any others.
    """

    def __init__(self, supernet: PixelSupernet, path: Mapping[str, Tensor]):
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

    def _path(self) -> Mapping[str, Tensor]:
        """The path, of the type and on the device of the supernet."""
        like = next(iter(self.supernet.alpha.values()))
        if isinstance(self.path, SinglePath):
            self.path = self.path.to(like)
        elif any(rows.dtype != like.dtype or rows.device != like.device for rows in self.path.values()):
            self.path = {name: rows.to(like) for name, rows in self.path.items()}
        return self.path
