"""The conformance kit, held to its own promise: wrong plugins are caught, each by the promise it breaks."""

from __future__ import annotations

import contextlib
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from attrs import field, frozen
from torch import nn

from robustnas.errors import DataError, InputError, OptionError
from robustnas.testing import ConformanceError, check_attack, check_dataset, check_metric, check_search_space
from robustnas.testing.networks import TinySupernet, fit, tiny_images, tiny_network
from test_kit_attacks import Sign

# --- plugins that keep their promises: the wrong ones below are these with one thing changed


@frozen
class Slope:
    """Minus the l_1 norm of the loss gradient, as a share of the largest perturbation's effect."""

    def score(self, network, images, labels, threat):
        with torch.enable_grad():
            pixels = images.detach().clone().requires_grad_(True)
            loss = F.cross_entropy(network(pixels), labels, reduction="sum")
            (slope,) = torch.autograd.grad(loss, pixels, create_graph=True)
        return -threat.epsilon * slope.flatten(1).abs().sum(dim=1)


@frozen
class Noisy:
    """Gaussian noise on the images of the inner level."""

    sigma: float = 0.1

    def inner_loss(self, supernet, images, labels, threat, context):
        noise = torch.randn(images.shape, generator=context.generator)
        return context.loss(supernet(images + self.sigma * context.progress * noise), labels)


@frozen
class Doubled:
    """An outer loss of its own."""

    def outer_loss(self, supernet, images, labels, threat, context):
        return 2 * context.loss(supernet(images), labels)


class Held:
    """Images in memory."""

    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def take(self, indices):
        return self.images[indices]


@frozen
class Stripes:
    """Sixty drawn images, three classes."""

    shape = (1, 6, 6)
    classes = 3
    mean = (0.5,)
    std = (0.2,)

    def split(self, name):
        if name not in ("train", "test"):
            raise DataError(f"no split {name!r}; there are train and test")
        draw = torch.Generator().manual_seed(len(name))
        return Held(torch.rand(30, *self.shape, generator=draw), torch.arange(30) % 3)


class TinyDiscrete(nn.Module):
    """The network of one choice an edge."""

    drop_path = 0.0

    def __init__(self, ops, channels, classes):
        super().__init__()
        self.stem = nn.Conv2d(channels, 4, 3, padding=1)
        self.convolutions = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in ops)
        self.ops = ops
        self.head = nn.Linear(4, classes)

    def forward(self, images):
        features = self.stem(images).relu()
        for op, convolution in zip(self.ops, self.convolutions, strict=True):
            path = convolution(features).relu() if op == "conv" else F.avg_pool2d(features, 3, 1, 1)
            if self.training and self.drop_path > 0:
                path = path * (torch.rand(len(images), 1, 1, 1) > self.drop_path) / (1 - self.drop_path)
            features = features + path
        return self.head(features.mean(dim=(2, 3)))


class TinyMixed(nn.Module):
    """Both choices of each of three edges, mixed."""

    def __init__(self, channels, classes):
        super().__init__()
        self.stem = nn.Conv2d(channels, 4, 3, padding=1)
        self.convolutions = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))
        self.head = nn.Linear(4, classes)
        self.edges = nn.Parameter(0.1 * torch.randn(3, 2))

    @property
    def alpha(self):
        return {"edges": self.edges}

    def mixing(self):
        return {name: one.softmax(dim=1) for name, one in self.alpha.items()}

    def forward(self, images, mixing=None):
        weights = (self.mixing() if mixing is None else mixing)["edges"]
        features = self.stem(images).relu()
        for edge, convolution in enumerate(self.convolutions):
            features = (
                features
                + weights[edge, 0] * convolution(features).relu()
                + weights[edge, 1] * F.avg_pool2d(features, 3, 1, 1)
            )
        return self.head(features.mean(dim=(2, 3)))


@frozen
class Chain:
    """Three edges in a row: convolution or pooling."""

    published = {"all-conv": {"ops": ["conv", "conv", "conv"]}}  # noqa: RUF012

    def supernet(self, shape, classes):
        return TinyMixed(shape[0], classes)

    def genotype(self, supernet):
        return {"ops": [["conv", "pool"][i] for i in supernet.mixing()["edges"].argmax(dim=1).tolist()]}

    def network(self, genotype, shape, classes, auxiliary=False):
        if genotype.keys() != {"ops"}:
            raise InputError(f"not a chain: {genotype}")
        if auxiliary:
            raise InputError("a chain has no auxiliary head")
        return TinyDiscrete(genotype["ops"], shape[0], classes)


@pytest.mark.parametrize("plugin", [Slope(), Slope, Noisy, Doubled], ids=str)
def test_metrics_that_keep_their_promises_pass(plugin):
    check_metric(plugin)


def test_a_dataset_that_keeps_its_promises_passes():
    check_dataset(Stripes())


def test_a_search_space_that_keeps_its_promises_passes():
    check_search_space(Chain(), auxiliary=False)


# --- metrics that do not


class WrongSign(Slope):
    def score(self, network, images, labels, threat):
        return -super().score(network, images, labels, threat)


class BatchDependent(Slope):
    def score(self, network, images, labels, threat):
        score = super().score(network, images, labels, threat)
        return score - score[0]


class BatchMean(Slope):
    def score(self, network, images, labels, threat):
        return super().score(network, images, labels, threat) / len(images)


class SampledBatchDependent(Slope):
    """Draws at random, so it cannot be compared with single images; depends on the batch all the same."""

    def score(self, network, images, labels, threat):
        score = super().score(network, images, labels, threat)
        return score * torch.rand(len(score)) - score.mean()


class Detached(Slope):
    def score(self, network, images, labels, threat):
        return super().score(network, images, labels, threat).detach()


class WeightsOnly(Slope):
    """Blind to the mixing weights' gradient although its value depends on them."""

    def score(self, network, images, labels, threat):
        if not hasattr(network, "alpha"):
            return super().score(network, images, labels, threat)
        mixing = {name: one.detach() for name, one in network.mixing().items()}
        return super().score(lambda pixels: network(pixels, mixing), images, labels, threat)


class Constant(Slope):
    def score(self, network, images, labels, threat):
        return torch.ones(len(images))


class Trains(Slope):
    def score(self, network, images, labels, threat):
        score = super().score(network, images, labels, threat)
        network.train()
        return score


class MovesStatistics(Slope):
    def score(self, network, images, labels, threat):
        score = super().score(network, images, labels, threat)
        network.train()
        with torch.no_grad():
            network(images)
        network.eval()
        return score


class Accumulates(Slope):
    def score(self, network, images, labels, threat):
        F.cross_entropy(network(images), labels).backward()
        return super().score(network, images, labels, threat)


class ClearsGradients(Slope):
    def score(self, network, images, labels, threat):
        network.zero_grad(set_to_none=True)
        return super().score(network, images, labels, threat)


class Freezes(Slope):
    def score(self, network, images, labels, threat):
        score = super().score(network, images, labels, threat)
        next(network.parameters()).requires_grad_(False)
        return score


class Hooked(Slope):
    def score(self, network, images, labels, threat):
        network.register_forward_hook(lambda *_: None)
        return super().score(network, images, labels, threat)


class NotANumber(Slope):
    def score(self, network, images, labels, threat):
        return super().score(network, images, labels, threat) * float("nan")


class Scalar(Slope):
    def score(self, network, images, labels, threat):
        return super().score(network, images, labels, threat).mean()


class UnseededDraw(Slope):
    def score(self, network, images, labels, threat):
        return super().score(network, images, labels, threat) * (1 + random.random())


class DirtiesImages(Slope):
    def score(self, network, images, labels, threat):
        score = super().score(network, images, labels, threat)
        images.add_(0.1)
        return score


class LinfOnly(Slope):
    def score(self, network, images, labels, threat):
        if threat.norm != "linf":
            raise OptionError("linf only")
        return super().score(network, images, labels, threat)


@frozen
class NoMethod:
    """Has none of the three."""


@frozen
class NeedsOption:
    """Cannot be made with defaults."""

    steps: int = field()


class VectorLoss(Noisy):
    def inner_loss(self, supernet, images, labels, threat, context):
        return F.cross_entropy(supernet(images), labels, reduction="none")


class OwnNoise(Noisy):
    def inner_loss(self, supernet, images, labels, threat, context):
        noise = torch.from_numpy(np.random.randn(*images.shape).astype(np.float32))
        return context.loss(supernet(images + 0.1 * noise), labels)


class LeavesEval(Noisy):
    def inner_loss(self, supernet, images, labels, threat, context):
        supernet.eval()
        return super().inner_loss(supernet, images, labels, threat, context)


class LeavesAlphaMoved(Noisy):
    def inner_loss(self, supernet, images, labels, threat, context):
        with torch.no_grad():
            supernet.alpha["edges"].add_(0.1)
        return super().inner_loss(supernet, images, labels, threat, context)


class ReplacesAlpha(Noisy):
    def inner_loss(self, supernet, images, labels, threat, context):
        supernet.edges = nn.Parameter(supernet.edges.detach().clone())
        return super().inner_loss(supernet, images, labels, threat, context)


class OuterGradients(Doubled):
    def outer_loss(self, supernet, images, labels, threat, context):
        context.loss(supernet(images), labels).backward()
        return super().outer_loss(supernet, images, labels, threat, context)


class BlindToAlpha(Doubled):
    def outer_loss(self, supernet, images, labels, threat, context):
        mixing = {name: one.detach() for name, one in supernet.mixing().items()}
        return context.loss(supernet(images, mixing), labels)


class Answers(Slope):
    def check(self, shape, classes, threat):
        return classes > 1


class Refuses(Slope):
    def check(self, shape, classes, threat):
        if shape[0] != 3:
            raise OptionError("colour images only")


@pytest.mark.parametrize(
    ("plugin", "promise"),
    [
        (WrongSign, "score does not grow with epsilon"),
        (BatchDependent, "depends on that image alone"),
        (BatchMean, "depends on that image alone"),
        (SampledBatchDependent, "depends on that image alone"),
        (Detached, "score is differentiable in the weights"),
        (WeightsOnly, "score is differentiable in alpha"),
        (Constant, "depends on the network's weights or on alpha"),
        (Trains, "leaves the mode of the network"),
        (MovesStatistics, "leaves the buffers of the network"),
        (Accumulates, "leaves the gradients of the network"),
        (ClearsGradients, "leaves the gradients of the network"),
        (Freezes, "leaves requires_grad of the network"),
        (Hooked, "leaves the hooks of the network"),
        (NotANumber, "score is finite"),
        (Scalar, r"shape \(N,\)"),
        (UnseededDraw, "score is repeatable"),
        (DirtiesImages, "score leaves the images"),
        (LinfOnly, "score works for a supernet under l2"),
        (NoMethod, "at least one of score, inner_loss, outer_loss"),
        (NeedsOption, "is made with default options"),
        (VectorLoss, "inner_loss is a scalar"),
        (OwnNoise, "same value when the generator is in the same state"),
        (LeavesEval, "leaves the mode of the supernet"),
        (LeavesAlphaMoved, "leaves the weights of the supernet"),
        (ReplacesAlpha, "leaves the identity of the weights of the supernet"),
        (OuterGradients, "leaves the gradients of the supernet"),
        (BlindToAlpha, "outer_loss is differentiable in alpha"),
        (Answers, "check returns nothing"),
        (Refuses, r"check lets pass images .*\n.* give it options and norms that suit"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_wrong_metric_is_caught(plugin, promise):
    with pytest.raises(ConformanceError, match=promise) as caught:
        check_metric(plugin)
    assert plugin.__name__ in str(caught.value)


def test_a_metric_of_one_norm_says_so():
    check_metric(LinfOnly(), norms=("linf",))


# --- datasets


class LabelK(Stripes):
    def split(self, name):
        held = super().split(name)
        return Held(held.images, held.labels + 1)


class Bytes(Stripes):
    def split(self, name):
        held = super().split(name)
        return Held(held.images * 255, held.labels)


class Overlapping(Stripes):
    def split(self, name):
        held = super().split(name)
        if name == "test":
            held.images[7] = super().split("train").images[3]
        return held


class OtherShape(Stripes):
    shape = (3, 6, 6)
    mean = (0.5, 0.5, 0.5)
    std = (0.2, 0.2, 0.2)

    def split(self, name):
        held = super().split(name)
        return Held(held.images[:, :1], held.labels)


class MeanInBytes(Stripes):
    mean = (127.5,)


class OneStd(Stripes):
    std = (0.2, 0.2, 0.2)


class NeverTheSame(Stripes):
    def split(self, name):
        held = super().split(name)
        return Held(torch.rand_like(held.images), held.labels)


class AnySplit(Stripes):
    def split(self, name):
        return super().split("train" if name != "test" else name)


class Doubles(Stripes):
    def split(self, name):
        held = super().split(name)
        return Held(held.images.double(), held.labels)


class FloatLabels(Stripes):
    def split(self, name):
        held = super().split(name)
        return Held(held.images, held.labels.float())


class Unordered(Stripes):
    def split(self, name):
        held = super().split(name)

        class Sorted(Held):
            def take(self, indices):
                return super().take(indices.sort().values)

        return Sorted(held.images, held.labels)


class MissingClass(Stripes):
    classes = 4


class NumberedContents(Stripes):
    contents = 7


class OneSize(Stripes):
    def training_images(self, side):
        return self.split("train")


class OtherOrder(Stripes):
    def training_images(self, side):
        held = self.split("train")
        return Held(torch.nn.functional.interpolate(held.images, (side, side)), held.labels.roll(1))


class Empty(Stripes):
    def split(self, name):
        held = super().split(name)
        return Held(held.images[:0], held.labels[:0])


@pytest.mark.parametrize(
    ("plugin", "promise"),
    [
        (LabelK, "labels are 0 to K - 1"),
        (Bytes, r"images are in \[0, 1\]"),
        (Overlapping, "splits are disjoint"),
        (OtherShape, "declared shape"),
        (MeanInBytes, "mean is in pixel units"),
        (OneStd, "std has a finite number for each"),
        (NeverTheSame, "same order every time"),
        (AnySplit, "refuses an unknown split"),
        (Doubles, "images are float32"),
        (FloatLabels, "labels are int64"),
        (Unordered, "order of the indices"),
        (MissingClass, "every class has a training image"),
        (Empty, "has images"),
        (NumberedContents, "contents is a str"),
        (OneSize, r"training_images\(7\) have shape \(n, 1, 7, 7\)"),
        (OtherOrder, r"training_images are those of split\('train'\) in the same order"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_wrong_dataset_is_caught(plugin, promise):
    with pytest.raises(ConformanceError, match=promise):
        check_dataset(plugin)


def test_a_dataset_known_to_have_duplicates_says_so():
    check_dataset(Overlapping(), duplicates=True)


# --- search spaces


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


# --- the kit itself


@pytest.mark.parametrize(
    ("check", "plugin"),
    [(check_metric, Slope), (check_attack, Sign), (check_dataset, Stripes), (check_search_space, Chain),
     (check_metric, UnseededDraw), (check_metric, OwnNoise), (check_dataset, NeverTheSame)],
    ids=["metric", "attack", "dataset", "search-space", "wrong-metric", "wrong-loss", "wrong-dataset"],
)  # fmt: skip
def test_the_global_generators_are_left_as_found(check, plugin):
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    with contextlib.suppress(ConformanceError):
        check(plugin)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.random.get_state()[1].tolist() == before[2]


def test_a_finding_is_an_assertion_with_its_parts():
    with pytest.raises(AssertionError) as caught:
        check_metric(WrongSign())
    fault = caught.value
    assert isinstance(fault, ConformanceError)
    assert fault.plugin == "WrongSign"
    assert fault.promise in str(fault)
    assert fault.found in str(fault)


def test_what_a_plugin_raised_is_the_cause():
    with pytest.raises(ConformanceError, match="OptionError: linf only") as caught:
        check_metric(LinfOnly())
    assert isinstance(caught.value.__cause__, OptionError)


def test_the_kit_needs_no_test_runner():
    import sys
    from pathlib import Path

    import robustnas.testing

    files = list(Path(robustnas.testing.__file__).parent.glob("*.py"))
    assert len(files) >= 6
    assert "pytest" in sys.modules  # this test would be empty in another runner
    for file in files:
        assert "pytest" not in file.read_text(encoding="utf-8"), file


def test_the_tiny_images_can_be_learned_and_are_about_one_apart():
    torch.manual_seed(0)
    images, labels = tiny_images(60)
    network = tiny_network()
    fit(network, images, labels, steps=150)
    assert (network(images).argmax(1) == labels).float().mean() > 0.9
    assert images.min() >= 0
    assert images.max() <= 1
    centres = torch.stack([images[labels == k].mean(0).flatten() for k in range(3)])
    assert 1.0 < torch.cdist(centres, centres)[0, 1] < 1.6


def test_the_tiny_supernet_mixes_with_what_it_is_given():
    supernet = TinySupernet().eval()
    images, _ = tiny_images(4)
    nothing = {"edges": torch.eye(4)[[3, 3]]}
    assert torch.allclose(supernet(images, nothing), supernet.head.bias.expand(4, -1))
    assert torch.equal(supernet(images, supernet.mixing()), supernet(images))
