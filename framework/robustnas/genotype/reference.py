"""Where a genotype of the literature comes from, and how large its network is in the setting that papers report."""

from __future__ import annotations

from attrs import frozen


@frozen
class Reference:
    """What a search space tells of a genotype that it publishes; what it does not know is empty or None.

    Args:
        paper: authors, venue and number.
        code: where the genotype was taken from: repository, file, name and commit.
        sought: what was searched for, in which space and on which images.
        size: the network that is counted, for instance `36 channels, 20 cells, 32x32 pixels, 10 classes`.
        parameters: its trainable weights, without an auxiliary head.
        multiply_adds: of its convolutions and matrix products, for one image.
        notes: what else one should know.
    """

    paper: str
    code: str = ""
    sought: str = ""
    size: str = ""
    parameters: int | None = None
    multiply_adds: int | None = None
    notes: str = ""
