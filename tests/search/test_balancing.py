"""Balanced scores: what the factors are, that a step has one of each, and what a search records and warns of."""

from pathlib import Path

import pytest
import torch
from attrs import evolve, frozen

from robustnas import search
from robustnas.data.batches import Part
from robustnas.errors import RunDirectoryError, RunError
from robustnas.registry import ORDERS
from robustnas.runtime import interrupt
from robustnas.runtime.artifacts import StageFolder
from robustnas.search.balance import RHO, Balance
from robustnas.search.balancing import FADE, SILENT, Balancing, Pull
from robustnas.search.bilevel import outer_step
from robustnas.search.objective import Objective
from robustnas.search.settings import Search
from robustnas.search.warnings import warnings
from robustnas_plugins.metrics.adversarial_training import AdversarialTraining
from robustnas_plugins.metrics.jacobian import Jacobian
from support.networks import TinyDataset, TinySpace
from support.searches import THREAT, LogitSize, SmoothJacobian, make_step, same, timeless

CPU = torch.device("cpu")
ALL = ("first", "unrolled", "exact", "neumann", "cg")
SCORES = ((1.0, LogitSize()), (3.0, SmoothJacobian()))
WEIGHTS = torch.tensor([1.0, 3.0], dtype=torch.float64)


def balanced(rho=0.5, cuts=1):
    """A step in float64 whose scores are balanced."""
    step = make_step(cuts=cuts)
    return evolve(step, objective=Objective(SCORES, THREAT, Balance(rho)))


def moved(step, order="first", rate=0.01):
    alpha = torch.optim.Adam(step.alpha, rate)
    return outer_step(step, ORDERS.load(order)(), alpha)[0].pull


def directly(step):
    """Norms of the gradients in alpha of the mean score and of the loss, written out."""
    plain = evolve(step, objective=Objective((), THREAT, 0.0)).outer_gradient(step.alpha)
    norms = [torch.cat([one.flatten() for one in plain.gradients]).norm()]
    for weight_and_metric in step.objective.metrics:
        both = evolve(step, objective=Objective(((1.0, weight_and_metric[1]),), THREAT, 1.0))
        gradients = [a - b for a, b in zip(both.outer_gradient(step.alpha).gradients, plain.gradients, strict=True)]
        norms.append(torch.cat([one.flatten() for one in gradients]).norm())
    return torch.stack(norms)


@pytest.mark.parametrize("cuts", [1, 2])
def test_each_score_moves_alpha_rho_times_its_weight_as_much_as_the_loss(cuts):
    """In the first step exactly: what was measured before it is what it finds."""
    step = balanced(rho=0.3, cuts=cuts)
    norms = directly(step)
    pull = moved(step)
    torch.testing.assert_close(pull.norms, norms)
    torch.testing.assert_close(pull.gammas * WEIGHTS * norms[1:] / norms[0], 0.3 * WEIGHTS)
    torch.testing.assert_close(pull.ratios, 0.3 * WEIGHTS)


def test_the_gradient_of_alpha_is_that_of_the_objective_with_these_factors():
    step = balanced()
    moved(step)
    gammas = step.objective.gammas(torch.zeros((), dtype=torch.float64))
    scaled = tuple((weight * float(gamma), metric) for gamma, (weight, metric) in zip(gammas, SCORES, strict=True))
    fixed = Objective(scaled, THREAT, 1.0)
    for order in ALL:
        one = ORDERS.load(order)().gradient(step)
        two = ORDERS.load(order)().gradient(evolve(step, objective=fixed))
        for found, expected in zip(one.gradients, two.gradients, strict=True):
            torch.testing.assert_close(found, expected)
        assert torch.equal(one.validation.pull.gammas, gammas)


def test_every_order_begins_with_the_same_factors():
    found = [moved(balanced(), order).gammas for order in ALL]
    assert all(torch.equal(gammas, found[0]) for gammas in found)


def test_parts_of_a_batch_are_balanced_as_the_whole_where_batch_norm_sees_the_same():
    """Norms are of the summed gradient: two parts of the same images have no larger one than the images alone."""
    whole = balanced()
    (part,) = whole.val
    doubled = evolve(balanced(), val=(Part(part.images, part.labels, 0.5), Part(part.images, part.labels, 0.5)))
    one, two = moved(whole), moved(doubled)
    for found, expected in zip((two.norms, two.gammas, two.ratios), (one.norms, one.gammas, one.ratios), strict=True):
        torch.testing.assert_close(found, expected)


def test_factors_follow_running_means_of_the_steps_before():
    """By hand: geometric means that fade; zero, infinite and undefined gradients do not count."""

    def pull(loss, *scores):
        norms = torch.tensor([loss, *scores])
        return Pull(norms, *(torch.zeros(len(scores)) for _ in range(4)))

    balancing = Balancing(0.5, 2)
    like = torch.zeros(())
    assert balancing.gammas(like).tolist() == [1, 1]  # nothing was measured
    balancing.note(pull(1.0, 4.0, 0.0))
    torch.testing.assert_close(balancing.gammas(like), torch.tensor([0.125, SILENT]))
    balancing.note(pull(2.0, 8.0 * 2, torch.inf))
    mean = (FADE * torch.log(torch.tensor(4.0)) + torch.log(torch.tensor(8.0))) / (FADE + 1)
    torch.testing.assert_close(balancing.gammas(like), torch.stack([0.5 / mean.exp(), torch.tensor(SILENT)]))
    before = balancing.gammas(like)
    balancing.note(pull(0.0, 1.0, 1.0))
    balancing.note(pull(torch.nan, 1.0, 1.0))
    assert torch.equal(balancing.gammas(like), before)
    other = Balancing(0.5, 2)
    other.load_state_dict(balancing.state_dict())
    assert torch.equal(other.gammas(like), before)
    with pytest.raises(ValueError, match="of 2 scores, here are 1"):
        Balancing(0.5, 1).load_state_dict(balancing.state_dict())


def test_norms_whose_squares_overflow_are_norms():
    pull = Pull.of(
        [[torch.tensor([3.0, 4.0])], [torch.tensor([-3e30, -4e30])], [torch.zeros(2)]],
        torch.ones(2),
        torch.ones(2),
        torch.zeros(2),
    )
    torch.testing.assert_close(pull.norms, torch.tensor([5.0, 5e30, 0.0]))
    torch.testing.assert_close(pull.cosines, torch.tensor([-1.0, torch.nan]), equal_nan=True)


def test_the_default_balances_and_numbers_stay():
    assert Search().gamma == Balance(RHO)
    with pytest.raises(ValueError, match="at least 0"):
        Search(gamma=-1.0)
    with pytest.raises(ValueError, match="balance"):
        Balance(0.0)
    assert Objective((), THREAT, Balance(1.0)).scores == []


# ---- searches ----


def task(*weighted, **settings):
    kept = Search(epochs=2, batch=5, warmup_epochs=0, gamma=Balance(0.5), alpha_lr=0.05, crop=1, flip=True)
    return search.SearchTask(TinyDataset(), TinySpace(), weighted, THREAT, evolve(kept, **settings), 7)


def ran(one, folder):
    return search.run(one, StageFolder(Path(folder)), CPU)


MIXED = ((1.0, Jacobian(rows=1)), (2.0, LogitSize()), (1.0, AdversarialTraining(steps=1)), (0.5, Jacobian()))


@pytest.mark.parametrize("order", ["first", "unrolled"])
def test_a_balanced_search_goes_on_as_if_it_had_never_stopped(order, tmp_path, monkeypatch):
    """3 steps an epoch: stopped after each step but the last of all, with the running means in the checkpoint."""
    one = task(*MIXED, order=ORDERS.load(order)())
    whole = StageFolder(tmp_path / "whole")
    expected = search.run(one, whole, CPU)
    for after in range(1, 6) if order == "first" else (2,):
        folder, asked = StageFolder(tmp_path / str(after)), []
        with monkeypatch.context() as patched:
            patched.setattr(interrupt, "asked", lambda asked=asked, after=after: asked.append(0) or len(asked) == after)
            with pytest.raises(interrupt.Interrupted):
                search.run(one, folder, CPU)
        torch.rand(5)
        assert timeless(search.run(one, folder, CPU)) == timeless(expected)
        states = [found.load_tensors("checkpoint.pt") for found in (folder, whole)]
        same(*states)
        torch.testing.assert_close(states[0]["balancing"], states[1]["balancing"], rtol=0, atol=0)


def test_a_checkpoint_without_running_means_is_refused(tmp_path):
    folder = StageFolder(tmp_path / "one")
    search.run(task((1.0, Jacobian()), epochs=1), folder, CPU)
    state = folder.load_tensors("checkpoint.pt")
    del state["balancing"]
    broken = StageFolder(tmp_path / "two")
    broken.save_tensors("checkpoint.pt", state)
    with pytest.raises(RunDirectoryError, match="balancing"):
        search.run(task((1.0, Jacobian()), epochs=1), broken, CPU)


@pytest.mark.parametrize("gamma", [Balance(0.5), 0.1], ids=["balanced", "fixed"])
def test_what_the_history_tells_of_the_terms(gamma, tmp_path):
    result = ran(task(*MIXED, gamma=gamma), tmp_path)
    names = ["jacobian", "LogitSize", "jacobian 2"]
    for record in StageFolder(tmp_path).history():
        assert list(record["alpha_gradient_norm"]) == ["loss", *names]
        for key in ("alpha_gradient_cosine", "scores", "gamma", "alpha_gradient_ratio"):
            assert list(record[key]) == names
        assert all(-1 <= cosine <= 1 for cosine in record["alpha_gradient_cosine"].values())
        assert sum(
            weight * mean for weight, mean in zip((1.0, 2.0, 0.5), record["scores"].values(), strict=True)
        ) == pytest.approx(record["robustness"], rel=1e-5)
        if gamma == 0.1:
            assert list(record["gamma"].values()) == pytest.approx([0.1] * 3)
        else:
            for weight, ratio in zip((1.0, 2.0, 0.5), record["alpha_gradient_ratio"].values(), strict=True):
                assert weight / 8 < ratio < weight * 2  # of a mean over 3 steps; rho is 1/2
    assert record["alpha"] == result["alpha"]


def test_a_search_without_scores_tells_of_the_loss_alone(tmp_path):
    ran(task(warmup_epochs=1), tmp_path)
    first, second = StageFolder(tmp_path).history()
    assert "alpha_gradient_norm" not in first
    assert list(second["alpha_gradient_norm"]) == ["loss"]
    assert second["alpha_gradient_norm"]["loss"] > 0
    assert "gamma" not in second
    assert first["alpha"].keys() == second["alpha"].keys() == {"normal"}


@frozen
class Named(TinySpace):
    """A space that tells its operations."""

    @property
    def candidates(self):
        return {"normal": ("conv", "none", "skip")}


def test_what_alpha_keeps_on_none_is_told(tmp_path):
    result = search.run(evolve(task(), space=Named()), StageFolder(tmp_path), CPU)
    told = [record["none"] for record in StageFolder(tmp_path).history()]
    for none, alpha in ((told[-1], result["alpha"]), (result["none"], result["alpha"])):
        assert none == pytest.approx(float(torch.tensor(alpha["normal"]).softmax(dim=1)[:, 1].mean()))
    assert told[0] != told[-1]


@pytest.mark.parametrize(
    ("gamma", "size", "words"),
    [(1e4, "1e", "drowned the loss"), (1e-9, "1e-", "was hardly heard beside the loss"), (Balance(0.5), "", "")],
    ids=["drowns", "silent", "balanced"],
)
def test_a_score_that_is_not_heard_or_alone_is_told(gamma, size, words, tmp_path):
    notes = [note for note in ran(task((1.0, LogitSize()), gamma=gamma), tmp_path)["notes"] if "the score of" in note]
    assert len(notes) == bool(words)
    for note in notes:
        assert f"the score of LogitSize {words}" in note
        assert f"about {size}" in note
        assert note.endswith(f"gamma: {{balance: {RHO:g}}} would do")


@frozen
class Floor:
    """A score that stands at its lower limit, where it has no gradient."""

    def score(self, network, images, labels, threat):
        return 0 * network(images).sum(dim=1) - 3

    def floored(self, score):
        return score <= -3


def test_a_score_at_its_floor_is_told_and_leaves_alpha_to_the_others(tmp_path):
    result = ran(task((1.0, Floor())), tmp_path / "floor")
    assert "100 % of the images was the least" in result["notes"][0]
    assert result["alpha"] == ran(task(), tmp_path / "plain")["alpha"]
    assert StageFolder(tmp_path / "floor").history()[-1]["alpha_gradient_norm"]["Floor"] == 0


@frozen
class Steep:
    """A score that is a number, with a gradient that is none."""

    def score(self, network, images, labels, threat):
        size = network(images).square().mean(dim=1)
        return -size - (size - size.detach()).sqrt()


@pytest.mark.parametrize("gamma", [Balance(0.5), 0.1], ids=["balanced", "fixed"])
def test_a_gradient_that_overflows_ends_the_search_and_says_what_would_do(gamma, tmp_path):
    with pytest.raises(RunError, match=r"the gradient of alpha is (nan|inf).*scale: log"):
        ran(task((1.0, Steep()), gamma=gamma), tmp_path)


def test_what_would_do_where_scores_are_balanced_already():
    (note,) = warnings([{"alpha_gradient_ratio": {"jacobian": 0.01}}], Balance(0.01))
    assert note.endswith("another rho or weight than gamma: {balance: 0.01} would do")
    assert warnings([], 0.1) == []


def test_balanced_first_order_costs_no_more_passes(monkeypatch):
    """After the measurement before the first step, a step computes each term once."""
    step, calls = balanced(), []
    original = LogitSize.score
    monkeypatch.setattr(LogitSize, "score", lambda *given: calls.append(0) or original(*given))
    moved(step)
    assert len(calls) == 2
    moved(step)
    assert len(calls) == 3
