"""Bounds activations besides ReLU and leaky ReLU: each is a curve of `curve.py`, given by its derivative and pieces.

    sigmoid, tanh, softsign, erf         convex up to 0, concave beyond
    hardtanh, relu6, clamp, hardsigmoid  straight: level, rising, level
    GELU, SiLU, mish                     concave, convex around their valley, concave; the inflection points are zeros
                                         of the second derivative, found with mpmath at 50 digits
    hardswish                            level, the parabola x(x + 3)/6 between its kinks at -3 and 3, the identity
    ELU, CELU, SELU                      convex up to 0, straight beyond, with a kink at 0 unless the slopes meet
    softplus, log-sigmoid                convex; concave
    PReLU, abs                           two straight pieces, with a kink at 0

What a curve promises, continuity and the curvature of each piece, is what the proof in `curve.py` needs.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from robustnas.bounds.refusals import only_first
from robustnas.bounds.registration import rule, spellings
from robustnas.bounds.rules import powers
from robustnas.bounds.rules.curve import Curve, enclose_curve
from robustnas.bounds.value import Function, Value, refuse


def _bell(x: Tensor) -> Tensor:
    """The derivative of the sigmoid, computed as a product, which is accurate where it is small."""
    return torch.sigmoid(x) * torch.sigmoid(-x)


SIGMOID = Curve(torch.sigmoid, _bell, _bell, right=0.0)


def _tanh_slope(x: Tensor) -> Tensor:
    return 4 * _bell(2 * x)


TANH = Curve(torch.tanh, _tanh_slope, _tanh_slope, right=0.0)


def _silu_slope(x: Tensor) -> Tensor:
    return torch.sigmoid(x) + x * _bell(x)


SILU = Curve(
    F.silu, _silu_slope, _silu_slope, left=-2.3993572805154677, right=2.3993572805154677, valley=-1.2784645427610738
)


def _gelu_slope(x: Tensor) -> Tensor:
    """Phi(x) + x phi(x), of the normal distribution."""
    near = x.clamp(-64.0, 64.0)
    return torch.erfc(-near / math.sqrt(2)) / 2 + near * torch.exp(-near.square() / 2) / math.sqrt(2 * math.pi)


GELU_NOISE = 4.0
"""torch's float32 error function is wrong by up to 3 units of rounding of 1 where the result is far below 1."""

GELU = Curve(
    F.gelu, _gelu_slope, _gelu_slope,
    left=-math.sqrt(2), right=math.sqrt(2), valley=-0.7517915246935645, noise=GELU_NOISE,
)  # fmt: skip


def _gelu_by_tanh_slope(x: Tensor) -> Tensor:
    """f(x) = x sigmoid(v), v = sqrt(8/pi) (x + 0.044715 x^3)."""
    near = x.clamp(-64.0, 64.0)
    factor = math.sqrt(8 / math.pi)
    inner = factor * (near + 0.044715 * near**3)
    return torch.sigmoid(inner) + near * factor * (1 + 3 * 0.044715 * near.square()) * _bell(inner)


GELU_BY_TANH = Curve(
    lambda x: F.gelu(x, approximate="tanh"), _gelu_by_tanh_slope, _gelu_by_tanh_slope,
    left=-1.4185040087908284, right=1.4185040087908284, valley=-0.7524614220710163, noise=GELU_NOISE,
)  # fmt: skip


def _mish_slope(x: Tensor) -> Tensor:
    inner = F.softplus(x)
    return torch.tanh(inner) + x * _tanh_slope(inner) * torch.sigmoid(x)


MISH = Curve(
    F.mish, _mish_slope, _mish_slope, left=-2.2563763963607931, right=1.4905711794854285, valley=-1.1924312145154952
)

HARDSWISH = Curve(F.hardswish, lambda x: (2 * x + 3) / 6, lambda x: (x > 0).to(x), left=-3.0, right=3.0, valley=-1.5)

HARDSIGMOID = Curve(
    F.hardsigmoid, lambda x: torch.full_like(x, 1 / 6), torch.zeros_like, left=-3.0, right=3.0, straight=True
)

LOGSIGMOID = Curve(
    F.logsigmoid, lambda x: torch.sigmoid(-x), lambda x: torch.sigmoid(-x), left=torch.inf, right=torch.inf
)

SELU_ALPHA = 1.6732632423543772
SELU_SCALE = 1.0507009873554805
"""Constants of SELU, with torch's digits (Klambauer et al. 2017, self-normalizing networks, arXiv:1706.02515)."""

SELU = Curve(
    F.selu,
    lambda x: SELU_SCALE * SELU_ALPHA * torch.exp(x.clamp_max(0.0)),
    lambda x: torch.full_like(x, SELU_SCALE),
    right=0.0,
)

SOFTSIGN = Curve(F.softsign, lambda x: (1 + x.abs()) ** -2, lambda x: (1 + x.abs()) ** -2, right=0.0)


def _normal_slope(x: Tensor) -> Tensor:
    return 2 / math.sqrt(math.pi) * torch.exp(-x.square())


ERROR_FUNCTION = Curve(torch.erf, _normal_slope, _normal_slope, right=0.0)

CURVES: dict[str, Curve] = {
    "sigmoid": SIGMOID, "softsign": SOFTSIGN, "erf": ERROR_FUNCTION, "tanh": TANH, "silu": SILU, "mish": MISH,
    "hardswish": HARDSWISH, "hardsigmoid": HARDSIGMOID, "selu": SELU, "logsigmoid": LOGSIGMOID,
}  # fmt: skip
WITHOUT_ARGUMENTS = CURVES | powers.CURVES
"""Activations that take one tensor and no further argument, each with its curve."""


def _spelled(*names: str) -> tuple[Function, ...]:
    """List every torch function of these names, and its in-place form where there is one."""
    return tuple(function for name in names for function in spellings(name, f"{name}_"))


@rule(*_spelled(*WITHOUT_ARGUMENTS))
def without_arguments(function: Function, value: Value, inplace: bool = False) -> Value:
    name = function.__name__.removesuffix("_").replace("log_sigmoid", "logsigmoid")
    return enclose_curve(WITHOUT_ARGUMENTS[name], WITHOUT_ARGUMENTS[name].value, value)


@rule(*spellings("gelu"))
def gelu(function: Function, value: Value, *, approximate: str = "none") -> Value:
    known = {"none": GELU, "tanh": GELU_BY_TANH}
    if approximate not in known:
        refuse(function, value, f"approximate {approximate!r} is unknown; known are {', '.join(known)}")
    return enclose_curve(known[approximate], known[approximate].value, value)


def clamped(lowest: float, highest: float) -> Curve:
    """Make the curve of min(max(x, lowest), highest)."""
    return Curve(
        lambda x: x.clamp(lowest, highest), torch.ones_like, torch.zeros_like, left=lowest, right=highest, straight=True
    )


@rule(*_spelled("clamp", "clip", "clamp_min", "clamp_max"))
def clamp(function: Function, value: Value, *args: Any, **kwargs: Any) -> Any:
    """Bound a clamp whose ends are numbers, or tensors that do not depend on the images."""
    only_first(function, value, args, kwargs)
    name = function.__name__.removesuffix("_")
    ends = dict(zip(("max",) if name == "clamp_max" else ("min", "max"), args, strict=False)) | kwargs
    if set(ends) - {"min", "max"}:
        refuse(function, value, f"its rule knows min and max, found {sorted(ends)}")
    lowest, highest = ends.get("min"), ends.get("max")
    lowest, highest = -torch.inf if lowest is None else lowest, torch.inf if highest is None else highest
    if isinstance(lowest, Tensor) or isinstance(highest, Tensor):
        between: Any = value
        for end, cut in ((ends.get("min"), torch.maximum), (ends.get("max"), torch.minimum)):
            between = between if end is None else cut(between, torch.as_tensor(end).to(value.centre))
        return between
    if not lowest <= highest:
        refuse(function, value, "its rule holds where the lower end is the first")
    curve = clamped(lowest, highest)
    return enclose_curve(curve, curve.value, value)


@rule(*_spelled("hardtanh"))
def hardtanh(
    function: Function, value: Value, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> Any:
    return clamp(function, value, min=min_val, max=max_val)


@rule(*spellings("relu6"))
def relu6(function: Function, value: Value, inplace: bool = False) -> Any:
    return clamp(function, value, min=0.0, max=6.0)


def _exponential(alpha: float, decay: float, function: Any) -> Curve:
    """Make the curve that is alpha (exp(x / decay) - 1) below 0, and x beyond."""
    return Curve(function, lambda x: alpha / decay * torch.exp(x.clamp_max(0.0) / decay), torch.ones_like, right=0.0)


@rule(*_spelled("elu", "celu"))
def elu(function: Function, value: Value, alpha: float = 1.0, inplace: bool = False) -> Value:
    """Bound ELU or CELU, whose slope just below 0 is alpha or 1."""
    if not alpha > 0:
        refuse(function, value, f"alpha {alpha:g}: the rule holds for positive ones")
    if function.__name__.startswith("celu"):
        curve = _exponential(alpha, alpha, lambda x: F.celu(x, alpha))
    else:
        curve = _exponential(alpha, 1.0, lambda x: F.elu(x, alpha))
    return enclose_curve(curve, curve.value, value)


@rule(*spellings("softplus"))
def softplus(function: Function, value: Value, beta: float = 1.0, threshold: float = 20.0) -> Value:
    """Bound softplus by its exact form, which is convex.  Torch computes x instead where beta x passes the threshold;
    the curve's `deficit` says how far x lies below."""
    if not beta > 0:
        refuse(function, value, f"beta {beta:g}: the rule holds for positive ones")

    def exact(x: Tensor) -> Tensor:
        return torch.relu(x) + torch.log1p(torch.exp(-(beta * x).abs())) / beta

    def deficit(lower: Tensor, upper: Tensor) -> Tensor:
        first = beta * lower.clamp_min(threshold / beta)
        fall = torch.log1p(torch.exp(-first)) / beta
        return torch.where(beta * upper > threshold, fall, 0.0)

    def slope(x: Tensor) -> Tensor:
        return torch.sigmoid(beta * x)

    curve = Curve(exact, slope, slope, deficit=deficit)
    return enclose_curve(curve, lambda x: F.softplus(x, beta, threshold), value)


@rule(*spellings("prelu"), scaled=True)
def prelu(function: Function, value: Value, weight: Tensor) -> Value:
    """Bound PReLU, with a slope a channel on the left, of any sign and size."""
    only_first(function, value, (weight,))
    shape = [1] * value.centre.dim()
    shape[1 if len(shape) > 1 else 0] = -1
    slopes = weight.view(shape)
    curve = Curve(lambda x: F.prelu(x, weight), torch.ones_like, slopes.expand_as, left=0.0, straight=True, valley=0.0)
    return enclose_curve(curve, curve.value, value)


ABSOLUTE = Curve(torch.abs, torch.ones_like, lambda x: torch.full_like(x, -1.0), left=0.0, straight=True, valley=0.0)


@rule(*_spelled("abs"), *spellings("absolute"), torch.Tensor.__abs__, scaled=True)
def absolute(function: Function, value: Value) -> Value:
    return enclose_curve(ABSOLUTE, ABSOLUTE.value, value)
