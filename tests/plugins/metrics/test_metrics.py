"""The metrics that need no bounds: what they compute, which options they honour, what they leave behind."""

import importlib
import math

import pytest
import torch
import torch.nn.functional as F

from robustnas.contracts import Context
from robustnas.errors import OptionError
from robustnas.nn.batch_statistics import frozen_statistics, scratch_statistics
from robustnas.registry import METRICS as REGISTERED
from robustnas.threat import DUAL_ORDER, ThreatModel
from robustnas_plugins.metrics.adversarial_alpha import AdversarialAlpha
from robustnas_plugins.metrics.adversarial_training import AdversarialTraining
from robustnas_plugins.metrics.certified_bound import CertifiedBound
from robustnas_plugins.metrics.certified_radius import CertifiedRadius
from robustnas_plugins.metrics.feature_distortion import FeatureDistortion
from robustnas_plugins.metrics.input_noise import InputNoise
from robustnas_plugins.metrics.jacobian import Jacobian
from robustnas_plugins.metrics.loss_curvature import LossCurvature
from robustnas_plugins.metrics.mixing import perturbed
from robustnas_plugins.metrics.random_noise import RandomNoise
from support.device_recipes import shipped
from support.every_space import small_networks
from support.networks import TinySupernet, batch

THREATS = [ThreatModel("linf", "8/255"), ThreatModel("l2", 0.5), ThreatModel("l1", 6)]
METRICS = [
    Jacobian(),
    Jacobian(rows=2),
    Jacobian(rows=2, scale="log", normalise=True),
    RandomNoise(),
    RandomNoise(target="input"),
    AdversarialAlpha(),
    InputNoise(share=1),
    LossCurvature(),
    FeatureDistortion(steps=2),
    AdversarialTraining(steps=2),
    AdversarialTraining(steps=2, levels="inner"),
]


def supernet(dtype=torch.float32, activation=torch.relu):
    torch.manual_seed(0)
    net = TinySupernet(activation=activation).to(dtype)
    with torch.no_grad():
        net(batch(8, 9, dtype)[0])
    return net


def context(progress=0.5, seed=0):
    return Context(progress, torch.Generator().manual_seed(seed), F.cross_entropy)


@pytest.mark.parametrize("rows", [None, 2])
def test_a_normalised_jacobian_does_not_see_the_scale_of_the_logits_and_a_log_is_one(rows):
    net = supernet(torch.float64).eval()
    images, labels = batch(4, 1, torch.float64)

    def scores(factor, **options):
        torch.manual_seed(3)
        return Jacobian(rows=rows, **options).score(lambda x: factor * net(x), images, labels, THREATS[0]).detach()

    plain, deviation = scores(1), net(images).detach().std(dim=1)
    torch.testing.assert_close(scores(1, scale="log"), -(-plain).log())
    torch.testing.assert_close(scores(1, normalise=True), plain / deviation)
    for scale in ("norm", "log"):
        torch.testing.assert_close(scores(7, scale=scale, normalise=True), scores(1, scale=scale, normalise=True))
    torch.testing.assert_close(scores(7), 7 * plain)


@pytest.mark.parametrize("threat", THREATS, ids=str)
def test_jacobian_is_the_mean_dual_norm_of_all_rows(threat):
    net = supernet(torch.float64).eval()
    images, labels = batch(4, dtype=torch.float64)
    rows = torch.stack([torch.func.jacrev(lambda x: net(x[None])[0])(image) for image in images]).flatten(2)
    expected = -torch.linalg.vector_norm(rows, ord={"linf": 1, "l2": 2, "l1": math.inf}[threat.norm], dim=2).mean(dim=1)
    torch.testing.assert_close(Jacobian().score(net, images, labels, threat), expected, rtol=1e-12, atol=0)
    assert set(DUAL_ORDER) == {"linf", "l2", "l1"}


def test_rows_taken_in_several_passes_are_the_same_rows(monkeypatch):
    net = supernet(torch.float64).eval()
    images, labels = batch(4, dtype=torch.float64)
    module = importlib.import_module("robustnas_plugins.metrics.jacobian")
    scores = []
    for rows in (None, 2):
        for at_once in (10, 2, 1):
            monkeypatch.setattr(module, "ROWS_AT_ONCE", at_once)
            torch.manual_seed(0)
            scores.append(Jacobian(rows=rows).score(net, images, labels, THREATS[0]).detach())
    for first in (0, 3):
        torch.testing.assert_close(scores[first + 1], scores[first])
        torch.testing.assert_close(scores[first + 2], scores[first])
    assert (scores[0] - scores[3]).abs().min() > 0


def test_sampled_rows_are_unbiased_and_without_replacement():
    net = supernet().eval()
    images, labels = batch(3)
    exact = Jacobian().score(net, images, labels, THREATS[0]).detach()
    torch.testing.assert_close(Jacobian(rows=3).score(net, images, labels, THREATS[0]).detach(), exact)
    torch.manual_seed(1)
    repeated = images.repeat(400, 1, 1, 1)
    for rows in (1, 2):
        sample = Jacobian(rows=rows).score(net, repeated, labels.repeat(400), THREATS[0]).detach().view(400, 3)
        assert sample.std(dim=0).min() > 0
        error = (sample.mean(dim=0) - exact).abs() / (sample.std(dim=0) / 20)  # in standard errors
        assert error.max() < 4
        # 3 rows, no row twice: only 3 values are possible, of one row or of two
        assert all(len(column.mul(1e4).round().unique()) == 3 for column in sample.T)
    with pytest.raises(OptionError, match="rows: 4 of a network with 3 classes"):
        Jacobian(rows=4).score(net, images, labels, THREATS[0])


def test_jacobian_is_differentiable_in_alpha_and_weights():
    net = supernet(torch.float64, torch.tanh).eval()
    images, labels = batch(4, dtype=torch.float64)

    def value():
        return Jacobian().score(net, images, labels, THREATS[1]).mean()

    for parameter, place in ((net.table, (0, 0)), (net.table, (1, 2)), (net.edges[0].convolution.weight, (1, 2, 0, 1))):
        (gradient,) = torch.autograd.grad(value(), parameter)
        with torch.no_grad():
            parameter[place] += 1e-6
            above = value().item()
            parameter[place] -= 2e-6
            below = value().item()
            parameter[place] += 1e-6
        assert float(gradient[place]) == pytest.approx((above - below) / 2e-6, rel=1e-5)
        assert abs(above - below) > 1e-9


def test_jacobian_of_a_linear_network_worked_by_hand():
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2, 2, bias=False))
    net[1].weight.data = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    images, labels = torch.rand(3, 2, 1, 1), torch.zeros(3, dtype=torch.long)
    with torch.no_grad():
        linf, l2, l1 = (Jacobian().score(net, images, labels, threat) for threat in THREATS)
    torch.testing.assert_close(linf, torch.full((3,), -(7.0 + 1.0) / 2))
    torch.testing.assert_close(l2, torch.full((3,), -(5.0 + 1.0) / 2))
    torch.testing.assert_close(l1, torch.full((3,), -(4.0 + 1.0) / 2))
    assert not linf.requires_grad


@pytest.mark.parametrize("threat", THREATS, ids=str)
@pytest.mark.parametrize("metric", METRICS, ids=str)
def test_a_metric_leaves_everything_as_it_was(metric, threat):
    """Identities, modes and gradients stay; running statistics move by one training pass, of a loss alone."""
    net = supernet()
    images, labels = batch()
    given = images.clone()
    net.edges[0].norm.eval()
    modes = [module.training for module in net.modules()]
    identities = [id(tensor) for tensor in (*net.parameters(), *net.buffers())]
    parameters = [p.detach().clone() for p in net.parameters()]
    parts = [part for part in ("score", "inner_loss", "outer_loss") if hasattr(metric, part)]
    assert parts
    for part in parts:
        counted = int(net.stem[1].num_batches_tracked)
        if part == "score":
            with frozen_statistics(net):
                metric.score(net, images, labels, threat).mean().backward(inputs=[net.table])
        else:
            loss = getattr(metric, part)(net, images, labels, threat, context())
            assert loss.shape == ()
            loss.backward(inputs=[net.table])
        # one training pass, whatever attack came before it
        assert int(net.stem[1].num_batches_tracked) == counted + (part != "score")
    assert [module.training for module in net.modules()] == modes
    assert [id(tensor) for tensor in (*net.parameters(), *net.buffers())] == identities
    assert all(torch.equal(a, b) for a, b in zip(parameters, net.parameters(), strict=True))
    assert [name for name, p in net.named_parameters() if p.grad is not None] == ["table"]
    assert torch.equal(images, given)
    assert not images.requires_grad


def test_perturbed_mixing_weights_are_mixing_weights():
    torch.manual_seed(0)
    p = torch.randn(50, 8).softmax(dim=1)
    moved = perturbed(p, 0.6 * torch.rand(50, 8) - 0.3)
    assert moved.min() >= 0
    torch.testing.assert_close(moved.sum(dim=1), torch.ones(50))
    assert (moved - p).abs().max() > 0.3  # the trap that `mixing` documents: further than eps after the scaling
    torch.testing.assert_close(perturbed(p, torch.zeros(50, 8)), p)
    assert torch.equal(perturbed(p, -torch.ones(50, 8)), p)  # nothing left of any row
    variable = p.clone().requires_grad_()
    perturbed(variable, -torch.ones(50, 8)).square().sum().backward()
    assert variable.grad.isfinite().all()


class Recorder(TinySupernet):
    """Notes the mixing weights and images it was given."""

    def forward(self, images, mixing=None):
        self.images, self.given = images, mixing
        return super().forward(images, mixing)


def test_random_noise_on_alpha():
    torch.manual_seed(0)
    net = Recorder()
    images, labels = batch()
    clean = net.mixing()["normal"]
    for progress, eps in ((0.0, 0.03), (0.5, 0.165), (1.0, 0.3)):  # the schedule is linear
        RandomNoise().inner_loss(net, images, labels, THREATS[0], context(progress, 7))
        assert torch.equal(net.images, images)
        drawn = 2 * torch.rand(clean.shape, generator=context(progress, 7).generator) - 1
        moved = (clean + eps * drawn).clamp(0, 1)
        torch.testing.assert_close(net.given["normal"], moved / moved.sum(dim=1, keepdim=True))
    RandomNoise(start=0, end=0).inner_loss(net, images, labels, THREATS[0], context())
    torch.testing.assert_close(net.given["normal"], clean)


@pytest.mark.parametrize("distribution", ["uniform", "gaussian"])
def test_random_noise_on_images(distribution):
    torch.manual_seed(0)
    net = Recorder()
    images, labels = torch.full((40, 2, 6, 6), 0.5), torch.arange(40) % 3

    def noise(**options):
        RandomNoise(target="input", distribution=distribution, **options).inner_loss(
            net, images, labels, THREATS[0], context()
        )
        assert net.given is None
        return net.images - images

    epsilon = THREATS[0].epsilon
    expected = epsilon if distribution == "gaussian" else epsilon / 3**0.5
    assert noise().std().item() == pytest.approx(expected, rel=0.05)
    assert (noise().abs().max() <= epsilon + 1e-6) == (distribution == "uniform")
    assert noise(start="0/255", end="32/255").std().item() == pytest.approx(2 * expected, rel=0.05)
    noise(start=2.0, end=2.0)
    assert net.images.min() == 0
    assert net.images.max() == 1


def test_random_noise_on_images_spreads_an_l1_radius_over_the_pixels():
    torch.manual_seed(0)
    net, threat = Recorder(), ThreatModel("l1", 7.2)
    images, labels = torch.full((40, 2, 6, 6), 0.5), torch.arange(40) % 3
    RandomNoise(target="input").inner_loss(net, images, labels, threat, context())
    assert 0.09 < (net.images - images).abs().max() <= 0.1 + 1e-6
    assert threat.distance(net.images, images).max() <= 7.2
    RandomNoise(target="input", start=0.3, end=0.3).inner_loss(net, images, labels, threat, context())
    assert 0.29 < (net.images - images).abs().max() <= 0.3 + 1e-6


def test_adversarial_alpha_raises_the_loss_and_never_lowers_it():
    net = supernet()
    rises, noise = [], []
    for seed in range(5):
        images, labels = batch(8, seed)

        def loss(mixing, images=images, labels=labels):
            with scratch_statistics(net), torch.no_grad():
                net(images)
                with frozen_statistics(net):
                    return F.cross_entropy(net(images, mixing=mixing), labels).item()

        worst = AdversarialAlpha().ascend(net, images, labels, context(0.5, seed))
        noisy = perturbed(net.mixing()["normal"], 0.165 * (2 * torch.rand(2, 3) - 1)).detach()
        assert worst["normal"].min() >= 0
        torch.testing.assert_close(worst["normal"].sum(dim=1), torch.ones(2))
        assert not worst["normal"].requires_grad
        rises.append(loss(worst) - loss(net.mixing()))
        noise.append(loss({"normal": noisy}) - loss(net.mixing()))
    assert min(rises) >= 0
    assert sum(rises) > sum(map(abs, noise)) > 0


def test_adversarial_alpha_is_dropped_where_the_loss_did_not_rise():
    """A loss that the mixing weights cannot raise: minus the distance from the clean ones."""
    net = supernet()
    images, labels = batch()
    clean = net.mixing()["normal"].detach()

    class Flat(Recorder):
        def forward(self, images, mixing=None):
            super().forward(images, mixing)
            p = clean if mixing is None else mixing["normal"]
            return -(p - clean).square().sum() + torch.zeros(len(images), 3)

    flat = Flat()
    flat.load_state_dict(net.state_dict())
    mean = Context(0.5, torch.Generator().manual_seed(0), lambda z, _: z.mean())
    worst = AdversarialAlpha().ascend(flat, images, labels, mean)
    assert torch.equal(worst["normal"], clean)


def test_adversarial_alpha_honours_its_options():
    net = supernet()
    images, labels = batch()

    def change(progress, **options):
        worst = AdversarialAlpha(**options).ascend(net, images, labels, context(progress))
        return (worst["normal"] - net.mixing()["normal"]).abs().max().item()

    assert change(0.0) < 0.1 < change(1.0)
    assert change(0.0, start=0.3) == pytest.approx(change(1.0), abs=1e-6)
    assert change(1.0, end=0.0) == 0
    assert change(1.0, steps=1) != change(1.0, steps=7)


def test_alpha_keeps_its_gradient_through_the_perturbation():
    for metric in (RandomNoise(), AdversarialAlpha()):
        net = supernet()
        loss = metric.inner_loss(net, *batch(), THREATS[0], context())
        (gradient,) = torch.autograd.grad(loss, net.table)
        assert gradient.abs().max() > 0


def test_adversarial_alpha_perturbs_edge_weights_or_leaves_them():
    """On `pc-darts` this is PC-DARTS-ADV, whose paper does not say which."""
    net = next(small_networks("pc-darts", (1, 8, 8))).train()
    images, labels = torch.rand(4, 1, 8, 8), torch.arange(4) % 3
    clean = net.mixing()
    for edges in (True, False):
        # the loss rises nearly always; where it does not, nothing is perturbed
        metric = AdversarialAlpha(steps=2, edges=edges)
        found = [metric.ascend(net, images, labels, context(1.0, seed)) for seed in range(3)]
        moved = {name for worst in found for name, p in worst.items() if not torch.equal(p, clean[name].detach())}
        assert all(worst.keys() == clean.keys() for worst in found)
        assert any("beta" not in name for name in moved)
        assert any("beta" in name for name in moved) == edges


@pytest.mark.parametrize("levels", ["both", "inner"])
def test_input_noise_weighs_the_losses_of_clean_and_of_noisy_images(levels):
    torch.manual_seed(0)
    net = Recorder()
    images, labels = torch.full((40, 2, 6, 6), 0.5), torch.arange(40) % 3
    plain = F.cross_entropy(net(images), labels)
    metric = InputNoise(eps=0.1, share=0.3, levels=levels)
    for part, sees in (("inner_loss", True), ("outer_loss", levels == "both")):
        mixed = getattr(metric, part)(net, images, labels, THREATS[0], context())
        InputNoise(eps=0.1, share=1).inner_loss(net, images, labels, THREATS[0], context())
        noise = net.images - images
        assert noise.std().item() == pytest.approx(0.1 / 3**0.5, rel=0.05)
        noisy = F.cross_entropy(net(net.images), labels)
        torch.testing.assert_close(mixed, 0.3 * noisy + 0.7 * plain if sees else plain)


@pytest.mark.parametrize("threat", THREATS, ids=str)
def test_input_noise_is_of_the_threats_size(threat):
    torch.manual_seed(0)
    net = Recorder()
    images, labels = torch.full((40, 2, 6, 6), 0.5), torch.arange(40) % 3
    scale = threat.epsilon / (72 if threat.norm == "l1" else 1)
    for distribution, deviation in (("uniform", scale / 3**0.5), ("gaussian", scale)):
        metric = InputNoise(distribution=distribution, share=1)
        metric.inner_loss(net, images, labels, threat, context())
        # noise beyond the box is cut off
        assert (net.images - images).std().item() == pytest.approx(deviation, rel=0.06 if scale < 0.2 else 0.4)
        assert 0 <= net.images.min() <= net.images.max() <= 1


@pytest.mark.parametrize("levels", ["both", "inner"])
def test_adversarial_training_sees_perturbed_images(levels):
    torch.manual_seed(0)
    net = Recorder()
    images, labels = batch()
    metric = AdversarialTraining(steps=3, levels=levels)
    plain = F.cross_entropy(net(images), labels)
    for part, perturbs in (("inner_loss", True), ("outer_loss", levels == "both")):
        loss = getattr(metric, part)(net, images, labels, THREATS[0], context())
        distance = THREATS[0].distance(net.images, images)
        assert net.training
        if perturbs:
            assert loss > plain + 1e-4
            assert 0 < distance.min() <= distance.max() <= THREATS[0].epsilon + 1e-6
        else:
            torch.testing.assert_close(loss, plain)
            assert distance.max() == 0


def test_adversarial_training_honours_its_options():
    torch.manual_seed(0)
    net = Recorder()
    images, labels = torch.full((4, 2, 6, 6), 0.5), torch.arange(4) % 3

    def found(**options):
        AdversarialTraining(**options).inner_loss(net, images, labels, ThreatModel("l2", 1.0), context())
        return net.images

    assert torch.equal(found(steps=2, step_size="64/255"), found(steps=2, step_size=64 / 255))
    assert not torch.equal(found(steps=2), found(steps=2, step_size="8/255"))
    assert not torch.equal(found(steps=2), found(steps=3))
    assert torch.equal(found(), found(steps=7, step_size=0.25))


@pytest.mark.parametrize(
    ("plugin", "options", "message"),
    [
        (Jacobian, {"rows": 0}, "rows"),
        (Jacobian, {"rows": 1.5}, "rows"),
        (Jacobian, {"scale": "ln"}, "scale"),
        (Jacobian, {"normalise": 1}, "normalise"),
        (RandomNoise, {"target": "weights"}, "target"),
        (RandomNoise, {"distribution": "gaussian"}, "target: input"),
        (RandomNoise, {"distribution": "cauchy"}, "distribution"),
        (RandomNoise, {"start": -0.1}, "start"),
        (RandomNoise, {"end": "1/0"}, "divides by zero"),
        (AdversarialAlpha, {"steps": 0}, "steps"),
        (AdversarialAlpha, {"end": -1}, "end"),
        (AdversarialTraining, {"steps": 0}, "steps"),
        (AdversarialTraining, {"step_size": 0.0}, "step_size"),
        (AdversarialTraining, {"levels": "outer"}, "levels"),
        (AdversarialAlpha, {"edges": 1}, "edges"),
        (InputNoise, {"share": 0}, "share"),
        (InputNoise, {"eps": -1}, "eps"),
        (InputNoise, {"distribution": "cauchy"}, "distribution"),
        (CertifiedBound, {"method": "crow"}, "method"),
        (CertifiedBound, {"targets": "all"}, "targets"),
        (CertifiedBound, {"epsilon": -0.1}, "epsilon"),
        (CertifiedBound, {"epsilon": "1/0"}, "divides by zero"),
        (CertifiedBound, {"ramp": 1.5}, "ramp"),
        (CertifiedRadius, {"method": "crow"}, "method"),
        (CertifiedRadius, {"scale": "margin"}, "scale"),
        (CertifiedRadius, {"steps": -1}, "steps"),
        (CertifiedRadius, {"precision": "half"}, "precision"),
    ],
)
def test_options_that_cannot_be_honoured_are_refused(plugin, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        plugin(**options)


def test_every_option_says_what_it_is():
    plugins = {REGISTERED.load(name) for name in shipped(REGISTERED)}
    assert len(plugins) >= 14
    fields = [field for plugin in plugins for field in plugin.__attrs_attrs__]
    assert len(fields) >= 10
    assert all(field.metadata["help"] for field in fields)
