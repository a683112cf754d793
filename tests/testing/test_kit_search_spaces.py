"""Search spaces that break a promise are caught, each by the promise it breaks."""

from __future__ import annotations

import random
import time
from itertools import count, product

import pytest
import torch
from attrs import evolve, frozen

from robustnas.genotype.reference import Reference
from robustnas.testing import ConformanceError, check_search_space, optional_members
from support.kept_promises import Chain, TinyDiscrete, TinyMixed, wrong


def mixed(**parts):
    """A space whose supernet has other methods."""
    supernet = wrong(TinyMixed, **parts)
    return wrong(Chain, supernet=lambda self, shape, classes: supernet(shape[0], classes))


def discrete(forward):
    """A space whose networks compute something else."""

    def network(self, genotype, shape, classes, auxiliary=False):
        made = Chain.network(self, genotype, shape, classes, auxiliary)
        made.__class__ = wrong(TinyDiscrete, forward=forward)
        return made

    return wrong(Chain, network=network)


def deciding(genotype):
    """A space whose supernets stand for another genotype."""
    return wrong(Chain, genotype=lambda self, supernet: {"ops": genotype(supernet)})


class LooseAlpha(Chain):
    """Alpha is a tensor beside the module."""

    def supernet(self, shape, classes):
        loose = wrong(TinyMixed, alpha=property(lambda self: self.beside))(shape[0], classes)
        loose.beside = {"edges": torch.zeros(3, 2, requires_grad=True)}
        return loose


def blind(self, images, mixing=None):
    """One row of alpha never reaches the logits."""
    weights = (self.mixing() if mixing is None else mixing)["edges"]
    fixed = torch.cat([weights[:1], torch.full((1, 2), 0.5), weights[2:]])
    return TinyMixed.forward(self, images, {"edges": fixed})


def without_a_rule(self, images, mixing=None):
    """An operation that no bound rule covers."""
    return torch.erfinv(TinyMixed.forward(self, images, mixing).tanh() / 2)


class Unseeded(Chain):
    def network(self, genotype, shape, classes, auxiliary=False):
        network = super().network(genotype, shape, classes, auxiliary)
        with torch.no_grad():
            network.head.bias.fill_(random.random())
        return network


class TakesAnything(Chain):
    def network(self, genotype, shape, classes, auxiliary=False):
        return super().network(genotype if "ops" in genotype else {"ops": ["conv"]}, shape, classes, auxiliary)


class FalseHead(Chain):
    """Accepts the option and builds no head."""

    def network(self, genotype, shape, classes, auxiliary=False):
        return super().network(genotype, shape, classes)


def steady(self, images):
    """Ignores drop-path."""
    kept, self.drop_path = self.drop_path, 0.0
    logits = TinyDiscrete.forward(self, images)
    self.drop_path = kept
    return logits


WRONG = {
    "loose alpha": (LooseAlpha, "alpha is made of parameters of the supernet"),
    "ignores mixing": (
        mixed(forward=lambda self, images, mixing=None: TinyMixed.forward(self, images)),
        "the argument mixing stands in",
    ),
    "ignores alpha": (mixed(forward=blind), "alpha reaches the logits"),
    "not normalised": (mixed(mixing=lambda self: {"edges": self.edges.sigmoid()}), r"rows of mixing\(\)"),
    "tuple": (deciding(lambda supernet: tuple(Chain().genotype(supernet)["ops"])), "JSON keeps"),
    "tensor": (deciding(lambda supernet: supernet.mixing()["edges"].argmax(dim=1)), "JSON keeps"),
    "one genotype": (deciding(lambda supernet: ["conv"] * 3), r"what mixing\(\) stands for"),
    # `edges` is an attribute that a wrapped supernet does not have
    "reads inside": (
        deciding(lambda supernet: [["conv", "pool"][i] for i in supernet.edges.argmax(dim=1).tolist()]),
        "one-hot mixing gives a genotype",
    ),
    "wrong classes": (
        wrong(Chain, supernet=lambda self, shape, classes: TinyMixed(shape[0], classes + 1)),
        r"logits \(N, K\)",
    ),
    "grey only": (wrong(Chain, supernet=lambda self, shape, classes: TinyMixed(1, classes)), r"logits \(N, K\)"),
    "unseeded": (Unseeded, "the network is the same when torch's seed is the same"),
    "takes anything": (TakesAnything, "refuses a genotype that is not of this space"),
    "centred": (
        discrete(lambda self, images: TinyDiscrete.forward(self, images - images.mean(dim=0, keepdim=True))),
        "in eval mode the network treats each image alone",
    ),
    "drops in eval mode": (
        discrete(lambda self, images: TinyDiscrete.forward(self, images) * (1 - self.drop_path)),
        "drop_path acts in training mode only",
    ),
    "ignores drop-path": (discrete(steady), "drop_path drops paths"),
    "false head": (FalseHead, "has with_auxiliary"),
    "no rule": (mixed(forward=without_a_rule), "bounds cover every operation of the supernet"),
    "stale": (
        wrong(Chain, published={"old": {"operations": []}}),
        r"published holds a genotype that builds\n.*\(old\)",
    ),
    "stray reference": (
        wrong(Chain, references={"old": Reference("a paper")}),
        "references are of published genotypes",
    ),
    "reference in words": (
        wrong(Chain, references={"old": "a paper"}),
        "references is a mapping of names to References",
    ),
}


def drawing(draw):
    """A space whose sampler draws three numbers in another way."""
    return wrong(Chain, sample=lambda self, generator: {"ops": [OPS[number] for number in draw(generator)]})


def listing(*lists):
    """A space that lists other genotypes: the first list at the first call, and so on."""
    calls = count()
    return wrong(Chain, genotypes=lambda self: iter([{"ops": list(ops)} for ops in lists[next(calls) % len(lists)]]))


OPS = ("conv", "pool")
EVERY = list(product(OPS, repeat=3))
WRONG_GENOTYPES = {
    "draws what cannot be built": (
        wrong(Chain, sample=lambda self, generator: {"places": int(torch.randint(2, (), generator=generator))}),
        "sample draws a genotype that builds",
    ),
    "draws from torch": (drawing(lambda generator: torch.randint(2, (3,)).tolist()), "leaves the global generators"),
    "draws from Python": (drawing(lambda generator: random.choices((0, 1), k=3)), "leaves the global generators"),
    "draws the time": (
        drawing(lambda generator: [(time.perf_counter_ns() >> bit) % 2 for bit in range(3)]),
        "the generator alone decides",
    ),
    "draws one": (drawing(lambda generator: (0, 1, 0)), "sample draws with the generator"),
    "draws tensors": (
        wrong(Chain, sample=lambda self, generator: {"ops": torch.randint(2, (3,), generator=generator)}),
        "sample draws a genotype that is plain data",
    ),
    "lists none": (listing([]), "lists the genotypes of the space"),
    "lists twice": (listing([*EVERY, EVERY[0]]), "lists each genotype once"),
    "lists in turns": (listing(EVERY, EVERY[::-1]), "lists them in one order"),
    "lists some": (listing(EVERY[:2]), "lists what sample draws"),
    "lists without end": (
        wrong(Chain, genotypes=lambda self: ({"ops": [str(n)]} for n in count())),
        "so many that one can go through them",
    ),
}


def pathed(change):
    """A space whose paths are made of those that keep their promises."""
    return wrong(Chain, path=lambda self, genotype: change(Chain().path(genotype)))


def skipping(self, images, mixing=None):
    """A supernet that computes something else where it is told the columns."""
    return TinyMixed.forward(self, images * (not hasattr(mixing, "columns")), mixing)


WRONG_PATHS = {
    "a path of other names": (pathed(lambda path: {"normal": path["edges"]}), "by the names and shapes of alpha"),
    "an index": (pathed(lambda path: {"edges": path["edges"].argmax(1)}), "by the names and shapes of alpha"),
    "two operations": (pathed(lambda path: {"edges": torch.full((3, 2), 0.5)}), "gives one-hot rows"),
    "a random path": (
        pathed(lambda path: {"edges": path["edges"][torch.randperm(3)]}),
        "depends on its genotype alone",
    ),
    "another path": (pathed(lambda path: {"edges": path["edges"].flip(1)}), "path stands for its genotype"),
    "other columns": (mixed(forward=skipping), "path serves the supernet as columns"),
}


def decided(counts, decide):
    """A space whose genotypes are decisions."""
    return wrong(Chain, decisions=counts, decide=lambda self, options: {"ops": decide(options)})


def named(options):
    """One of two operations for each option."""
    return [OPS[number] for number in options]


WRONG_DECISIONS = {
    "decisions that are none": (decided((), named), "holds the number of options of each decision"),
    "too many options": (decided((2, 2, 3), named), "decide makes a genotype of one option a decision"),
    "decides what cannot be built": (
        wrong(Chain, decisions=(2, 2), decide=lambda self, options: {"places": options[0]}),
        "decide makes a genotype that builds",
    ),
    "a decision that counts for nothing": (
        decided((2, 2, 2), lambda options: named((0, *options[1:]))),
        "decide makes another genotype of another option",
    ),
    "decides by chance": (
        decided((2, 2, 2), lambda options: named(torch.randint(2, (3,)).tolist())),
        "decide depends on the options alone",
    ),
}


def test_a_space_whose_genotypes_are_decisions():
    tried = check_search_space(decided((2, 2, 2), named), shapes=[(1, 8, 8)])
    assert "decide makes another genotype of another option" in tried


@frozen
class Sized(Chain):
    """Networks of several widths; `step` and `lost` are how it goes wrong."""

    channels: int = 4
    cells: int = 3
    step: int = 0
    lost: bool = False
    least: int = 1

    @property
    def size(self):
        return self.channels, self.cells

    def sized(self, channels, cells):
        if channels < self.least:
            raise ValueError(f"{channels} channels")
        return evolve(self, channels=channels + self.step, cells=cells)

    def network(self, genotype, shape, classes, auxiliary=False):
        return super().network(genotype, shape, classes, auxiliary, 4 if self.lost else self.channels)


WRONG_SIZES = {
    "another size": (Sized(step=1), "sized gives the size that is asked for"),
    "one size": (Sized(lost=True), "weights rise with channels"),
    "no channels": (Sized(least=0), "sized refuses 0 channels"),
    "size of one number": (wrong(Sized, size=4), "size is the channels and the cells"),
}


def test_a_space_whose_networks_come_in_sizes():
    check_search_space(Sized(), shapes=[(1, 8, 8)])


@pytest.mark.parametrize("what", [*WRONG, *WRONG_GENOTYPES, *WRONG_SIZES, *WRONG_PATHS, *WRONG_DECISIONS])
def test_a_wrong_search_space_is_caught(what, monkeypatch):
    monkeypatch.setattr(optional_members, "MOST", 1000)
    plugin, promise = {**WRONG, **WRONG_GENOTYPES, **WRONG_SIZES, **WRONG_PATHS, **WRONG_DECISIONS}[what]
    with pytest.raises(ConformanceError, match=promise):
        check_search_space(plugin, shapes=((1, 8, 8),) if what != "grey only" else ((3, 8, 8),), methods=("ibp",))


def test_a_space_need_not_draw_or_list_or_have_paths():
    check_search_space(wrong(Chain, sample=None, genotypes=None, path=None), shapes=[(1, 8, 8)])


def test_an_auxiliary_head_that_is_asked_for_must_be_there():
    with pytest.raises(ConformanceError, match="has an auxiliary head"):
        check_search_space(Chain(), auxiliary=True)
