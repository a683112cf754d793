"""The speed layer: what plain torch computes, sooner.

Every part of it can be switched off (`robustnas.nn.fast.switch`), and then plain torch computes the same, to rounding.
`python tests/benchmarks/fast.py` measures what each part gains; docs/performance.md has the tables.

The rest of the product imports what stands here, from here, and nothing that lies below.
"""

from robustnas.nn.fast.convolution import Conv2d, conv2d, image_gradient, pair
from robustnas.nn.fast.double_backward import double_backward
from robustnas.nn.fast.folded_norm import (
    JoinedNorm,
    convolve_and_norm,
    convolve_scaled,
    is_fixed,
    is_folded,
    normalise,
    normalise_channels,
    of_layer,
    scale_and_shift,
    scaled,
)
from robustnas.nn.fast.rows import has_rows, of_rows
from robustnas.nn.fast.separable_map import Form, biases, composed_of_convolutions, separable
from robustnas.nn.fast.separable_stage import StageShape, convolved, stage
from robustnas.nn.fast.switch import PARTS, plain

__all__ = [
    "PARTS",
    "Conv2d",
    "Form",
    "JoinedNorm",
    "StageShape",
    "biases",
    "composed_of_convolutions",
    "conv2d",
    "convolve_and_norm",
    "convolve_scaled",
    "convolved",
    "double_backward",
    "has_rows",
    "image_gradient",
    "is_fixed",
    "is_folded",
    "normalise",
    "normalise_channels",
    "of_layer",
    "of_rows",
    "pair",
    "plain",
    "scale_and_shift",
    "scaled",
    "separable",
    "stage",
]
