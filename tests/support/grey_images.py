"""Networks on grey images of 4 x 4 pixels, and attacks made of a function: tests of the harness."""

import foolbox
import torch
from foolbox.attacks.base import FixedEpsilonAttack
from torch import nn

from robustnas.attack import predict
from robustnas.runtime.seeding import seeded


class Fixed(FixedEpsilonAttack):
    """An attack inside a ball made of a function of the images."""

    def __init__(self, change, norm="linf"):
        self.change = change
        self.norm = norm

    @property
    def distance(self):
        return getattr(foolbox.distances, self.norm)

    def run(self, model, inputs, criterion, *, epsilon, **kwargs):
        return self.change(inputs)


class Brightness(nn.Module):
    """Class 1 where the mean of the pixels is above a half."""

    def forward(self, images):
        bright = images.flatten(1).mean(1) - 0.5
        return torch.stack([-bright, bright], 1)


class Small(nn.Module):
    """A network with batch norm, dropout and a buffer that training would move."""

    def __init__(self, classes=3):
        super().__init__()
        with seeded(0, "small"):
            self.body = nn.Sequential(
                nn.Conv2d(1, 4, 3, padding=1),
                nn.BatchNorm2d(4),
                nn.ReLU(),
                nn.Flatten(),
                nn.Linear(64, classes),
            )

    def forward(self, images):
        return self.body(nn.functional.dropout(images - 0.5, 0.5, self.training))


def levels(*values):
    """One grey 4x4 image for each value."""
    return torch.tensor(values).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).clone()


def some(count=12):
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(count, 1, 4, 4, generator=generator)
    return images, predict(Small(), images)
