"""Pixels on their way from where they are stored to float32 in [0, 1] on the device that computes."""

from __future__ import annotations

import torch
from torch import Tensor


def unit(pixels: Tensor) -> Tensor:
    """Pixels as float32 in [0, 1]: uint8 divided by 255, float as it is."""
    if pixels.dtype == torch.uint8:
        return pixels.float().div_(255.0)
    return pixels.float()


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """The same tensor on `device`, on its way there when this returns.

    A plain copy to a CUDA device waits until the device has done everything it was given before; one from pinned
    memory takes its place in that queue.
    """
    if tensor.device == device:
        return tensor
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
