"""Soundness as a claim with evidence: no admissible image was found below a certified bound, and faults are found.

    python -m pytest -n 0 -m "" tests/evidence/test_soundness.py     prints what was checked

The campaign is run once; the tests judge it (`python tests/benchmarks/soundness.py` runs more of it). A violation names
its network's seed, threat model and method.
"""

from __future__ import annotations

import copy

import foolbox
import pytest
import torch
from torch import Tensor, nn

from evidence.soundness.campaign import (
    OPTIMISED,
    QUICK,
    SEEDS,
    WALKED,
    Campaign,
    campaign,
    enter_open,
    open_case,
    random_case,
    some_threat,
    space_case,
)  # fmt: skip
from evidence.soundness.ledger import Ledger
from evidence.soundness.networks import (
    OF_VALUES,
    RandomNetwork,
    activations,
    blind,
    shipped,
    some_images,
    spaces,
)  # fmt: skip
from evidence.soundness.points import admissible, in_single, lowest, margins_at, sizes, some_points
from robustnas import bounds, certify
from robustnas.bounds import METHODS
from robustnas.threat import NORMS, ThreatModel

SPLIT = {11: "linf", 4: "l2", 9: "l1"}
"""Random networks with rectifiers for which splits gain, in every run."""


def test_no_bound_is_violated_in_5_000_checks():
    """What stands for the campaign in every run: both claims, every norm, every method."""
    ledger = Ledger()
    for seed, norm in ((1, "linf"), (1, "l2"), (1, "l1"), (0, "linf")):
        case = random_case(seed, norm)
        ledger.double(case)
        ledger.single(case)
    for seed, norm in SPLIT.items():
        enter_open(ledger, random_case(seed, norm), space_case("chain", True, norm, 0.0))
    assert not ledger.violations
    assert ledger.checks >= 5000
    assert {(method, norm) for _, method, norm in ledger.lines} >= {
        (method, norm) for method in QUICK for norm in NORMS
    }
    assert {method for _, method, _ in ledger.lines} == set(WALKED)


def test_branch_and_bound_has_margins_to_split_for():
    """Otherwise the campaign would look at the bounds of `crown` once more."""
    case = open_case(random_case(11, "linf"))
    with blind(), torch.no_grad():
        plain, *others = (
            bounds.margins(case.network, case.images, case.labels, case.threat, method)
            for method in ("crown", *OPTIMISED)
        )
    assert (plain < 0).all()
    for other in others:
        assert (other > plain + 1e-4).all()


@pytest.fixture(scope="module")
def found() -> Campaign:
    """The campaign, once."""
    return campaign()


@pytest.mark.slow
def test_no_bound_is_violated_in_100_000_checks(found: Campaign, capsys: pytest.CaptureFixture[str]):
    with capsys.disabled():
        print(f"\n{found.ledger.table()}")
    assert not found.ledger.violations
    assert found.ledger.checks >= 100_000


@pytest.mark.slow
def test_the_campaign_went_everywhere(found: Campaign):
    """Every shipped rule, space, norm, method and both number formats; and close enough to matter."""
    names = {rule: functions[0].__name__ for rule, functions in shipped().items()}
    missing = [name for rule, name in names.items() if rule not in found.used]
    assert not missing, f"no random network uses the rules of {missing}: add them to soundness/networks.py"
    assert len(names) >= 20
    lines = found.ledger.lines
    claims = ("float64", "float32, exact network", "float32, rounded network")
    assert set(lines) == {(claim, method, norm) for claim in claims for method in WALKED for norm in NORMS}
    for (claim, method, norm), line in lines.items():
        assert line.checks > 1000, (claim, method, norm)
        # the networks that are opened are few, and a bound of theirs is attained in one norm or another
        near = min(lines[claim, method, other].share for other in (NORMS if method == "bab" else (norm,)))
        if method != "ibp":
            assert near < 0.02, f"{claim}, {method}, {norm}: no sampled image came near a bound"
    assert {"darts", "pc-darts"} <= set(spaces())
    assert len(found.cases) == 2 * SEEDS + 3 * len(spaces()) + 1 + len(activations()) + len(OF_VALUES)


@pytest.mark.parametrize("norm", NORMS)
def test_images_that_attacks_of_foolbox_find_do_not_go_below_a_bound(norm: str):
    net, (images, labels) = RandomNetwork(3), some_images(3, 4)
    with torch.no_grad():
        labels = net(images).argmax(dim=1)
    threat = ThreatModel(norm, {"linf": 0.02, "l2": 0.1, "l1": 0.3}[norm])
    model = foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
    descent = {"linf": foolbox.attacks.LinfPGD, "l2": foolbox.attacks.L2PGD, "l1": foolbox.attacks.L1PGD}[norm]
    carlini = foolbox.attacks.L2CarliniWagnerAttack(binary_search_steps=3, steps=20, stepsize=0.05)
    start = admissible(torch.ones_like(images).flatten(1).double(), images.flatten(1).double(), threat)
    corner = in_single((images.double() + start.view(images.shape))[None], images)[0]
    found = []
    for given in (images, corner):
        found.append(descent(steps=10, rel_stepsize=0.3)(model, given, labels, epsilons=threat.epsilon)[1])
        found.append(carlini(model, given, labels, epsilons=None)[1])
    delta = torch.stack(found).detach().double() - images.double()
    inside = admissible(delta.flatten(2), images.flatten(1).double(), threat).view(delta.shape)
    points = in_single(images.double() + inside, images)
    assert (sizes((points.double() - images.double()).flatten(2), norm) > 0.5 * threat.epsilon).sum() >= 8
    with torch.no_grad():
        values = margins_at(net, points, labels)[0]
    for method in METHODS:
        assert (certify.margins(net, images, labels, threat, method) <= values).all()


def cancelling() -> nn.Sequential:
    """Hidden values of some 400 that cancel to logits near 0: rounding is that of 400, not that of the logits."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        net = nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 2)).eval()
        with torch.no_grad():
            net[1].weight.add_(1.0)
            net[3].weight[0] = net[3].weight[1] + 1e-4 * torch.randn(64)
            net[3].bias.sub_(net(torch.full((1, 1, 28, 28), 0.5))[0])
    return net


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("spread", "share"), [(0.02, 0.0), (2e-4, 2e-3)])
def test_close_calls_are_not_certified_where_large_numbers_cancel(spread: float, share: float, norm: str):
    """All neurons are active, so the network is affine and its worst image is known.

    The last bias is moved until the certified margin is just above `share` of the largest logit: then the worst
    image's has to be above 0, too.  So has that of the worst image within the certified radius, where the search leaves
    the margin close to 0.  The smaller the images' spread, the smaller the logits beside what cancels.
    """
    net = cancelling()
    images = 0.5 + spread * torch.rand(8, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    label = torch.tensor([0])
    threat = ThreatModel(norm, spread * {"linf": 5e-3, "l2": 0.1, "l1": 1.0}[norm])
    exact = copy.deepcopy(net).double()
    slopes = ((exact[3].weight[0] - exact[3].weight[1]) @ exact[1].weight).detach()

    def worst(image: Tensor, threat: ThreatModel) -> float:
        clean = image.double().flatten(1)
        point = in_single((clean + lowest(slopes[None], clean, threat)).view(1, *image.shape), image)
        with torch.no_grad():
            return margins_at(exact, point.double(), label)[0].item()

    certified = 0
    for image in images[:, None]:
        with torch.no_grad():
            wanted = 2e-6 + share * net(image).abs().max()
            net[3].bias[0] += wanted - certify.margins(net, image, label, threat)[0, 0]
            exact[3].bias.copy_(net[3].bias)
        found, true = certify.margins(net, image, label, threat).item(), worst(image, threat)
        certified += found > 0
        assert not found > 0 > true, f"certified {found:.2g}, and an admissible image has margin {true:.2g}"
        radius = certify.radius(net, image, label, norm, tolerance=0.1).item()
        if radius > 0:
            assert worst(image, ThreatModel(norm, radius)) > 0
    assert certified > 3


@pytest.mark.parametrize("norm", NORMS)
def test_no_image_within_a_certified_radius_is_misclassified(norm: str):
    checked = 0
    for seed in range(6):
        net, (images, _) = RandomNetwork(seed), some_images(seed)
        exact = copy.deepcopy(net).double()
        with torch.no_grad():
            labels = net(images).argmax(dim=1)
        for image, label, radius in zip(images, labels, certify.radius(net, images, labels, norm), strict=True):
            threat = ThreatModel(norm, radius.item())
            points = some_points(exact, image[None].double(), label[None], threat, seed)
            with torch.no_grad():
                points = in_single(points, image[None])
                values = [margins_at(exact, points.double(), label[None])[0], margins_at(net, points, label[None])[0]]
            if radius > 0:
                assert all((value > 0).all() for value in values), f"RandomNetwork({seed}), {threat}"
                checked += sum(value.numel() for value in values)
    assert checked > 2400


class Tilted(nn.Module):
    """(N, d) -> (N, d): c z + s f(z), entry by entry, with z = l + (u - l) x; s is 1 or -1.

    Over x in [0, 1] its least value is where a line of slope -c touches s f from below: with many c the bounds of many
    (l, u) say whether the lines enclose f everywhere, not only at the ends.
    """

    def __init__(self, activation: str, sign: float, lower: Tensor, width: Tensor, tilt: Tensor):
        super().__init__()
        self.function, self.sign = activations()[activation], sign
        self.lower, self.width, self.tilt = lower, width, tilt
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        z = images * self.width + self.lower
        return self.sign * self.function(z) + z * self.tilt


@pytest.mark.parametrize("activation", activations())
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_lines_of_an_activation_enclose_it(activation: str, dtype: torch.dtype):
    """On intervals from 1e-6 to 100 wide, around 0 and far from it, against 400 points of each."""
    count, draw = 256, torch.Generator().manual_seed(0)
    width = 10 ** (8 * torch.rand(count, generator=draw, dtype=torch.float64) - 6)
    middle = torch.randn(count, generator=draw, dtype=torch.float64) * torch.tensor([0.3, 3.0, 30.0, 1e-3]).repeat(64)
    # a good part with the origin, a kink or an end of a flat piece inside, or at an end
    lower = (middle - width / 2).to(dtype)
    lower[::7] = 0.0
    width = width.to(dtype)
    width[3::7] = -lower[3::7].clamp_max(-1e-3)
    tilt = torch.randn(count, generator=draw).to(dtype)
    for sign in (1.0, -1.0):
        net = Tilted(activation, sign, lower, width, tilt)
        images, everything = torch.full((1, count), 0.5, dtype=dtype), ThreatModel("linf", 0.5)
        bound = bounds.linear_bounds(net, images, torch.eye(count, dtype=dtype), everything)[0]
        exact = Tilted(activation, sign, lower.double(), width.double(), tilt.double())
        least = exact(torch.linspace(0, 1, 400, dtype=torch.float64)[:, None].expand(-1, count)).amin(dim=0)
        # what the largest of the numbers met on the way may have lost
        size = 1 + (lower.abs() + width) * (1 + tilt.abs())
        assert bound.isfinite().all()
        assert (bound <= least + 64 * torch.finfo(dtype).eps * size).all()
        # nor is it vacuous: exact in the limit of narrow intervals
        narrow = width < 1e-4
        assert narrow.sum() > 30
        assert (least - bound)[narrow].max() < 1e-2


@pytest.mark.parametrize("norm", NORMS)
def test_the_checked_points_are_admissible_and_reach_the_end_of_the_region(norm: str):
    """The instrument itself: no point outside, and a linear function's lowest value is attained."""
    images, labels = some_images(5, 3)
    net = RandomNetwork(5)
    threat = some_threat(norm, 3)
    points = some_points(copy.deepcopy(net).double(), images.double(), labels, threat, 0)
    clean = images.double().flatten(1)
    delta = points.flatten(2) - clean
    assert len(points) > 100
    assert (sizes(delta, norm) <= threat.epsilon * (1 + 1e-9)).all()
    assert ((points >= 0) & (points <= 1)).all()
    slopes = torch.randn(50, *clean.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    best = lowest(slopes, clean, threat)
    assert (sizes(best, norm) <= threat.epsilon * (1 + 1e-9)).all()
    assert ((clean + best >= -1e-12) & (clean + best <= 1 + 1e-12)).all()
    reached = (slopes * best).sum(-1)
    for other in points.flatten(2) - clean:
        assert (reached <= (slopes * other).sum(-1) + 1e-9).all()
