"""Hypergradients: the cheap ones against an exact one, and what each of them must leave alone.

Measured in float64, norm of the difference over norm of the exact hypergradient: `unrolled` is off by
2e-6 to 4e-6 on a smooth network (first order: 6e-3 to 8e-3), and by 9e-3 on one of ReLUs, where entries
cross a kink within the radius of 0.01.
"""

from functools import cache

import pytest
import torch
import torch.nn.functional as F
from attrs import evolve, frozen

from robustnas.nn.batch_statistics import scratch_statistics
from robustnas.nn.normalize import PixelSupernet
from robustnas.search.hypergradient.conjugate_gradient import ConjugateGradient
from robustnas.search.hypergradient.exact import Exact
from robustnas.search.hypergradient.first_order import FirstOrder
from robustnas.search.hypergradient.neumann import Neumann
from robustnas.search.hypergradient.unrolled import Unrolled
from robustnas.search.weights import constant, replaced, weights
from robustnas.testing.promise import judged
from robustnas_plugins.metrics.adversarial_alpha import AdversarialAlpha
from robustnas_plugins.metrics.adversarial_training import AdversarialTraining
from robustnas_plugins.metrics.jacobian import Jacobian
from robustnas_plugins.metrics.random_noise import RandomNoise
from support.networks import TinySupernet, batch, parts, whole
from support.searches import THREAT, LogitSize, SmoothJacobian, make_step

ALL = [order().gradient for order in (FirstOrder, Unrolled, Exact, Neumann, ConjugateGradient)]
first_order, unrolled, exact, neumann, conjugate_gradient = ALL
LIMIT = 1e-5
"""Of the relative error of `unrolled` on a smooth network; 2e-6 to 4e-6 was measured."""


def plain_loss(supernet, batch):
    images, labels = whole(batch)
    return F.cross_entropy(supernet(images), labels)


def relative(found, expected):
    a = torch.cat([g.flatten() for g in found.gradients])
    b = torch.cat([g.flatten() for g in expected.gradients])
    return float((a - b).norm() / b.norm())


def difference(a, b):
    return max(float((x - y).abs().max()) for x, y in zip(a.gradients, b.gradients, strict=True))


@pytest.mark.parametrize(
    "metrics",
    [(), (LogitSize(),), (SmoothJacobian(), LogitSize()), (RandomNoise(),)],
    ids=["plain", "score", "two scores", "noise"],
)
def test_unrolled_agrees_with_exact(metrics):
    """Smooth network: the finite difference of radius 0.01 is off by its second-order term alone."""
    found, expected = unrolled(make_step(metrics)), exact(make_step(metrics))
    error = relative(found, expected)
    print(f"relative error {error:.1e}")
    assert error < LIMIT
    # The second-order part is no rounding error: leaving it out would fail this test.
    assert relative(first_order(make_step(metrics)), expected) > 100 * LIMIT
    torch.testing.assert_close(found.validation.loss, expected.validation.loss)
    if expected.validation.robustness is not None:
        torch.testing.assert_close(found.validation.robustness, expected.validation.robustness)


def test_the_error_of_unrolled_falls_with_the_square_of_its_radius():
    """Central differences: a tenth of the radius, a hundredth of the error."""
    expected = exact(make_step((LogitSize(),)))
    errors = []
    for radius in (0.1, 0.01):
        errors.append(relative(Unrolled(radius).gradient(make_step((LogitSize(),))), expected))
    assert 50 < errors[0] / errors[1] < 200


@pytest.mark.parametrize("metric", [None, Jacobian()], ids=str)
def test_unrolled_agrees_with_exact_on_a_network_with_kinks(metric):
    """ReLU: entries near a kink add to the error of the finite difference."""
    metrics = () if metric is None else (metric,)
    error = relative(
        unrolled(make_step(metrics, activation=torch.relu)), exact(make_step(metrics, activation=torch.relu))
    )
    print(f"relative error {error:.1e}")
    assert error < 0.02


def test_exact_is_the_derivative_of_the_outer_objective_along_the_virtual_step():
    """Finite differences in alpha of L_val(w'(alpha), alpha), written out here with SGD's own step for w'."""
    step = make_step()
    gradient = exact(step).gradients[0]
    table = step.supernet.alpha["normal"]

    def outer(shift):
        fresh = make_step()  # the same again
        with torch.no_grad():
            fresh.supernet.alpha["normal"].add_(shift)
        plain_loss(fresh.supernet, fresh.train).backward()
        fresh.w_optimizer.step()
        return plain_loss(fresh.supernet, fresh.val).item()

    for row, column in ((0, 0), (1, 2)):
        shift = torch.zeros_like(table)
        shift[row, column] = 1e-4
        numeric = (outer(shift) - outer(-shift)) / 2e-4
        assert numeric == pytest.approx(float(gradient[row, column]), rel=1e-5, abs=1e-9)


def test_the_virtual_step_includes_momentum_and_weight_decay_and_the_present_learning_rate():
    base = exact(make_step())
    assert difference(exact(make_step(decay=0.0)), base) > 1e-6
    without = [make_step(), make_step()]
    for step in without:
        step.w_optimizer.state.clear()
    found = exact(without[0])
    assert difference(found, base) > 1e-5
    assert relative(unrolled(without[1]), found) < LIMIT
    step = make_step()
    step.w_optimizer.param_groups[0]["lr"] = 0.0
    torch.testing.assert_close(unrolled(step).gradients, first_order(make_step()).gradients)


@pytest.mark.parametrize("function", ALL)
def test_gamma_zero_is_no_metric(function):
    plain, zero = function(make_step()), function(make_step((LogitSize(),), gamma=0.0))
    assert difference(plain, zero) == 0
    assert zero.validation.robustness is None
    assert difference(plain, function(make_step((LogitSize(),)))) > 1e-5


@pytest.mark.parametrize("function", ALL)
def test_robustness_is_evaluated_at_the_weights_of_the_outer_level(function):
    """`first_order` at w; the others at w', the same as L_val: a score that notes the weights it saw."""
    seen = []

    @frozen
    class Witness:
        def score(self, network, images, labels, threat):
            seen.append(network.supernet.head.weight.detach().clone())
            return -network(images).square().mean(dim=1)

    step = make_step((Witness(),))
    function(step)
    w = step.supernet.supernet.head.weight.detach()
    probe = make_step()
    torch.autograd.backward(plain_loss(probe.supernet, probe.train), inputs=probe.weights.parameters)
    probe.w_optimizer.step()
    expected = (
        w if function in (first_order, neumann, conjugate_gradient) else probe.supernet.supernet.head.weight.detach()
    )
    assert len(seen) == 1
    torch.testing.assert_close(seen[0], expected, rtol=1e-12, atol=1e-12)
    assert function in (first_order, neumann, conjugate_gradient) or (seen[0] - w).abs().max() > 1e-4


def test_the_gradient_of_robustness_through_the_weights_counts():
    """With gamma so large that L_val is nothing beside R, finite differences of R(w'(alpha), alpha) in alpha.

    The metric's batch norm statistics are constants: of the validation batch at the unshifted w'.
    """

    def virtual_step(shift=0.0):
        step = make_step()
        with torch.no_grad():
            step.supernet.alpha["normal"].add_(shift)
        plain_loss(step.supernet, step.train).backward()
        step.w_optimizer.step()
        return step

    found = unrolled(make_step((LogitSize(),), gamma=1e6)).gradients[0] / 1e6
    unshifted = virtual_step()
    with scratch_statistics(unshifted.supernet), torch.no_grad():
        unshifted.supernet(whole(unshifted.val)[0])
        statistics = {name: buffer.clone() for name, buffer in unshifted.supernet.named_buffers()}

    def robustness(shift):
        step = virtual_step(shift)
        step.supernet.load_state_dict(statistics, strict=False)
        return LogitSize().score(step.supernet.eval(), *whole(step.val), THREAT).mean().item()

    shift = torch.zeros(2, 3, dtype=torch.float64)
    shift[1, 0] = 1e-4
    numeric = (robustness(shift) - robustness(-shift)) / 2e-4
    assert numeric == pytest.approx(-float(found[1, 0]), rel=1e-4)  # the outer level minimises -R


METRICS = [Jacobian(rows=2), RandomNoise(), AdversarialAlpha(), AdversarialTraining(), LogitSize()]


@pytest.mark.parametrize("function", ALL)
@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: type(metric).__name__)
def test_a_hypergradient_leaves_the_supernet_as_it_was(function, metric):
    step = make_step((metric,))
    step.supernet.supernet.edges[1].norm.eval()
    with judged("order", function) as verdict, verdict.unchanged(step.supernet, "the supernet"):
        function(step)
    assert all(p.grad is None and p.requires_grad for p in step.supernet.parameters())


def test_every_evaluation_of_the_inner_loss_draws_the_same():
    """Noise from both generators: three evaluations in `unrolled`, all alike; then the streams go on."""
    drawn = []

    @frozen
    class Noisy:
        def inner_loss(self, supernet, images, labels, threat, context):
            drawn.append((float(torch.rand(1, generator=context.generator)), float(torch.rand(1))))
            return context.loss(supernet(images + 0.1 * torch.rand(images.shape)), labels)

    step = make_step((Noisy(),))
    unrolled(step)
    assert len(drawn) == 3
    assert len(set(drawn)) == 1
    step.objective.owner("inner_loss").inner_loss(step.supernet, *whole(step.train), THREAT, step.inner)
    assert drawn[3][0] == drawn[0][0]  # the inner step repeats its rehearsal
    assert drawn[3][1] != drawn[0][1]  # everyone's generator goes on


def test_an_alpha_that_is_not_used_has_a_zero_gradient():
    step = make_step()
    unused = torch.nn.Parameter(torch.zeros(1, 3, dtype=torch.float64))
    step.supernet.supernet.unused = unused
    tables = {"normal": step.supernet.supernet.table, "reduce": unused}
    # alpha is a property of the class: this object gets a class of its own
    step.supernet.supernet.__class__ = type("Two", (TinySupernet,), {"alpha": property(lambda self: tables)})
    step = evolve(step, weights=weights(step.supernet))
    for function in ALL:
        gradients = function(step).gradients
        assert torch.equal(gradients[1], torch.zeros_like(unused))
        assert gradients[0].abs().max() > 0


def test_replaced_weights_carry_their_graph_and_shared_ones_stay_shared():
    torch.manual_seed(0)
    supernet = PixelSupernet(TinySupernet(), (0.5, 0.5), (0.25, 0.25))
    edges = supernet.supernet.edges
    edges[1].convolution.weight = edges[0].convolution.weight
    w = weights(supernet)
    shared = next(i for i, p in enumerate(w.parameters) if p is edges[0].convolution.weight)
    assert len(w.places[shared]) == 2
    images, _ = batch()
    scale = torch.ones((), requires_grad=True)
    with replaced(w, [scale * p for p in w.parameters]):
        (gradient,) = torch.autograd.grad(supernet(images).square().sum(), scale)
        assert edges[0].convolution.weight is edges[1].convolution.weight
    assert gradient.abs() > 0
    assert edges[0].convolution.weight is edges[1].convolution.weight is w.parameters[shared]
    with constant(w.parameters):
        assert not any(p.requires_grad for p in w.parameters)
    assert all(p.requires_grad for p in w.parameters)


def dense(step):
    """Hessian of L_train with weight decay (P, P), mixed derivatives (alpha, P), and grad_w of the outer level (P,)."""
    w, alpha = step.weights.parameters, step.alpha
    with scratch_statistics(step.supernet):
        gradients = torch.autograd.grad(plain_loss(step.supernet, step.train), w, create_graph=True)
        flat = torch.cat([g.flatten() for g in gradients])
        rows = [
            torch.autograd.grad(entry, [*w, *alpha], retain_graph=True, allow_unused=True, materialize_grads=True)
            for entry in flat
        ]
        v = torch.autograd.grad(plain_loss(step.supernet, step.val), [*w, *alpha])
    hessian = torch.stack([torch.cat([g.flatten() for g in row[: len(w)]]) for row in rows])
    mixed = torch.stack([torch.cat([g.flatten() for g in row[len(w) :]]) for row in rows], dim=1)
    decay = step.w_optimizer.param_groups[0]["weight_decay"]
    outer_w, outer_alpha = (torch.cat([g.flatten() for g in part]) for part in (v[: len(w)], v[len(w) :]))
    return hessian + decay * torch.eye(len(hessian), dtype=hessian.dtype), mixed, outer_w, outer_alpha


def flattened(found):
    return torch.cat([g.flatten() for g in found.gradients])


@cache
def dense_of_the_step():
    """Of the step that several tests take; nothing changes it."""
    return dense(make_step())


def test_conjugate_gradient_solves_the_damped_system():
    """Against the dense solution; the damping makes every curvature positive, so it runs to the end."""
    hessian, mixed, v, partial = dense_of_the_step()
    damping = 1.5 * float(torch.linalg.eigvalsh(hessian).abs().max())
    system = hessian + damping * torch.eye(len(hessian), dtype=hessian.dtype)
    expected = partial - mixed @ torch.linalg.solve(system, v)
    found = flattened(ConjugateGradient(200, damping, 1e-12).gradient(make_step()))
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-12)
    assert (expected - partial).norm() > 1e-4 * partial.norm(), "the implicit part is no rounding error"


def test_conjugate_gradient_stops_where_the_curvature_is_not_positive():
    """A network's Hessian is indefinite: without damping the iteration ends early, and stays finite."""
    hessian, mixed, v, partial = dense_of_the_step()
    assert float(torch.linalg.eigvalsh(hessian).min()) < 0
    bend = float(v @ hessian @ v)
    one = flattened(ConjugateGradient(1, 0.0, 0.0).gradient(make_step()))
    step = v if bend <= 0 else float(v @ v) / bend * v
    torch.testing.assert_close(one, partial - mixed @ step, rtol=1e-8, atol=1e-12)
    many = flattened(ConjugateGradient(500, 0.0, 0.0).gradient(make_step()))
    assert bool(many.isfinite().all())


@pytest.mark.parametrize("terms", [0, 1, 4])
def test_neumann_is_the_truncated_series(terms):
    hessian, mixed, v, partial = dense_of_the_step()
    eta = 0.3 / float(torch.linalg.eigvalsh(hessian).abs().max())
    shrink = torch.eye(len(hessian), dtype=hessian.dtype) - eta * hessian
    series = sum(torch.linalg.matrix_power(shrink, power) @ v for power in range(terms + 1))
    expected = partial - mixed @ (eta * series)
    found = flattened(Neumann(terms, eta).gradient(make_step()))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    default, given = (Neumann(terms, rate).gradient(make_step()) for rate in (None, 0.05))
    torch.testing.assert_close(default.gradients, given.gradients)  # of w, unless another is given


@pytest.mark.parametrize("function", ALL)
def test_a_batch_in_parts_gives_the_weighted_sum_of_its_parts(function):
    """Batch norm sees a part; so a batch of two equal parts gives what each of them gives."""
    images = [batch(4, 1, torch.float64), batch(4, 2, torch.float64)]

    def of(*some):
        step = make_step((LogitSize(),))
        whole_batch = tuple(torch.cat(column) for column in zip(*some, strict=True))
        cut = parts(*whole_batch, len(some))
        return function(evolve(step, train=cut, val=cut))

    twice, once = of(images[0], images[0]), of(images[0])
    torch.testing.assert_close(flattened(twice), flattened(once), rtol=1e-6, atol=1e-10)
    torch.testing.assert_close(twice.validation.loss, once.validation.loss)
    torch.testing.assert_close(twice.validation.robustness, once.validation.robustness)
    if function is first_order:
        expected = (flattened(once) + flattened(of(images[1]))) / 2
        torch.testing.assert_close(flattened(of(*images)), expected, rtol=1e-9, atol=1e-12)
