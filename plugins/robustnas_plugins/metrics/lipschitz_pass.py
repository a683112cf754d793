"""Lipschitz constants of a network, layer by layer: the network's own forward runs on them.

A feature is an image of channels in blocks.  Of each block the pass knows a number L with

    || block(x) - block(x') ||_p  <=  L || x - x' ||_p   for all images x, x'

and several blocks together have the p-norm of their numbers.  Channels that are joined stay blocks, and a layer of
groups, such as those that hold the edges of a supernet side by side, treats each block alone.  The rules, by what a
function does to L:

    a sum of features                  the sum of both
    a number times a feature           its size times L; a number a channel: the largest size times L
    relu, tanh, max pooling, ...       the function's own constant times L; a pixel in m windows of a max pooling counts
                                       m times in l_1 and m ** 0.5 times in l_2
    convolution, linear layer          the operator norm of the map times L
    mean over pixels, average pooling  likewise

Operator norms: in l_inf and l_1 the largest row and column sum of sizes.  In l_2 that of a matrix is its largest
singular value; that of a k x k convolution of stride s is at most each of

    ( largest row sum * largest column sum ) ** 0.5                        Schur's test
    ceil(k / s) * largest singular value of the (C', C k k) matrix         Singla and Feizi 2021, arXiv:1911.10258

A factor of several channels that L does not resolve, where channels are shuffled say, is bounded by the p-norm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from operator import add
from typing import Any

import torch
from torch import Tensor, nn

from robustnas.errors import UnsupportedOpError
from robustnas.nn.fast import composed_of_convolutions, pair, separable
from robustnas.threat import ORDER

Blocks = tuple[tuple[int, Tensor], ...]
"""Of each block of channels: how many, and L, a float64 scalar."""


def constant(network: nn.Module, image: Tensor, norm: str) -> Tensor:
    """A bound of the constant of the whole network in a norm, in logits per pixel unit: a float64 scalar.

    Args:
        network: in eval mode.
        image: (1, C, H, W), any image of the network's shape.
        norm: of the images and of the logits: `linf`, `l2` or `l1`.

    Raises:
        UnsupportedOpError: the network uses a function without a rule.
    """
    one = torch.ones((), dtype=torch.float64, device=image.device)
    out = network(Feature(image, ((image.shape[1], one),), norm))
    if not isinstance(out, Feature):
        raise UnsupportedOpError("the network's logits do not depend on its images by torch functions")
    return out.constant


class Feature(torch.Tensor):
    """One tensor of the network, of one image.

    Attributes:
        sample: the tensor for that image, which tells shapes.
        blocks: of the channels, dimension 1.
        threat: the norm in which the constants are.
        parts: features of which this is the stack along a dimension, and which one; None where it is none.
    """

    sample: Tensor
    blocks: Blocks
    threat: str
    parts: tuple[int, Sequence[Feature]] | None

    @staticmethod
    def __new__(
        cls, sample: Tensor, blocks: Blocks, norm: str, parts: tuple[int, Sequence[Feature]] | None = None
    ) -> Feature:
        sample = sample.detach()
        feature: Feature = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, sample.shape, strides=sample.stride(), dtype=sample.dtype, device=sample.device
        )
        feature.sample, feature.blocks, feature.threat, feature.parts = sample, blocks, norm, parts
        return feature

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: torch wants wrappers to set everything in `__new__`."""

    @property
    def constant(self) -> Tensor:
        """L of all channels together: a scalar."""
        return together([factor for _, factor in self.blocks], self.threat)

    def scaled(self, sample: Tensor, factor: float | Tensor) -> Feature:
        """A feature whose blocks are these, each with `factor` times its L."""
        return Feature(sample, tuple((width, factor * one) for width, one in self.blocks), self.threat)

    def joined(self, sample: Tensor, factor: float | Tensor = 1.0) -> Feature:
        """A feature of one block, with `factor` times the L of all channels."""
        channels = sample.shape[1] if sample.dim() > 1 else 1
        return Feature(sample, ((channels, factor * self.constant),), self.threat)

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if "input" in kwargs:
            args = (kwargs.pop("input"), *args)
        name = getattr(func, "__name__", "").strip("_")
        plain = args[0].sample if args and isinstance(args[0], Feature) else None
        if plain is not None and name in ASKED:
            return func(plain, *args[1:], **kwargs)
        rule = RULES.get(name)
        if rule is None:
            raise UnsupportedOpError(
                f"lipschitz: {name or func!r} has no rule for the Lipschitz constant; a network of convolutions, batch "
                "norm, poolings, rectifiers and linear layers would do"
            )
        return rule(func, *args, **kwargs)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Refuse what does not go through torch functions."""
        raise UnsupportedOpError(f"lipschitz: {func} is called by compiled or scripted code, which has no rules")


ASKED = {"get", "size", "dim", "numel", "stride", "is_contiguous", "is_floating_point", "len"}
"""What asks for a tensor's shape or kind and not for its entries."""


def together(factors: Sequence[Tensor], norm: str) -> Tensor:
    """The p-norm of constants: that of blocks together."""
    if len(factors) == 1:
        return factors[0]
    joined: Tensor = torch.linalg.vector_norm(torch.stack(list(factors)), ord=ORDER[norm])
    return joined


def _plain(item: Any) -> Any:
    """The tensors for the image, wherever they stand."""
    if isinstance(item, Feature):
        return item.sample
    return type(item)(map(_plain, item)) if isinstance(item, list | tuple) else item


def _called(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What a function makes of the image."""
    with torch.no_grad():
        return func(*_plain(args), **{name: _plain(one) for name, one in kwargs.items()})


def _steady(factor: float) -> Callable[..., Feature]:
    """The rule of a function of each entry that has this constant."""

    def rule(func: Any, x: Feature, *args: Any, **kwargs: Any) -> Feature:
        return x.scaled(_called(func, x, *args, **kwargs), factor)

    return rule


def _dropped(func: Any, x: Feature, p: float = 0.5, training: bool = True, inplace: bool = False) -> Feature:
    if training:
        raise UnsupportedOpError("lipschitz: dropout draws at random; network.eval() would do")
    return x


def _sum(func: Any, x: Any, y: Any, **kwargs: Any) -> Feature:
    if kwargs.get("alpha", 1) != 1:
        raise UnsupportedOpError("lipschitz: no rule for a sum with alpha")
    sample = _called(func, x, y)
    if not (isinstance(x, Feature) and isinstance(y, Feature)):
        one = x if isinstance(x, Feature) else y
        return Feature(sample, one.blocks, one.threat)
    if [width for width, _ in x.blocks] == [width for width, _ in y.blocks]:
        both = zip(x.blocks, y.blocks, strict=True)
        return Feature(sample, tuple((width, one + other) for (width, one), (_, other) in both), x.threat)
    return Feature(sample, ((sample.shape[1], x.constant + y.constant),), x.threat)


def _product(func: Any, x: Any, y: Any) -> Feature:
    feature, factor = (x, y) if isinstance(x, Feature) else (y, x)
    sample = _called(func, x, y)
    if isinstance(factor, Feature):
        raise UnsupportedOpError("lipschitz: a product of two features has no Lipschitz constant")
    if not isinstance(factor, Tensor):
        return feature.scaled(sample, abs(factor))
    return _by_channel(feature, sample, factor.abs())


def _quotient(func: Any, x: Feature, y: Any) -> Feature:
    if isinstance(y, Feature):
        raise UnsupportedOpError("lipschitz: a quotient by a feature has no Lipschitz constant")
    sample = _called(func, x, y)
    return x.scaled(sample, 1 / abs(y)) if not isinstance(y, Tensor) else _by_channel(x, sample, 1 / y.abs())


def _by_channel(x: Feature, sample: Tensor, sizes: Tensor) -> Feature:
    """Entries times factors of these sizes, which may differ by channel."""
    if sizes.dim() == x.sample.dim() and sizes.shape[1] == x.sample.shape[1]:
        parts = sizes.split([width for width, _ in x.blocks], dim=1)
        blocks = zip(x.blocks, parts, strict=True)
        return Feature(sample, tuple((width, one * part.amax().double()) for (width, one), part in blocks), x.threat)
    return x.scaled(sample, sizes.amax().double())


def _joined(func: Any, tensors: Sequence[Any], dim: int = 0) -> Feature:
    sample, norm = _called(func, tensors, dim), next(one.threat for one in tensors if isinstance(one, Feature))
    zero = torch.zeros((), dtype=torch.float64, device=sample.device)
    blocks = [one.blocks if isinstance(one, Feature) else ((one.shape[1], zero),) for one in tensors]
    if dim in (1, 1 - sample.dim()):
        return Feature(sample, tuple(block for one in blocks for block in one), norm)
    whole = together([factor for one in blocks for _, factor in one], norm)
    return Feature(sample, ((sample.shape[1], whole),), norm)


def _stack(func: Any, tensors: Sequence[Feature], dim: int = 0) -> Feature:
    sample = _called(func, tensors, dim)
    whole = together([one.constant for one in tensors], tensors[0].threat)
    return Feature(sample, ((sample.shape[1], whole),), tensors[0].threat, (dim, tensors))


def _mixtures(func: Any, equation: str, shares: Any, stacked: Any) -> Feature:
    if equation != "ek,nkchw->nechw" or not isinstance(stacked, Feature) or stacked.parts is None:
        raise UnsupportedOpError(f"lipschitz: einsum {equation!r} has no rule for the Lipschitz constant")
    outputs = [
        reduce(add, [share * one for share, one in zip(row, stacked.parts[1], strict=True)]) for row in shares.unbind()
    ]
    return _stack(torch.stack, outputs, 1)


def _unbind(func: Any, x: Feature, dim: int = 0) -> Sequence[Feature]:
    if x.parts is not None and x.parts[0] == dim:
        return tuple(x.parts[1])
    return [x.joined(one) for one in _called(func, x, dim)]


def _split(func: Any, x: Feature, *args: Any, **kwargs: Any) -> Sequence[Feature]:
    """Pieces along a dimension, of channels each with the blocks that it touches."""
    samples = _called(func, x, *args, **kwargs)
    dim = kwargs.get("dim", args[1] if len(args) > 1 else 0)
    if dim not in (1, 1 - x.sample.dim()):
        return [Feature(one, x.blocks, x.threat) for one in samples]
    pieces, first = [], 0
    for one in samples:
        pieces.append(Feature(one, _touched(x, first, one.shape[1]), x.threat))
        first += one.shape[1]
    return pieces


def _touched(x: Feature, first: int, count: int) -> Blocks:
    """The blocks of so many channels from one on."""
    blocks, start = [], 0
    for width, factor in x.blocks:
        inside = min(start + width, first + count) - max(start, first)
        if inside > 0:
            blocks.append((inside, factor))
        start += width
    return tuple(blocks)


def _item(func: Any, x: Feature, index: Any) -> Feature:
    """Some of the pixels; channels and images are all there."""
    sample = _called(func, x, index)
    whole = isinstance(index, tuple) and len(index) > 1 and all(one == slice(None) for one in index[:2])
    return Feature(sample, x.blocks, x.threat) if whole else x.joined(sample)


def _moved(func: Any, x: Feature, *args: Any, **kwargs: Any) -> Feature:
    return x.joined(_called(func, x, *args, **kwargs))


def _flat(func: Any, x: Feature, start_dim: int = 0, end_dim: int = -1) -> Feature:
    sample = _called(func, x, start_dim, end_dim)
    if start_dim != 1 or x.sample.dim() < 2 or sample.dim() != 2:
        return x.joined(sample)
    pixels = sample.shape[1] // x.sample.shape[1]
    return Feature(sample, tuple((width * pixels, one) for width, one in x.blocks), x.threat)


def _convolution(
    func: Any,
    x: Feature,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Feature:
    sample = _called(func, x, weight, bias, stride, padding, dilation, groups)
    ins, outs = weight.shape[1], len(weight) // groups
    starts, at = [], 0
    for width, _ in x.blocks:
        starts.append(at % ins == 0 and width % ins == 0)
        at += width
    norms = convolution_norms(weight.view(groups, outs, *weight.shape[1:]), pair(stride), x.threat, pair(dilation))
    if not all(starts):
        return x.joined(sample, norms.amax())
    blocks, first = [], 0
    for width, factor in x.blocks:
        count = width // ins
        blocks.append((count * outs, factor * norms[first : first + count].amax()))
        first += count
    return Feature(sample, tuple(blocks), x.threat)


def convolution_norms(
    weights: Tensor, stride: tuple[int, int], norm: str, dilation: tuple[int, int] = (1, 1)
) -> Tensor:
    """Bounds of the operator norms of convolutions (G, C', C, k, l), padded with zeros or not: (G,), float64."""
    sizes = weights.abs().flatten(3).sum(dim=3).double()
    rows, columns = sizes.sum(dim=2).amax(dim=1), sizes.sum(dim=1).amax(dim=1)
    if norm != "l2":
        return rows if norm == "linf" else columns
    if weights.shape[1] == weights.shape[2] == 1:
        return rows
    kernel = weights.shape[3:]
    seen = windows(kernel, stride, dilation) ** 0.5
    spectral: Tensor = seen * torch.linalg.matrix_norm(weights.flatten(2), ord=2).double()
    if math.prod(kernel) == 1:
        return spectral
    return torch.minimum((rows * columns).sqrt(), spectral)


def windows(kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> int:
    """In how many windows a pixel is at most: its taps are a stride apart, or as dilation and stride meet."""
    taps = zip(kernel, stride, dilation, strict=True)
    return math.prod(-(-side // (step // math.gcd(step, apart))) for side, step, apart in taps)


def _linear(func: Any, x: Feature, weight: Tensor, bias: Tensor | None = None) -> Feature:
    kind: Any = {"linf": math.inf, "l2": 2, "l1": 1}[x.threat]
    return x.joined(_called(func, x, weight, bias), torch.linalg.matrix_norm(weight, ord=kind).double())


def _batch_norm(
    func: Any,
    x: Feature,
    mean: Tensor | None,
    variance: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Feature:
    if training or variance is None:
        raise UnsupportedOpError("lipschitz: batch norm with the statistics of its batch; network.eval() would do")
    sample = _called(func, x, mean, variance, weight, bias, False, momentum, eps)
    scale = (variance + eps).rsqrt() * (1 if weight is None else weight)
    return _by_channel(x, sample, scale.abs().view(1, -1, *[1] * (x.sample.dim() - 2)))


def _largest(
    func: Any,
    x: Feature,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Feature:
    sample = _called(func, x, kernel_size, stride or kernel_size, padding, dilation, ceil_mode)
    steps = pair(stride or kernel_size)
    seen = windows(pair(kernel_size), steps, pair(dilation))
    return x.scaled(sample, {"linf": 1.0, "l2": seen**0.5, "l1": float(seen)}[x.threat])


def _averaged(func: Any, x: Feature, *args: Any, **kwargs: Any) -> Feature:
    """A mean of pixels of one channel, which is a map of numbers that are not negative."""
    sample = _called(func, x, *args, **kwargs)
    ones = torch.ones_like(x.sample, requires_grad=True)
    with torch.enable_grad():
        averaged = func(ones, *args, **kwargs)
        (columns,) = torch.autograd.grad(averaged.sum(), ones)
    row, column = float(averaged.detach().amax()), float(columns.amax())
    factor = {"linf": row, "l2": (row * column) ** 0.5, "l1": column}[x.threat]
    return x.scaled(sample, factor) if sample.shape[1:2] == x.sample.shape[1:2] else x.joined(sample, factor)


def _stage(func: Any, form: Any, x: Feature, *weights: Any) -> Any:
    return composed_of_convolutions(form, x, *weights)


RULES: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("relu", "relu6", "tanh", "hardtanh", "contiguous", "clone"), _steady(1.0)),
    "dropout": _dropped,
    "sigmoid": _steady(0.25),
    **dict.fromkeys(("add", "radd", "sub", "rsub", "iadd"), _sum),
    **dict.fromkeys(("mul", "rmul"), _product),
    **dict.fromkeys(("div", "truediv"), _quotient),
    **dict.fromkeys(("cat", "concat"), _joined),
    "stack": _stack,
    "einsum": _mixtures,
    "unbind": _unbind,
    **dict.fromkeys(("split", "chunk", "tensor_split", "split_with_sizes"), _split),
    "getitem": _item,
    **dict.fromkeys(("permute", "transpose", "reshape", "view"), _moved),
    "flatten": _flat,
    "conv2d": _convolution,
    "linear": _linear,
    "batch_norm": _batch_norm,
    **dict.fromkeys(("max_pool2d",), _largest),
    **dict.fromkeys(("avg_pool2d", "adaptive_avg_pool2d", "mean"), _averaged),
    separable.__name__: _stage,
}
"""By the name of a torch function, without underscores around it."""
