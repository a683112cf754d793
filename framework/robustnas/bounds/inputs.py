"""Checks what a bound is asked with, before any pass: network, images, labels, norm, method and targets."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustnas.bounds.methods import METHODS, BoundMethod, Branching, bound_method
from robustnas.bounds.propagation import Network
from robustnas.errors import InputError, UnsupportedOpError
from robustnas.nn.wrappers import unwrapped
from robustnas.threat import NORMS

TARGETS = ("all", "strongest")


def checked(network: Network, images: Tensor, norm: str, method: str | BoundMethod) -> BoundMethod:
    """Check network and images, and return the method as an object."""
    method = bound_method(method)
    if norm not in NORMS:
        raise InputError(f"norm {norm!r} is unknown; known are {', '.join(NORMS)}")
    if images.dim() < 2 or images.numel() == 0:
        raise InputError(f"images have shape {tuple(images.shape)}; expected (N, C, H, W) with at least one image")
    if images.dtype not in (torch.float32, torch.float64):
        raise InputError(f"images are {images.dtype}; bounds need float32 or float64 in [0, 1]")
    if not bool(((images >= 0) & (images <= 1)).all()):
        low, high = float(images.detach().min()), float(images.detach().max())
        raise InputError(f"images reach from {low:g} to {high:g}; expected [0, 1] (normalisation is the network's job)")
    if isinstance(network, nn.Module):
        for name, module in unwrapped(network).named_modules():
            if module.training:
                raise UnsupportedOpError(
                    f"{name or 'the network'} ({type(module).__name__}) is in training mode, in which batch "
                    "norm mixes images and dropout draws; call network.eval() first"
                )
        for name, held in (*network.named_parameters(), *network.named_buffers()):
            if held.is_floating_point() and held.dtype != images.dtype:
                raise InputError(
                    f"images are {images.dtype} and the network's {name} is {held.dtype}; bounds need float32 or "
                    "float64 for both: network.float() or images.double(), say"
                )
    return method


def of_functions(method: BoundMethod) -> BoundMethod:
    """Refuse a method that verifies margins where bounds of linear functions are asked for."""
    if isinstance(method, Branching):
        raise InputError(f"method {method.name} verifies margins; for this, {', '.join(METHODS)} would do")
    return method


def check_labels(images: Tensor, labels: Tensor, targets: str) -> None:
    """Check targets, and that labels, (N,), are whole numbers that may be classes."""
    if targets not in TARGETS:
        raise InputError(f"targets {targets!r} is unknown; known are {', '.join(TARGETS)}")
    if labels.shape != images.shape[:1] or labels.dtype.is_floating_point or labels.dtype == torch.bool:
        found = f"labels have shape {tuple(labels.shape)} and type {labels.dtype}"
        raise InputError(f"{found}; expected ({images.shape[0]},) integers")
    if int(labels.min()) < 0:
        raise InputError(f"label {int(labels.min())} is negative; labels are 0 to K - 1")
