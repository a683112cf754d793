"""The conformance kit on attacks: wrong ones are caught, each by the promise it breaks."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F
from attrs import frozen
from foolbox.attacks import L1FastGradientAttack, L2FastGradientAttack, LinfFastGradientAttack
from torch import nn

from robustnas.attack.foolbox_attack import BallAttack, Corruption, Each, InTurn, fooled
from robustnas.attack.per_image_random import PerImageRandom
from robustnas.errors import OptionError
from robustnas.testing import ConformanceError, check_attack

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


@pytest.mark.parametrize(
    "plugin",
    [
        Sign(), Sign, LinfFastGradientAttack, L2FastGradientAttack(), REPEATED,
        Guesses(), Guesses(access="noise"), Guesses(Dim, "corruption"),
        Guesses(in_turn, "white-box", 10.0), Guesses(each, "corruption"),
    ],
    ids=[
        "factory", "factory-class", "foolbox-class", "foolbox-attack", "repeated",
        "black-box", "noise", "corruption", "in-turn", "each",
    ],
)  # fmt: skip
def test_attacks_that_keep_their_promises_pass(plugin):
    check_attack(plugin)


# --- attacks that do not


def changed(change):
    """A factory whose attack's images are those of `change(images, clean, epsilon, model)`."""

    class Changed(LinfFastGradientAttack):
        def run(self, model, inputs, criterion, *, epsilon, **more):
            found = super().run(model, inputs, criterion, epsilon=epsilon, **more)
            return change(found, inputs, epsilon, model)

    @frozen
    class Factory:
        def build(self, threat):
            if threat.norm != "linf":
                raise OptionError(f"knows linf, not {threat.norm}")
            return Changed()

    return Factory()


def unrepeatable(found, clean, epsilon, model):
    """Moves by a share that no seed decides."""
    return clean + random.SystemRandom().random() * (found - clean)


@frozen
class KnowsNothing:
    def build(self, threat):
        raise OptionError("no norm will do")


@frozen
class Fussy(Guesses):
    def check(self, shape, classes, threat):
        if classes < 10:
            raise OptionError(f"found {classes} classes; 10 would do")


@frozen
class RefusesWrongly:
    def build(self, threat):
        return {"linf": LinfFastGradientAttack}[threat.norm]()


@frozen
class OtherDistance:
    def build(self, threat):
        return LinfFastGradientAttack()


@frozen
class NotFoolbox:
    def build(self, threat):
        return lambda images: images


class LeavesGradient(LinfFastGradientAttack):
    """Turns the network's gradients on and leaves them."""

    network = None

    def run(self, model, inputs, criterion, *, epsilon, **more):
        found = super().run(model, inputs, criterion, epsilon=epsilon, **more)
        for one in _network_of(model).parameters():
            one.requires_grad_(True)
        return found


class LeavesTraining(LinfFastGradientAttack):
    """Leaves the network in training mode."""

    def run(self, model, inputs, criterion, *, epsilon, **more):
        found = super().run(model, inputs, criterion, epsilon=epsilon, **more)
        _network_of(model).train()
        return found


def _network_of(model):
    """The module inside a foolbox model: the closure of its call holds it."""
    return next(cell.cell_contents for cell in model._model.__closure__ if isinstance(cell.cell_contents, nn.Module))


@pytest.mark.parametrize(
    ("plugin", "promise"),
    [
        (changed(lambda found, clean, epsilon, model: clean + 2 * (found - clean)), "stays in the ball"),
        (changed(lambda found, clean, epsilon, model: found - 2 * (epsilon == 1)), "stays in the box"),
        (changed(lambda found, clean, epsilon, model: clean), "breaks an image"),
        (changed(lambda found, clean, epsilon, model: found + 0.001), "moves nothing at epsilon 0"),
        (changed(lambda found, clean, epsilon, model: found[:, :, 1:]), "shape and dtype"),
        (changed(lambda found, clean, epsilon, model: found.double()), "shape and dtype"),
        (changed(lambda found, clean, epsilon, model: found * float("nan")), "finite images"),
        (LeavesGradient, "leaves requires_grad of the network"),
        (LeavesTraining, "leaves the mode of the network"),
        (changed(unrepeatable), "a run can be repeated"),
        (KnowsNothing, "knows at least one norm"),
        (RefusesWrongly, "raises OptionError"),
        (Fussy, "check lets pass images .*, 3 classes"),
        (OtherDistance, "distance is the threat's norm"),
        (NotFoolbox, "is a foolbox attack"),
    ],
    ids=[
        "leaves-ball", "leaves-box", "does-nothing", "moves-at-zero", "wrong-shape", "wrong-dtype", "nan",
        "leaves-requires-grad", "leaves-training", "unrepeatable", "no-norm", "refuses-wrongly", "fussy",
        "other-distance", "not-foolbox",
    ],
)  # fmt: skip
def test_a_wrong_attack_is_caught(plugin, promise):
    with pytest.raises(ConformanceError, match=promise):
        check_attack(plugin)


class OwnDraws(Guess):
    """Takes draws and draws from the global generator."""

    def perturbed(self, network, images, labels, threat, draws):
        return super().perturbed(network, images, labels, threat, PerImageRandom.fresh(len(images)))


class BatchCentre(Guess):
    """What an image gets depends on the others: the start is the mean of all."""

    def perturbed(self, network, images, labels, threat, draws):
        return threat.project(images.mean(dim=0).expand_as(images), images)


class ByPlace(Guess):
    """What an image gets depends on its place in the batch."""

    def perturbed(self, network, images, labels, threat, draws):
        own = torch.linspace(-1, 1, len(images))[:, None, None, None]
        return threat.project(images + threat.epsilon * own, images)


class KnowsNoDraws(Guess):
    def run(self, model, inputs, criterion, *, epsilon):
        return super().run(model, inputs, criterion, epsilon=epsilon)


class FollowsGradient(Guess):
    def perturbed(self, network, images, labels, threat, draws):
        pixels = images.clone().requires_grad_()
        (slope,) = torch.autograd.grad(F.cross_entropy(network(pixels), labels), pixels)
        return threat.project(images + threat.epsilon * slope.sign(), images)


class TooLight(Dim):
    def corrupted(self, images, draws):
        return images + 0.7


class NoNumber(Dim):
    def corrupted(self, images, draws):
        return images / 0 - images / 0


class Smaller(Dim):
    def corrupted(self, images, draws):
        return images[:, :, ::2]


def no_parts(norm):
    return InTurn(norm, {})


def other_norm_inside(norm):
    return InTurn(norm, {"guess": Guess(norm), "other": Guess("l2")})


def stranger_inside(norm):
    return InTurn(norm, {"guess": Guess(norm), "other": len})


def loose_inside(norm):
    return InTurn(norm, {"guess": Guess(norm), "dim": Dim(norm)})


def idle(norm):
    """Gives every image back."""
    attack = Guess(norm)
    attack.perturbed = lambda network, images, labels, threat, draws: images
    return attack


@pytest.mark.parametrize(
    ("plugin", "promise"),
    [
        (Guesses(access="grey-box"), "access is one of white-box, noise, black-box, corruption"),
        (Guesses(cost=0), "evaluations is a positive number"),
        (Guesses(cost=float("inf")), "evaluations is a positive number"),
        (Guesses(cost="many"), "evaluations is a positive number"),
        (Guesses(cost=3), "costs at most `evaluations`"),
        (Guesses(in_turn, "white-box", 7.0), "costs at most `evaluations`"),
        (Guesses(OwnDraws), "draws from the draws it takes and treats each image alone"),
        (Guesses(BatchCentre), "draws from the draws it takes and treats each image alone"),
        (Guesses(ByPlace), "draws from the draws it takes and treats each image alone"),
        (Guesses(KnowsNoDraws), "it runs under linf 0"),
        (Guesses(FollowsGradient), "it runs under linf 0"),
        (Guesses(idle), "breaks an image"),
        (Guesses(Dim, "white-box"), "an attack without a ball has the access corruption"),
        (Guesses(loose_inside), "an attack without a ball has the access corruption"),
        (Guesses(TooLight, "corruption"), "stays in the box"),
        (Guesses(NoNumber, "corruption"), "finite images"),
        (Guesses(Smaller, "corruption"), "shape and dtype"),
        (Guesses(no_parts), "composed of at least one part"),
        (Guesses(other_norm_inside), "every part is a foolbox attack whose distance"),
        (Guesses(stranger_inside), "every part is a foolbox attack whose distance"),
    ],
    ids=[
        "access", "costs-nothing", "costs-everything", "costs-words", "costs-more", "parts-cost-more", "own-draws",
        "batch-centre", "by-place", "knows-no-draws", "follows-gradient", "idle", "loose", "loose-inside", "too-light",
        "no-number", "smaller", "no-parts", "other-norm-inside", "stranger-inside",
    ],
)  # fmt: skip
def test_a_wrong_attack_of_our_base_classes_is_caught(plugin, promise):
    with pytest.raises(ConformanceError, match=promise):
        check_attack(plugin)


def test_an_attack_that_follows_gradients_says_why_it_is_refused():
    with pytest.raises(ConformanceError, match="access is black-box sees no gradients"):
        check_attack(Guesses(FollowsGradient))
    check_attack(Guesses(FollowsGradient, "white-box"))


@pytest.mark.parametrize("access", ["noise", "corruption"])
def test_what_does_not_search_need_not_find(access):
    check_attack(Guesses(idle, access))


def test_a_norm_that_an_attack_refuses_may_not_be_asked_for():
    with pytest.raises(ConformanceError, match="knows the norm l2"):
        check_attack(changed(lambda found, clean, epsilon, model: found), norms=("l2",))
