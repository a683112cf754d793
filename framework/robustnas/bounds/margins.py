"""Lower bounds of classification margins over all admissible images: the methods, and the larger of them.

    ibp        intervals, the last linear layer folded into the margin (arXiv:1810.12715)
    crown-ibp  intervals in front of nonlinearities, one backward pass per margin (arXiv:1906.06316)
    crown      backward passes in front of nonlinearities too (arXiv:1811.00866)

A bound of a method is the larger of its own and its predecessors', so tightness grows with the method.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustnas.bounds.region import Region
from robustnas.bounds.value import Value
from robustnas.bounds.walk import ENTRIES, Network, Walk
from robustnas.errors import InputError, UnsupportedOpError
from robustnas.threat import NORMS, ThreatModel

METHODS = ("ibp", "crown-ibp", "crown")
TARGETS = ("all", "strongest")


def margins(
    network: Network,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    method: str = "crown-ibp",
    targets: str = "all",
) -> Tensor:
    """Lower bounds of the margins f_y - f_j over the threat model's images.

    Differentiable in whatever the network computes with (weights, alpha, mixing weights), when gradients are
    enabled at the call.

    Args:
        network: in eval mode; maps images (N, C, H, W) to logits (N, K), every image for itself.
        images: (N, C, H, W) or (N, d), in [0, 1], float32 or float64.
        labels: (N,) true classes.
        method: one of METHODS.
        targets: `all` wrong classes, or the `strongest` one at the clean image.

    Returns:
        (N, K - 1) in logits, columns in the order of the classes without the true one; (N, 1) for
        `strongest`. Never NaN: a bound that cannot be computed in this number format is -inf.

    Raises:
        UnsupportedOpError: the network uses a function without a rule, or is in training mode.
        InputError: images, labels, method or targets are not as above.
    """
    epsilon = torch.full((images.shape[0],), threat.epsilon, dtype=images.dtype, device=images.device)
    return margins_within(network, images, labels, threat.norm, epsilon, method, targets)


def margins_within(
    network: Network,
    images: Tensor,
    labels: Tensor,
    norm: str,
    epsilon: Tensor,
    method: str = "crown-ibp",
    targets: str = "all",
) -> Tensor:
    """As `margins`, with a radius for each image: epsilon (N,), pixel units."""
    return _bounds(network, images, labels, norm, epsilon, method, targets)[0]


def widths(
    network: Network,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    method: str = "crown-ibp",
    targets: str = "all",
) -> Tensor:
    """How far `margins` lie below the margins at the clean images: at least 0, or inf; arguments as there."""
    epsilon = torch.full((images.shape[0],), threat.epsilon, dtype=images.dtype, device=images.device)
    bound, logits = _bounds(network, images, labels, threat.norm, epsilon, method, targets, keeps_plain=True)
    assert logits.plain is not None
    wrong = _wrong_classes(logits, labels, targets)
    clean = logits.plain.gather(1, labels[:, None].long()) - logits.plain.gather(1, wrong)
    return (clean - bound).clamp_min(0.0)


def _bounds(
    network: Network,
    images: Tensor,
    labels: Tensor,
    norm: str,
    epsilon: Tensor,
    method: str,
    targets: str,
    keeps_plain: bool = False,
) -> tuple[Tensor, Value]:
    """The margins' bounds, and the logits they are of."""
    _check(network, images, labels, norm, method, targets)
    region = Region(images, norm, epsilon)
    linear = method != "ibp"
    logits = Walk(network, region, backward=linear, keeps_plain=keeps_plain or targets == "strongest").run()
    classes = logits.centre.shape[1]
    if int(labels.max()) >= classes:
        raise InputError(f"label {int(labels.max())} for a network of {classes} classes; labels are 0 to {classes - 1}")
    wrong = _wrong_classes(logits, labels, targets)
    bound = _usable(_interval_margins(logits, labels, wrong))
    if linear:
        bound = torch.maximum(bound, _usable(_linear_margins(logits, labels, wrong)))
    if method == "crown":
        tight = Walk(network, region, backward=True, tighten=True).run()
        bound = torch.maximum(bound, _usable(_linear_margins(tight, labels, wrong)))
    return bound, logits


def _check(network: Network, images: Tensor, labels: Tensor, norm: str, method: str, targets: str) -> None:
    for given, known, what in (
        (method, METHODS, "method"),
        (targets, TARGETS, "targets"),
        (norm, NORMS, "norm"),
    ):
        if given not in known:
            raise InputError(f"{what} {given!r} is unknown; known are {', '.join(known)}")
    if images.dim() < 2 or images.numel() == 0:
        raise InputError(f"images have shape {tuple(images.shape)}; expected (N, C, H, W) with at least one image")
    if images.dtype not in (torch.float32, torch.float64):
        raise InputError(f"images are {images.dtype}; bounds need float32 or float64 in [0, 1]")
    if not bool(((images >= 0) & (images <= 1)).all()):
        low, high = float(images.detach().min()), float(images.detach().max())
        raise InputError(f"images reach from {low:g} to {high:g}; expected [0, 1] (normalisation is the network's job)")
    if labels.shape != images.shape[:1] or labels.dtype.is_floating_point or labels.dtype == torch.bool:
        found = f"labels have shape {tuple(labels.shape)} and type {labels.dtype}"
        raise InputError(f"{found}; expected ({images.shape[0]},) integers")
    if int(labels.min()) < 0:
        raise InputError(f"label {int(labels.min())} is negative; labels are 0 to K - 1")
    if isinstance(network, nn.Module):
        for name, module in network.named_modules():
            if module.training:
                raise UnsupportedOpError(
                    f"{name or 'the network'} ({type(module).__name__}) is in training mode, in which batch "
                    "norm mixes images and dropout draws; call network.eval() first"
                )


def _wrong_classes(logits: Value, labels: Tensor, targets: str) -> Tensor:
    """(N, S) classes to bound the margin against."""
    if targets == "strongest":
        assert logits.plain is not None
        others = logits.plain.detach().scatter(1, labels[:, None].long(), -torch.inf)
        return others.argmax(dim=1, keepdim=True)
    index = torch.arange(logits.centre.shape[1] - 1, device=labels.device).expand(labels.shape[0], -1)
    return index + (index >= labels[:, None]).long()


def _interval_margins(logits: Value, labels: Tensor, wrong: Tensor) -> Tensor:
    """(N, S) from intervals; where the logits are a linear layer's, from the intervals in front of it."""
    walk = logits.walk
    with walk.intervals():
        true = labels[:, None].long()
        features = logits.features
        if features is None:
            upper = logits.centre + logits.radius
            return (logits.centre - logits.radius).gather(1, true) - upper.gather(1, wrong)
        if wrong.shape[1] > 1 and wrong.numel() * features.weight.shape[1] > ENTRIES:
            half = wrong.shape[1] // 2
            parts = [_interval_margins(logits, labels, some) for some in (wrong[:, :half], wrong[:, half:])]
            return torch.cat(parts, dim=1)
        rows = features.weight[true] - features.weight[wrong]
        offset = 0.0 if features.bias is None else features.bias[true] - features.bias[wrong]
        value = features.value
        middle = (rows @ value.centre.unsqueeze(2)).squeeze(2) + offset
        bound = middle - (rows.abs() @ value.radius.unsqueeze(2)).squeeze(2)
        if value.ball is not None:
            clean = (rows @ value.ball.clean.unsqueeze(2)).squeeze(2) + offset
            reach = walk.region.epsilon[:, None] * torch.linalg.vector_norm(rows * value.ball.scale[:, None], dim=2)
            bound = torch.maximum(bound, clean - reach)
        return bound


def _linear_margins(logits: Value, labels: Tensor, wrong: Tensor) -> Tensor:
    """(N, S) from backward passes through the lines."""
    _images, classes = logits.centre.shape
    unit = torch.eye(classes, dtype=logits.centre.dtype, device=logits.centre.device)
    parts = [
        logits.walk.lower(logits, (unit[labels.long()][None] - unit[some.T]).contiguous())
        for some in torch.split(wrong, logits.walk.rows(), dim=1)
    ]
    return torch.cat(parts).T


def _usable(bound: Tensor) -> Tensor:
    """NaN (an overflow somewhere) bounds nothing."""
    return torch.where(bound.isnan(), -torch.inf, bound)
