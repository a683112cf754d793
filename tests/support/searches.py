"""A step of a search that several tests look at, and when two searches are the same."""

import torch
import torch.nn.functional as F
from attrs import frozen

from robustnas.contracts import Context
from robustnas.nn.normalize import PixelSupernet
from robustnas.search.hypergradient.step import Step
from robustnas.search.objective import Objective
from robustnas.search.weights import weights
from robustnas.threat import ThreatModel
from support.networks import TinySupernet, batch, parts

THREAT = ThreatModel("linf", "8/255")
GAMMA = 0.1


@frozen
class LogitSize:
    """A smooth score: minus the mean square of the logits."""

    def score(self, network, images, labels, threat):
        return -network(images).square().mean(dim=1)


@frozen
class SmoothJacobian:
    """`Jacobian` with squared norms, which have no kink."""

    def score(self, network, images, labels, threat):
        images = images.detach().requires_grad_()
        (row,) = torch.autograd.grad(network(images)[:, 0].sum(), images, create_graph=True)
        return -row.flatten(1).square().sum(dim=1)


def make_step(metrics=(), gamma=GAMMA, activation=torch.tanh, lr=0.05, decay=0.03, momentum=0.9, rehearsed=2, cuts=1):
    """A step in float64, with filled momentum buffers."""
    torch.manual_seed(3)
    supernet = PixelSupernet(TinySupernet(activation=activation), (0.5, 0.5), (0.25, 0.25)).double()
    w = weights(supernet)
    optimizer = torch.optim.SGD(w.parameters, lr, momentum=momentum, weight_decay=decay)
    train, val = batch(8, 1, torch.float64), batch(8, 2, torch.float64)
    for _ in range(rehearsed):
        optimizer.zero_grad()
        torch.autograd.backward(F.cross_entropy(supernet(train[0]), train[1]), inputs=w.parameters)
        optimizer.step()
    optimizer.zero_grad()
    objective = Objective(tuple((1.0, metric) for metric in metrics), THREAT, gamma)
    inner, outer = (Context(0.5, torch.Generator().manual_seed(seed), F.cross_entropy) for seed in (4, 5))
    return Step(
        supernet=supernet,
        objective=objective,
        weights=w,
        w_optimizer=optimizer,
        train=parts(*train, cuts),
        val=parts(*val, cuts),
        inner=inner,
        outer=outer,
    )


def timeless(record):
    machine = ("waiting", "peak_memory")
    return {name: value for name, value in record.items() if not name.endswith("_seconds") and name not in machine}


def same(a, b):
    """Everything two checkpoints hold, bit for bit."""
    assert len(a["supernet"]) > 10
    assert set(a["supernet"]) == set(b["supernet"])
    assert all(torch.equal(value, b["supernet"][name]) for name, value in a["supernet"].items())
    for optimizer in ("w_optimizer", "alpha_optimizer"):
        torch.testing.assert_close(a[optimizer], b[optimizer], rtol=0, atol=0)
    assert list(map(timeless, a["records"])) == list(map(timeless, b["records"]))
