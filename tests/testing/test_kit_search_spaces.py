"""Search spaces that break a promise are caught, each by the promise it breaks."""

from __future__ import annotations

import random

import pytest
import torch

from robustnas.testing import ConformanceError, check_search_space
from support.kept_promises import Chain, TinyDiscrete, TinyMixed


class LooseAlpha(Chain):
    """Alpha is a tensor beside the module."""

    def supernet(self, shape, classes):
        class Loose(TinyMixed):
            def __init__(self):
                super().__init__(shape[0], classes)
                self.beside = {"edges": torch.zeros(3, 2, requires_grad=True)}

            alpha = property(lambda self: self.beside)

        return Loose()


class IgnoresMixing(Chain):
    def supernet(self, shape, classes):
        class Deaf(TinyMixed):
            def forward(self, images, mixing=None):
                return super().forward(images)

        return Deaf(shape[0], classes)


class IgnoresAlpha(Chain):
    """One row of alpha never reaches the logits."""

    def supernet(self, shape, classes):
        class Blind(TinyMixed):
            def forward(self, images, mixing=None):
                weights = (self.mixing() if mixing is None else mixing)["edges"]
                fixed = torch.cat([weights[:1], torch.full((1, 2), 0.5), weights[2:]])
                return super().forward(images, {"edges": fixed})

        return Blind(shape[0], classes)


class NotNormalised(Chain):
    def supernet(self, shape, classes):
        class Sigmoid(TinyMixed):
            def mixing(self):
                return {"edges": self.edges.sigmoid()}

        return Sigmoid(shape[0], classes)


class TupleGenotype(Chain):
    def genotype(self, supernet):
        return {"ops": tuple(super().genotype(supernet)["ops"])}


class TensorGenotype(Chain):
    def genotype(self, supernet):
        return {"ops": supernet.mixing()["edges"].argmax(dim=1)}


class OneGenotype(Chain):
    def genotype(self, supernet):
        return {"ops": ["conv", "conv", "conv"]}


class ReadsInside(Chain):
    """Reads an attribute that a wrapped supernet does not have."""

    def genotype(self, supernet):
        return {"ops": [["conv", "pool"][i] for i in supernet.edges.argmax(dim=1).tolist()]}


class WrongClasses(Chain):
    def supernet(self, shape, classes):
        return TinyMixed(shape[0], classes + 1)


class GreyOnly(Chain):
    def supernet(self, shape, classes):
        return TinyMixed(1, classes)


class Unseeded(Chain):
    def network(self, genotype, shape, classes, auxiliary=False):
        network = super().network(genotype, shape, classes, auxiliary)
        with torch.no_grad():
            network.head.bias.fill_(random.random())
        return network


class TakesAnything(Chain):
    def network(self, genotype, shape, classes, auxiliary=False):
        return super().network(genotype if "ops" in genotype else {"ops": ["conv"]}, shape, classes, auxiliary)


class BatchCentred(Chain):
    def network(self, genotype, shape, classes, auxiliary=False):
        class Centred(TinyDiscrete):
            def forward(self, images):
                return super().forward(images - images.mean(dim=0, keepdim=True))

        network = super().network(genotype, shape, classes, auxiliary)
        network.__class__ = Centred
        return network


class DropsInEval(Chain):
    def network(self, genotype, shape, classes, auxiliary=False):
        class Drops(TinyDiscrete):
            def forward(self, images):
                return super().forward(images) * (1 - self.drop_path)

        network = super().network(genotype, shape, classes, auxiliary)
        network.__class__ = Drops
        return network


class DropPathIgnored(Chain):
    def network(self, genotype, shape, classes, auxiliary=False):
        class Steady(TinyDiscrete):
            def forward(self, images):
                kept, self.drop_path = self.drop_path, 0.0
                logits = super().forward(images)
                self.drop_path = kept
                return logits

        network = super().network(genotype, shape, classes, auxiliary)
        network.__class__ = Steady
        return network


class FalseHead(Chain):
    """Accepts the option and builds no head."""

    def network(self, genotype, shape, classes, auxiliary=False):
        return super().network(genotype, shape, classes)


class NoRule(Chain):
    """An operation that no bound rule covers."""

    def supernet(self, shape, classes):
        class Odd(TinyMixed):
            def forward(self, images, mixing=None):
                return torch.erfinv(super().forward(images, mixing).tanh() / 2)

        return Odd(shape[0], classes)


class StalePublished(Chain):
    published = {"old": {"operations": []}}  # noqa: RUF012


@pytest.mark.parametrize(
    ("plugin", "promise"),
    [
        (LooseAlpha, "alpha is made of parameters of the supernet"),
        (IgnoresMixing, "the argument mixing stands in"),
        (IgnoresAlpha, "alpha reaches the logits"),
        (NotNormalised, r"rows of mixing\(\)"),
        (TupleGenotype, "JSON keeps"),
        (TensorGenotype, "JSON keeps"),
        (OneGenotype, r"what mixing\(\) stands for"),
        (ReadsInside, "one-hot mixing gives a genotype"),
        (WrongClasses, r"logits \(N, K\)"),
        (GreyOnly, r"logits \(N, K\)"),
        (Unseeded, "the network is the same when torch's seed is the same"),
        (TakesAnything, "refuses a genotype that is not of this space"),
        (BatchCentred, "in eval mode the network treats each image alone"),
        (DropsInEval, "drop_path acts in training mode only"),
        (DropPathIgnored, "drop_path drops paths"),
        (FalseHead, "has with_auxiliary"),
        (NoRule, "bounds cover every operation of the supernet"),
        (StalePublished, "the published genotype 'old' builds"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_wrong_search_space_is_caught(plugin, promise):
    with pytest.raises(ConformanceError, match=promise):
        check_search_space(plugin)


def test_an_auxiliary_head_that_is_asked_for_must_be_there():
    with pytest.raises(ConformanceError, match="has an auxiliary head"):
        check_search_space(Chain(), auxiliary=True)
