"""Small networks whose weights and images are formulas of integers, the same in every version of every library.

The networks of the reference values in `golden/`: what makes those values runs these, and so do the tests.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

CLASSES = 3


def numbers(count: int, start: int) -> Tensor:
    """(count,) float64 in [-0.5, 0.5): Knuth's multiplicative hash of start, start + 1, ..."""
    hashes = [(index * 2654435761 % 2**32) // 2**12 % 1000 for index in range(start, start + count)]
    return torch.tensor(hashes).double() / 1000 - 0.5


def filled(network: nn.Module) -> nn.Module:
    """Every weight from `numbers`, scaled by fan-in; running variances positive."""
    start = 1
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if not tensor.is_floating_point():
                continue
            values = numbers(tensor.numel(), start).view(tensor.shape)
            start += tensor.numel()
            if name.endswith("running_var"):
                values = values + 1.0
            elif tensor.dim() > 1:
                values = values * (12.0 / tensor[0].numel()) ** 0.5
            tensor.copy_(values)
    return network.double().eval()


class Residual(nn.Module):
    """Convolution, batch norm, ReLU, then a residual block with batch norm, average pooling, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3)
        self.inner, self.inner_norm = nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3)
        self.pool, self.head = nn.AvgPool2d(2), nn.Linear(3 * 4, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(images)))
        x = torch.relu(x + self.inner_norm(self.inner(x)))
        return self.head(self.pool(x).flatten(1))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (
        lambda: nn.Sequential(
            nn.Flatten(), nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, CLASSES)
        ),
        (1, 3, 4),
    ),
    "convolution": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12, CLASSES)
        ),
        (1, 4, 4),
    ),
    "residual": (Residual, (1, 4, 4)),
    "strided": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 2), nn.ReLU(), nn.Flatten(),
            nn.Linear(16, CLASSES),
        ),
        (2, 6, 6),
    ),
}  # fmt: skip
"""Name -> (what builds it, shape of an image)."""

EPSILONS = {"linf": (0.01, 0.08), "l2": (0.05, 0.25), "l1": (0.1, 0.3)}
"""Small enough that no pixel reaches 0 or 1: the reference knows no pixel box in l2 and l1."""


def network(name: str) -> nn.Module:
    return filled(NETWORKS[name][0]())


def images(name: str) -> Tensor:
    """Two images, (2, C, H, W) float64, pixels in [0.35, 0.65)."""
    shape = (2, *NETWORKS[name][1])
    count = int(torch.tensor(shape).prod())
    return 0.5 + 0.3 * numbers(count, 10_000).view(shape)


LABELS = (0, 2)
