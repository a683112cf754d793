"""The conformance kit on attacks: wrong ones are caught, each by the promise it breaks."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from attrs import evolve, frozen
from foolbox.attacks import L1FastGradientAttack, L2FastGradientAttack, LinfFastGradientAttack
from torch import nn

from robustnas.attack.foolbox_attack import BallAttack, Corruption, Each, InTurn, fooled
from robustnas.attack.per_image_random import PerImageRandom
from robustnas.errors import OptionError
from robustnas.testing import ConformanceError, check_attack
from support.kept_promises import wrong

# --- attacks that keep their promises: the wrong ones below are these with one thing changed


@frozen
class Sign:
    """The fast gradient method, whatever the norm."""

    def build(self, threat):
        return {"linf": LinfFastGradientAttack, "l2": L2FastGradientAttack, "l1": L1FastGradientAttack}[threat.norm]()


REPEATED = LinfFastGradientAttack(random_start=True).repeat(2)
"""A wrapper of foolbox: it has no `run`, and its attack starts at random."""


class Guess(BallAttack):
    """The first of a few corners of the ball that fools; sees answers only."""

    def perturbed(self, network, images, labels, threat, draws):
        found, standing = images.clone(), torch.arange(len(images))
        for guess in range(8):
            signs = draws.at(standing).of(guess).signs(*images.shape[1:])
            found[standing] = threat.project(images[standing] + threat.epsilon * signs, images[standing])
            standing = standing[~fooled(network(found[standing]), labels[standing])]
            if not len(standing):
                break
        return found


class Dim(Corruption):
    """Less light, by a share that is drawn for each image."""

    def corrupted(self, images, draws):
        return images * draws.uniform(1, 1, 1)


@frozen
class Guesses:
    """A factory that tells all there is to tell; `made` is what it builds in l_inf."""

    made: type = Guess
    access: str = "black-box"
    cost: float = 8.0

    def evaluations(self, classes):
        return self.cost

    def build(self, threat):
        if threat.norm != "linf":
            raise OptionError(f"knows linf, not {threat.norm}")
        return self.made(threat.norm)


def in_turn(norm):
    """A composite of two parts that each take draws."""
    return InTurn(norm, {"dim": Guess(norm), "sign": LinfFastGradientAttack()})


def each(norm):
    """A composite whose parts are each run on every image."""
    return Each(norm, {"a little": Dim(norm), "much": Dim(norm)})


KEPT = {
    "factory": Sign(),
    "factory class": Sign,
    "foolbox class": LinfFastGradientAttack,
    "foolbox attack": L2FastGradientAttack(),
    "repeated": REPEATED,
    "black-box": Guesses(),
    "noise": Guesses(access="noise"),
    "corruption": Guesses(Dim, "corruption"),
    "in turn": Guesses(in_turn, "white-box", 10.0),
    "each": Guesses(each, "corruption"),
}


@pytest.mark.parametrize("what", KEPT)
def test_attacks_that_keep_their_promises_pass(what):
    check_attack(KEPT[what])


# --- attacks that do not


def running(change):
    """The fast gradient method, whose images are those of `change(images, clean, epsilon, network)`."""

    class Changed(LinfFastGradientAttack):
        def run(self, model, inputs, criterion, *, epsilon, **more):
            found = super().run(model, inputs, criterion, epsilon=epsilon, **more)
            return change(found, inputs, epsilon, _network_of(model))

    return Changed


def changed(change):
    """A factory of such attacks."""
    return Guesses(lambda norm: running(change)(), "white-box")


def _network_of(model):
    """The module inside a foolbox model: the closure of its call holds it."""
    return next(cell.cell_contents for cell in model._model.__closure__ if isinstance(cell.cell_contents, nn.Module))


def unrepeatable(found, clean, epsilon, network):
    """Moves by a share that no seed decides."""
    return clean + random.SystemRandom().random() * (found - clean)


def leaves_gradients(found, clean, epsilon, network):
    """Turns the network's gradients on and leaves them."""
    network.requires_grad_(True)
    return found


def leaves_training(found, clean, epsilon, network):
    """Leaves the network in training mode."""
    network.train()
    return found


@frozen
class Builds:
    """A factory of whatever it is told."""

    built: Callable

    def build(self, threat):
        return self.built(threat)


@frozen
class KnowsNothing:
    def build(self, threat):
        raise OptionError("no norm will do")


@frozen
class Fussy(Guesses):
    def check(self, shape, classes, threat):
        if classes < 10:
            raise OptionError(f"found {classes} classes; 10 would do")


def guessing(perturbed):
    """A factory of black-box attacks with another way."""
    return Guesses(wrong(Guess, perturbed=perturbed))


def own_draws(self, network, images, labels, threat, draws):
    """Takes draws and draws from the global generator."""
    return Guess.perturbed(self, network, images, labels, threat, PerImageRandom.fresh(len(images)))


def batch_centre(self, network, images, labels, threat, draws):
    """What an image gets depends on the others: the start is the mean of all."""
    return threat.project(images.mean(dim=0).expand_as(images), images)


def by_place(self, network, images, labels, threat, draws):
    """What an image gets depends on its place in the batch."""
    own = torch.linspace(-1, 1, len(images))[:, None, None, None]
    return threat.project(images + threat.epsilon * own, images)


def idle(self, network, images, labels, threat, draws):
    """Gives every image back."""
    return images


class KnowsNoDraws(Guess):
    def run(self, model, inputs, criterion, *, epsilon):
        return super().run(model, inputs, criterion, epsilon=epsilon)


class FollowsGradient(Guess):
    def perturbed(self, network, images, labels, threat, draws):
        pixels = images.clone().requires_grad_()
        (slope,) = torch.autograd.grad(F.cross_entropy(network(pixels), labels), pixels)
        return threat.project(images + threat.epsilon * slope.sign(), images)


def corrupting(corrupted):
    """A factory of corruptions with another effect on images."""
    return Guesses(wrong(Dim, corrupted=lambda self, images, draws: corrupted(images)), "corruption")


def beside(other):
    """A factory of composites of a good part and another."""
    return Guesses(lambda norm: InTurn(norm, {"guess": Guess(norm), "other": other(norm)}))


ALONE = "draws from the draws it takes and treats each image alone"
PARTS = "every part is a foolbox attack whose distance"
WRONG = {
    "leaves the ball": (changed(lambda found, clean, *_: clean + 2 * (found - clean)), "stays in the ball"),
    "leaves the box": (changed(lambda found, clean, epsilon, _: found - 2 * (epsilon == 1)), "stays in the box"),
    "does nothing": (changed(lambda found, clean, *_: clean), "breaks an image"),
    "moves at 0": (changed(lambda found, *_: found + 0.001), "moves nothing at epsilon 0"),
    "other shape": (changed(lambda found, *_: found[:, :, 1:]), "shape and dtype"),
    "other dtype": (changed(lambda found, *_: found.double()), "shape and dtype"),
    "not a number": (changed(lambda found, *_: found * float("nan")), "finite images"),
    "leaves gradients": (running(leaves_gradients), "leaves requires_grad of the network"),
    "leaves training": (running(leaves_training), "leaves the mode of the network"),
    "unrepeatable": (changed(unrepeatable), "a run can be repeated"),
    "no norm": (KnowsNothing, "knows at least one norm"),
    "refuses wrongly": (Builds(lambda threat: {"linf": REPEATED}[threat.norm]), "raises OptionError"),
    "fussy": (Fussy, r"check lets pass .*\n.*images \(1, 6, 6\), 3 classes"),
    "other distance": (Builds(lambda threat: LinfFastGradientAttack()), "distance is the threat's norm"),
    "not foolbox": (Builds(lambda threat: len), "is a foolbox attack"),
    "access": (Guesses(access="grey-box"), "access is one of white-box, noise, black-box, corruption"),
    "costs nothing": (Guesses(cost=0), "evaluations is a positive number"),
    "costs everything": (Guesses(cost=float("inf")), "evaluations is a positive number"),
    "costs words": (Guesses(cost="many"), "evaluations is a positive number"),
    "costs more": (Guesses(cost=3), "costs at most `evaluations`"),
    "parts cost more": (Guesses(in_turn, "white-box", 7.0), "costs at most `evaluations`"),
    "own draws": (guessing(own_draws), ALONE),
    "centre of the batch": (guessing(batch_centre), ALONE),
    "by place": (guessing(by_place), ALONE),
    "knows no draws": (Guesses(KnowsNoDraws), r"runs under every threat it accepts\n.*run under linf 0"),
    "follows gradients": (
        Guesses(FollowsGradient),
        r"runs under every threat it accepts(.|\n)*only an attack whose access is white-box",
    ),
    "idle": (guessing(idle), "breaks an image"),
    "loose": (Guesses(Dim, "white-box"), "an attack without a ball has the access corruption"),
    "loose inside": (beside(Dim), "an attack without a ball has the access corruption"),
    "too light": (corrupting(lambda images: images + 0.7), "stays in the box"),
    "no number": (corrupting(lambda images: images / 0 - images / 0), "finite images"),
    "smaller": (corrupting(lambda images: images[:, :, ::2]), "shape and dtype"),
    "no parts": (Guesses(lambda norm: InTurn(norm, {})), "composed of at least one part"),
    "other norm inside": (beside(lambda norm: Guess("l2")), PARTS),
    "stranger inside": (beside(lambda norm: len), PARTS),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_attack_is_caught(what):
    plugin, promise = WRONG[what]
    with pytest.raises(ConformanceError, match=promise):
        check_attack(plugin, norms=("linf",))  # one of them is enough to be caught


def test_an_attack_that_may_follow_gradients_does():
    check_attack(Guesses(FollowsGradient, "white-box"))


@pytest.mark.parametrize("access", ["noise", "corruption"])
def test_what_does_not_search_need_not_find(access):
    check_attack(evolve(guessing(idle), access=access))


def test_a_norm_that_an_attack_refuses_may_not_be_asked_for():
    with pytest.raises(ConformanceError, match="knows the norms it is checked for"):
        check_attack(changed(lambda found, *_: found), norms=("l2",))
