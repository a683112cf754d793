"""What a convolution is besides its tensors."""

from __future__ import annotations

from functools import cached_property, lru_cache

from attrs import evolve, frozen

Pair = tuple[int, int]


@frozen(cache_hash=True)
class Geometry:
    """Sizes and options of a convolution of (N, C, H, W) images.

    Args:
        channels: of the image and of the output.
        size: rows and columns of the image.
        kernel: rows and columns of the weight.
        stride, padding, dilation: as in torch, rows then columns.
        groups: as in torch.
    """

    channels: Pair
    size: Pair
    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int

    @cached_property
    def output(self) -> Pair:
        """Rows and columns of the output."""
        rows, columns = (
            (size + 2 * padding - reach - 1) // stride + 1
            for size, padding, reach, stride in zip(self.size, self.padding, self.reach, self.stride, strict=True)
        )
        return rows, columns

    @cached_property
    def reach(self) -> Pair:
        """Rows and columns from the first to the last entry of the kernel."""
        return self.dilation[0] * (self.kernel[0] - 1), self.dilation[1] * (self.kernel[1] - 1)

    @cached_property
    def weight(self) -> tuple[int, int, int, int]:
        """Shape of the weight."""
        return (self.channels[1], self.channels[0] // self.groups, *self.kernel)

    @cached_property
    def depthwise(self) -> bool:
        """Whether each channel is convolved by itself."""
        return self.groups == self.channels[0] == self.channels[1]

    @cached_property
    def pointwise(self) -> bool:
        """Whether each pixel is convolved by itself."""
        return self.kernel == self.stride == (1, 1) and self.padding == (0, 0)

    @property
    def widths(self) -> Pair:
        """Channels of a group, of the image and of the output."""
        return self.channels[0] // self.groups, self.channels[1] // self.groups

    @cached_property
    def trimmed(self) -> Geometry:
        """The same without rows and columns of the weight at its edges that see nothing but padding.

        As many are left out at either side, so the output is the same; `edges` says how many.  A 5x5 weight with
        dilation 2 sees a 2x2 image with its middle entry only.
        """
        rows, columns = self.edges
        if rows == columns == 0:
            return self
        kernel = (self.kernel[0] - 2 * rows, self.kernel[1] - 2 * columns)
        return evolve(
            self,
            kernel=kernel,
            padding=(self.padding[0] - rows * self.dilation[0], self.padding[1] - columns * self.dilation[1]),
            # what is left of a single entry has no dilation, and code for dilation is slow
            dilation=(self.dilation[0] if kernel[0] > 1 else 1, self.dilation[1] if kernel[1] > 1 else 1),
        )

    @cached_property
    def edges(self) -> Pair:
        """Rows and columns of the weight that see nothing, the same number at either side."""
        return self._edge(0), self._edge(1)

    def _edge(self, axis: int) -> int:
        step, padding, kernel = self.dilation[axis], self.padding[axis], self.kernel[axis]
        last = (self.output[axis] - 1) * self.stride[axis]
        edge = 0
        while edge < kernel // 2 and (edge + 1) * step <= padding:
            sees_above = last + edge * step - padding >= 0
            sees_below = (kernel - 1 - edge) * step - padding < self.size[axis]
            if sees_above or sees_below:
                break
            edge += 1
        return edge


@lru_cache(maxsize=4096)
def geometry_of(
    image: tuple[int, ...],
    weight: tuple[int, ...],
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> Geometry | None:
    """The geometry for an image (C, H, W), or None where there is none: torch then says what is wrong."""
    fits = (
        len(weight) == 4
        and groups > 0
        and image[0] == weight[1] * groups
        and weight[0] % groups == 0
        and min(*stride, *dilation, *image, *weight) > 0
        and min(padding) >= 0
    )
    if not fits:
        return None
    channels = (image[0], weight[0])
    geometry = Geometry(channels, (image[1], image[2]), (weight[2], weight[3]), stride, padding, dilation, groups)
    return geometry if min(geometry.output) > 0 else None
