"""Convolutions of groups that stay fast in a backward pass, and in the backward pass of a backward pass.

    conv2d(x, weight, bias, stride, padding, dilation, groups)      as torch.nn.functional.conv2d
    Conv2d(...)                                                     as torch.nn.Conv2d, with the same state_dict

Why: torch differentiates a convolution of groups for the second time group by group (tens of thousands of small
convolutions in one Jacobian of a supernet), and on a CPU the first derivatives of depthwise convolutions with
dilation or wide kernels take up to 60 times as long as the convolution.  Values are torch's, to rounding.

`layer` decides what comes here at all, `derivatives` tells autograd what to do, `kernels` chooses how each of the
three maps involved is computed, and `depthwise` has the ways of its own.
"""

from robustnas.nn.fast.convolution.layer import Conv2d, conv2d, image_gradient, pair

__all__ = ["Conv2d", "conv2d", "image_gradient", "pair"]
