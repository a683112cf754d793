"""A dataset seen through another: what a view does not say otherwise is the dataset's own."""

from __future__ import annotations

from attrs import frozen

from robustnas.contracts import Dataset, Shape


@frozen
class View:
    """The facts of a dataset, handed on; which splits are seen, and how, is the view's own.

    Args:
        dataset: what is seen.
    """

    dataset: Dataset

    @property
    def shape(self) -> Shape:
        """Channels, rows and columns of an image."""
        return self.dataset.shape

    @property
    def classes(self) -> int:
        """The number of classes."""
        return self.dataset.classes

    @property
    def mean(self) -> tuple[float, ...]:
        """A number a channel, in pixel units."""
        return self.dataset.mean

    @property
    def std(self) -> tuple[float, ...]:
        """A number a channel, in pixel units."""
        return self.dataset.std
