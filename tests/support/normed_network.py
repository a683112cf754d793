"""A small network with both kinds of batch norm, and images for it."""

import torch
from torch import nn

KINDS = {
    "tracking": {},
    "no affine": {"affine": False},
    "cumulative": {"momentum": None},
    "untracked": {"track_running_stats": False},
    "untracked, no affine": {"track_running_stats": False, "affine": False},
}


def network(**options):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, **options), nn.ReLU(), nn.Flatten())
    return nn.Sequential(net, nn.Linear(4 * 4 * 4, 6), nn.BatchNorm1d(6)).double()


IMAGES = torch.rand(5, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
