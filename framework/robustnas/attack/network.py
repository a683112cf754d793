"""The network as the harness sees it: frozen, in eval mode, in float32, on its device, its images counted."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from robustnas.attack.judge import TOLERANCE
from robustnas.attack.untouched import Untouched
from robustnas.contracts import Images
from robustnas.data.images import InMemory, on_device
from robustnas.data.order import in_order
from robustnas.errors import DataError, DeviceError, RunError
from robustnas.nn.read_only import read_only
from robustnas.runtime import interrupt
from robustnas.runtime.machine_faults import blaming, device_lost, out_of_memory
from robustnas.runtime.precision import float32_with_gradients
from robustnas.runtime.processes import ALONE, Processes
from robustnas.runtime.report import Report, silent
from robustnas.runtime.strangers import first_line


class Counted(nn.Module):
    """Wraps a network, counts the images that go through it, and blames the network for what it raises."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.training = False  # the wrapper has no other mode, and must not seem to
        self.network = network
        self.images = 0

    def forward(self, images: Tensor) -> Tensor:
        self.images += len(images)
        # otherwise the attack that called it would be blamed
        with blaming("the network", f"in its forward pass for images {tuple(images.shape)}"):
            logits: Tensor = self.network(images)
        return logits


class Expected(nn.Module):
    """Averages the logits of several passes, whose gradient an attack on a randomised network should follow.

    This is expectation over transformation (Athalye et al. 2018, arXiv:1707.07397, section 4.2).

    Args:
        network: (N, C, H, W) -> (N, K), other logits each time.
        passes: number of passes that are averaged.
    """

    def __init__(self, network: nn.Module, passes: int):
        super().__init__()
        self.training = False
        self.network = network
        self.passes = passes

    def forward(self, images: Tensor) -> Tensor:
        total: Tensor = self.network(images)
        for _ in range(1, self.passes):
            total = total + self.network(images)
        return total / self.passes


def device_of(network: nn.Module, device: torch.device | str | None) -> torch.device:
    """Find the device to work on; foolbox would move the network silently, so a contradiction is refused.

    Raises:
        DeviceError: the network lives elsewhere.
    """
    home = next((tensor.device for tensor in (*network.parameters(), *network.buffers())), None)
    if device is None:
        return home or torch.device("cpu")
    asked = torch.device(device)
    if home is not None and (home.type != asked.type or asked.index not in (None, home.index)):
        raise DeviceError(f"the network is on {home} and the images are wanted on {asked}; move the network first")
    return home or asked


def as_images(images: Images | Tensor, labels: Tensor | None) -> Images:
    """Take tensors as images in memory; shapes, types and the range of pixels are checked."""
    if isinstance(images, Tensor):
        none = torch.zeros(len(images), dtype=torch.int64)
        return InMemory(images.detach(), none if labels is None else labels.cpu())
    if labels is None:
        return images
    if labels.dtype != torch.int64 or labels.dim() != 1 or len(labels) > len(images.labels):
        raise DataError(
            f"labels must be int64, one for each of the first images of {len(images.labels)}; "
            f"found {labels.dtype} of shape {tuple(labels.shape)}"
        )
    return images


def take(images: Images, indices: Tensor, names: Tensor) -> Tensor:
    """Take a batch, certain to hold pixels in [0, 1].

    Args:
        images: N of them.
        indices: (n,) int64, which of them.
        names: (N,) int64, the numbers by which messages name images.

    Raises:
        DataError: a pixel lies outside, or is not a number; the message names the image.
    """
    batch = images.take(indices).float()
    outside = ~((batch >= -TOLERANCE) & (batch <= 1 + TOLERANCE)).flatten(1).all(dim=1)
    if bool(outside.any()):
        raise DataError(
            f"image {int(names[indices[int(outside.nonzero()[0])]])} has pixels outside [0, 1]: "
            "divide by the largest value of a pixel; normalisation belongs into the network"
        )
    return batch.clamp(0.0, 1.0)


def answers(network: nn.Module, images: Tensor, indices: Tensor) -> Tensor:
    """Predict the classes of a batch, (n, C, H, W) -> (n,) int64.

    Raises:
        RunError: logits are not finite; the message names the image.
    """
    with torch.no_grad():
        logits: Tensor = network(images)
    broken = ~logits.isfinite().all(dim=1)
    if bool(broken.any()):
        raise RunError(
            f"the network's logits for image {int(indices[int(broken.nonzero()[0])])} are not finite: "
            "its training may have diverged; a smaller learning rate would do"
        )
    return logits.argmax(dim=1)


def gradient_in_images(
    network: Callable[[Tensor], Tensor], images: Tensor, loss: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor | None, str]:
    """Compute logits, the gradient of their loss in the images, and, where there is no gradient, the reason.

    There is none where the network detaches its input, say, or answers with the place of a maximum.

    Args:
        network: (n, C, H, W) pixels -> (n, K) logits, frozen, with gradients on.
        images: (n, C, H, W).
        loss: (n, K) logits -> a scalar.
    """
    leaf = images.detach().clone().requires_grad_()
    logits = network(leaf)
    if logits.requires_grad:
        try:
            (gradient,) = torch.autograd.grad(loss(logits), leaf, allow_unused=True)
        except RuntimeError as fault:  # torch notices an operation without a derivative only in the backward pass
            if out_of_memory(fault) or device_lost(fault):
                raise
            return logits.detach(), None, first_line(fault)
        if gradient is not None:
            return logits.detach(), gradient.detach(), ""
    return logits.detach(), None, "the logits do not depend on the images differentiably"


def no_gradient(network: nn.Module, images: Tensor) -> str:
    """Say why the logits have no gradient in the images, (n, C, H, W); empty where they have one, be it 0."""
    return gradient_in_images(network, images, torch.sum)[2]


def own_batches(count: int, batch: int, processes: Processes) -> list[Tensor]:
    """Give the batches of this process; batches are the same for any number of processes, and so are random draws."""
    return in_order(count, batch)[processes.rank :: processes.size]


def predict(
    network: nn.Module,
    images: Images | Tensor,
    batch: int = 256,
    device: torch.device | str | None = None,
    processes: Processes = ALONE,
    report: Report = silent,
    places: Tensor | None = None,
) -> Tensor:
    """Give the network's answers, (N,) int64 on the CPU.

    Args:
        network: (N, C, H, W) pixels -> (N, K) logits; looked at in eval mode and left as it was.
        images: a tensor is (N, C, H, W), uint8 or float in [0, 1].
        batch: images at once.
        device: where the network lives; None takes the device of its weights.
        processes: the processes that share the batches; each returns all answers.
        report: is called after every batch.
        places: (N,) int64, the numbers by which messages name images; by default they are counted from 0.

    Raises:
        DataError: pixels outside [0, 1].
        RunError: logits that are not finite, or a network that changes itself.
    """
    device = device_of(network, device)
    source = on_device(as_images(images, None), device)
    count = len(source.labels)
    predictions = torch.zeros(count, dtype=torch.int64)
    names = torch.arange(count) if places is None else places

    def own() -> list[tuple[Tensor, Tensor]]:
        some, done = [], 0
        with Untouched.held([network]) as untouched, read_only(network), float32_with_gradients(device):
            for indices in own_batches(count, batch, processes):
                interrupt.check()
                some.append((indices, answers(network, take(source, indices, names), names[indices]).cpu()))
                untouched.check_itself()
                done += len(indices)
                report(min(done * processes.size, count), count, "image")
        return some

    for share in processes.run_together(own):
        for indices, classes in share:
            predictions[indices] = classes
    return predictions
