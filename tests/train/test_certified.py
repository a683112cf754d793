"""Certified training: the loss is what it says, statistics move as ever, it resumes bit for bit, and it certifies."""

from __future__ import annotations

import copy
import json
from contextlib import ExitStack
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
import torch.nn.functional as F
from attrs import evolve, frozen
from torch import nn

from robustnas import certify, train
from robustnas.bounds import IBP, CrownIBP
from robustnas.contracts import TrainingContext
from robustnas.errors import InputError, OptionError, RunError
from robustnas.nn.batch_statistics import noted_statistics
from robustnas.nn.normalize import PixelNetwork
from robustnas.nn.recompute import recompute
from robustnas.plan import digest, settings
from robustnas.runtime import seeding
from robustnas.runtime.artifacts import StageFolder
from robustnas.threat import NORMS, ThreatModel
from robustnas.train.regimes import certified as module
from robustnas.train.regimes.bounded import worst_logits
from robustnas.train.regimes.certified import Certified, Moment
from robustnas.train.regimes.ramp import grown
from robustnas.train.regimes.standard import Standard
from robustnas.train.settings import Train
from robustnas_plugins.search_spaces.darts import Darts
from support import places
from support.networks import Bars, TinyNetwork, TinySpace, convolutional
from support.shared_batches import StillSpace
from support.training_context import loss_of

CPU = torch.device("cpu")
THREAT = ThreatModel("linf", 0.05)
IMAGES = Bars().split("train")
COUNT = 6
"""Images of a step."""

REGIME = Certified(warmup_epochs=0.5, ramp_epochs=2)
SETTINGS = Train(epochs=4, batch=16, lr=0.1, cutout=2, crop=1, drop_path=0.2, auxiliary=0.4, regime=REGIME)


def task(**changes: Any) -> train.TrainTask:
    return train.TrainTask(Bars(), TinySpace(), {"width": 4}, THREAT, evolve(SETTINGS, **changes), seed=3)


def toy() -> PixelNetwork:
    """Without dropout, in float64, in training mode."""
    with seeding.seeded(0, "test"):
        network = TinyNetwork(4, 3, True)
    network.body[3].p = 0.0  # type: ignore[union-attr,assignment]
    return PixelNetwork(network, Bars.mean, Bars.std).double()


def cells(recomputed: bool = False) -> PixelNetwork:
    """Two cells with every kind of layer a cell has, as `toy`."""
    space = Darts(network_cells=2, network_channels=2)
    with seeding.seeded(1, "test"):
        network = space.network(space.published["DARTS_V2"], (1, 6, 6), 3)
    if recomputed:
        recompute(network, "train.recompute_cells")
    return PixelNetwork(network, Bars.mean, Bars.std).double()


def at(
    network: PixelNetwork, epsilon: float, kappa: float = 0.5, beta: float = 0.0, norm: str = "linf", **options: Any
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The loss, the logits and which images are certified, once the schedule is at these figures."""
    regime = Certified(epsilon, 0, 0, kappa_end=kappa, beta_end=beta)
    images, labels = IMAGES.pixels[:COUNT].double(), IMAGES.labels[:COUNT]
    found = loss_of(regime, network, images, labels, ThreatModel(norm, 0.1), **options)
    return found.loss, found.logits, found.figures["certified"]


def gradients(network: nn.Module) -> list[torch.Tensor]:
    return [parameter.grad for parameter in network.parameters() if parameter.grad is not None]


def test_epsilon_grows_smoothly_from_0_to_1_and_stays():
    times = [step / 1000 for step in range(1001)]
    values = [grown(time) for time in times]
    assert values[0] == grown(-1.0) == 0
    assert values[-1] == grown(2.0) == 1
    steps = [after - before for before, after in pairwise(values)]
    assert min(steps) > 0
    assert all(after >= before - 1e-12 for before, after in pairwise(steps)), "a slope fell"
    assert max(after - before for before, after in pairwise(steps)) < 1e-4, "the slope jumps"
    assert steps[-1] == pytest.approx(steps[300])


def test_the_schedule_moves_all_three_together():
    regime, threat = Certified(0.3, 1, 4, kappa_end=0.2, beta_start=0.8, beta_end=0.3), THREAT
    assert regime.moment(0.1, 10, threat) == regime.moment(1.0, 10, threat) == Moment(0.0, 1.0, 0.8)
    middle = regime.moment(3.0, 10, threat)
    share = grown(0.5)
    assert middle.epsilon == pytest.approx(0.3 * share)
    assert middle.kappa == pytest.approx(1 - 0.8 * share)
    assert middle.beta == pytest.approx(0.8 - 0.5 * share)
    for passed in (5.0, 7.5, 10.0):
        found = regime.moment(passed, 10, threat)
        assert (found.epsilon, found.kappa, found.beta) == pytest.approx((0.3, 0.2, 0.3))


def test_the_ends_of_the_schedule_are_where_the_options_say():
    for passed, epochs, warmup, wanted in ((0.01, 1, 0, 0.3), (1.0, 2, 1, 0), (1.01, 2, 1, 0.3)):
        assert Certified(0.3, warmup, 0).moment(passed, epochs, THREAT).epsilon == wanted, "without a ramp"
    for epochs in (1, 2, 7, 600):
        Train(epochs=epochs, regime=Certified())
        assert Certified().moment(epochs, epochs, THREAT).epsilon == THREAT.epsilon
        assert Certified().moment(epochs / 20, epochs, THREAT).epsilon == 0


@pytest.mark.parametrize("make_network", [toy, cells])
@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_at_epsilon_0_the_loss_and_its_gradients_are_those_of_standard_training(make_network: Any, beta: float):
    """So the statistics that are lent are those of the pass, and carry their gradients."""
    one, two = make_network(), make_network()
    # a radius below rounding: with 0 itself nothing would be bounded
    value, logits, _ = at(one, 1e-300, kappa=0.25, beta=beta, backward=True)
    images, labels = IMAGES.pixels[:COUNT].double(), IMAGES.labels[:COUNT]
    wanted = F.cross_entropy(two(images), labels)
    wanted.backward()
    assert value.item() == pytest.approx(wanted.item(), rel=1e-9)
    assert torch.equal(logits, copy.deepcopy(make_network())(images))
    assert len(gradients(one)) == len(gradients(two)) >= 5
    for mine, its in zip(gradients(one), gradients(two), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-7, atol=1e-10)


def test_with_epsilon_0_nothing_is_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "margins_within", None)
    images, labels = IMAGES.pixels[:COUNT].double(), IMAGES.labels[:COUNT]
    found = loss_of(Certified(warmup_epochs=1), toy(), images, labels, THREAT, passed=0.5, epochs=10)
    assert found.loss.item() == pytest.approx(F.cross_entropy(found.logits, labels).item())
    assert torch.equal(found.figures["certified"], found.logits.argmax(1) == labels)


@pytest.mark.parametrize("beta", [0.0, 0.4])
def test_its_gradient_is_that_of_the_loss_statistics_included(beta: float):
    network = toy()
    at(network, 0.02, kappa=0.3, beta=beta, backward=True)
    weights = [parameter for parameter in network.parameters() if parameter.grad is not None]
    generator = torch.Generator().manual_seed(5)
    direction = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in weights]
    slope = sum((p.grad * d).sum().item() for p, d in zip(weights, direction, strict=True) if p.grad is not None)
    step, ends = 1e-6, []
    for sign in (1, -1):
        with torch.no_grad():
            for p, d in zip(weights, direction, strict=True):
                p += sign * step * d
        ends.append(at(network, 0.02, kappa=0.3, beta=beta)[0].item())
        with torch.no_grad():
            for p, d in zip(weights, direction, strict=True):
                p -= sign * step * d
    assert slope == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-4)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_no_admissible_image_is_worse_than_the_worst_logits(norm: str, beta: float):
    network, threat = toy(), ThreatModel(norm, {"linf": 0.03, "l2": 0.1, "l1": 0.3}[norm])
    images, labels = IMAGES.pixels[:COUNT].double(), IMAGES.labels[:COUNT]
    judged, _, proved = at(network, threat.epsilon, kappa=0.0, beta=beta, norm=norm)
    generator, worst = torch.Generator().manual_seed(0), -torch.inf
    with noted_statistics(network) as noted:
        with noted.watched():
            network(images)
        with noted.lent(), torch.no_grad():
            clean = F.cross_entropy(network(images), labels)
            for _ in range(50):
                noise = torch.randn(images.shape, generator=generator, dtype=images.dtype).sign()
                logits = network(threat.project(images + noise, images))
                worst = max(worst, F.cross_entropy(logits, labels).item())
                assert not (proved & (logits.argmax(1) != labels)).any()
    assert clean < worst <= judged.item()


def test_it_is_linear_in_kappa_and_in_the_shares_of_both_bounds():
    network = toy()
    network.eval()  # statistics stay as they are, so that passes can be compared
    bounds = {beta: at(network, 0.05, 0.0, beta)[0].item() for beta in (0.0, 1.0)}
    assert bounds[1.0] < bounds[0.0], "CROWN-IBP is the tighter one, and its worst logits cost less"
    assert bounds[1.0] < at(network, 0.05, 0.0, 0.5)[0].item() < bounds[0.0]
    clean, half, robust = (at(network, 0.05, kappa)[0].item() for kappa in (1 - 1e-12, 0.5, 0.0))
    assert clean < robust
    assert half == pytest.approx((clean + robust) / 2)


@pytest.mark.parametrize("norm", NORMS)
def test_the_fused_loss_lies_between_the_clean_one_and_that_of_intervals(norm: str):
    network, epsilon = toy(), {"linf": 0.01, "l2": 0.05, "l1": 0.1}[norm]
    network.eval()
    clean, judged, proved = at(network, epsilon, 1 - 1e-12, 1.0, norm)[0], {}, {}
    for beta in (0.0, 0.5, 1.0):
        options = {"beta_end": beta, "fused": beta > 0}
        judged[beta], proved[beta] = fused(network, epsilon, norm, **options)
    assert clean < judged[1.0] < judged[0.0]
    assert judged[0.5] == pytest.approx((judged[0.0] + judged[1.0]) / 2)
    assert not (proved[0.0] & ~proved[1.0]).any()
    lines = at(network, epsilon, 0.0, 1.0, norm)[2]
    assert not (proved[1.0] & ~lines).any(), "what the bounded loss certifies, all margins do"


def fused(network: PixelNetwork, epsilon: float, norm: str, **options: Any) -> tuple[float, torch.Tensor]:
    """The bounds' loss, and which images are certified."""
    regime = Certified(epsilon, 0, 0, kappa_end=0.0, **options)
    images, labels = IMAGES.pixels[:COUNT].double(), IMAGES.labels[:COUNT]
    found = loss_of(regime, network, images, labels, ThreatModel(norm, 0.1))
    return found.loss.item(), found.figures["certified"]


def test_of_fused_bounds_label_smoothing_adds_what_it_adds_to_intervals():
    network, images, labels = toy().eval(), IMAGES.pixels[:COUNT].double(), IMAGES.labels[:COUNT]
    found = {}
    for smoothing in (0.0, 0.1):
        for beta in (0.0, 1.0):
            regime = Certified(0.01, 0, 0, kappa_end=0.0, beta_end=beta, fused=beta > 0)
            criterion = partial(F.cross_entropy, label_smoothing=smoothing)
            context = TrainingContext(
                1.0, 1, torch.Generator(), criterion, plain_of(criterion), ExitStack().enter_context
            )
            found[smoothing, beta] = regime.loss(network, images, labels, THREAT, context).loss.item()
    assert found[0.1, 1.0] - found[0.0, 1.0] == pytest.approx(found[0.1, 0.0] - found[0.0, 0.0])
    assert found[0.1, 1.0] != found[0.0, 1.0]


def plain_of(criterion: Any) -> Any:
    """The loss of standard training, and the logits."""
    return lambda network, images, labels: (criterion(network(images), labels), network(images))


def test_bounds_are_float32_and_one_without_a_share_is_not_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen: list[tuple[Any, ...]] = []

    def spy(name: str) -> None:
        real = getattr(module, name)

        def noted(*args: Any) -> Any:
            found = real(*args)
            bounds = found if isinstance(found, tuple) else (found,)
            seen.append((args[5:] or "both", torch.is_autocast_enabled("cpu"), {bound.dtype for bound in bounds}))
            return found

        monkeypatch.setattr(module, name, noted)

    spy("margins_within")
    spy("interval_and_linear_margins")
    for beta, wanted in ((0.0, [(IBP(),)]), (0.3, ["both"]), (1.0, [(CrownIBP(),)])):
        seen.clear()
        at(toy(), 0.05, beta=beta)
        assert [method for method, *_ in seen] == wanted
    seen.clear()
    train.run(task(precision="bfloat16", epochs=1, regime=Certified(warmup_epochs=0)), StageFolder(tmp_path), CPU)
    assert seen
    assert all((lower, dtypes) == (False, {torch.float32}) for _, lower, dtypes in seen)


def test_the_auxiliary_head_counts_by_its_weight_whatever_kappa_is():
    for kappa in (0.0, 0.5):
        network = toy()
        network.network.drop_path = 0.0  # type: ignore[assignment]
        head = F.cross_entropy(network.with_auxiliary(IMAGES.pixels[:COUNT].double())[1], IMAGES.labels[:COUNT]).item()
        plain, with_head = (at(network, 0.05, kappa, auxiliary=weight)[0].item() for weight in (0.0, 0.5))
        assert with_head == pytest.approx(plain + 0.5 * head)


def test_worst_logits_stand_at_their_classes():
    bounds = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    wanted = torch.tensor([[0.0, -1.0, -2.0], [-3.0, 0.0, -4.0], [-5.0, -6.0, 0.0]])
    assert torch.equal(worst_logits(bounds, torch.tensor([0, 1, 2])), wanted)


@pytest.mark.parametrize("make_network", [toy, cells])
def test_running_statistics_move_as_in_ordinary_training(make_network: Any):
    one, two = make_network(), make_network()
    identities = {name: id(buffer) for name, buffer in one.named_buffers()}
    for _ in range(2):
        at(one, 0.05, backward=True)
        two(IMAGES.pixels[:COUNT].double())
    buffers = dict(two.named_buffers())
    assert len(buffers) >= 5
    for name, buffer in one.named_buffers():
        assert torch.equal(buffer, buffers[name]), name
        assert id(buffer) == identities[name]
        assert not buffer.requires_grad
    assert all(module.training for module in one.modules())
    assert not any(module._forward_hooks for module in one.modules())


def test_cells_that_are_computed_again_give_the_same_gradients():
    one, two = cells(), cells(recomputed=True)
    values = [at(network, 1e-3, backward=True)[0].item() for network in (one, two)]
    assert values[0] == pytest.approx(values[1], rel=1e-12)
    assert len(gradients(one)) == len(gradients(two)) >= 20
    for mine, its in zip(gradients(one), gradients(two), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-9, atol=1e-12)


@frozen
class WithoutNorms(TinySpace):
    """A batch of its networks may be cut anywhere: nothing in them sees other images."""

    def network(self, *args: Any, **kwargs: Any) -> nn.Module:
        return convolutional((1, 6, 6), 3)


def test_a_batch_in_parts_is_the_same_step(tmp_path: Path):
    wanted = evolve(task(epochs=3, drop_path=0.0, auxiliary=0.0), space=WithoutNorms())
    found = []
    for accumulate in (1, 3):
        settings = evolve(wanted.settings, accumulate=accumulate)
        folder = StageFolder(tmp_path / str(accumulate))
        train.run(evolve(wanted, settings=settings), folder, CPU)
        weights = folder.load_tensors("network.pt")
        assert weights is not None
        found.append((weights, folder.history()[-1]))
    (one, first), (two, second) = found
    for key in one:
        torch.testing.assert_close(one[key], two[key], rtol=1e-4, atol=1e-5)
    assert first["loss"] == pytest.approx(second["loss"], rel=1e-4)
    assert first["certified"] == pytest.approx(second["certified"], abs=1e-6)


def test_the_history_tells_the_schedule_and_the_share_certified(tmp_path: Path):
    wanted = evolve(task(epochs=6, drop_path=0.0), space=StillSpace())
    train.run(wanted, StageFolder(tmp_path), CPU)
    history = StageFolder(tmp_path).history()
    assert [record["epsilon"] for record in history] == [
        REGIME.moment(epoch, 6, THREAT).epsilon for epoch in range(1, 7)
    ]
    assert history[0]["epsilon"] < history[1]["epsilon"] < history[2]["epsilon"] == THREAT.epsilon
    assert (history[-1]["kappa"], history[-1]["beta"]) == (0.5, 0.0)
    assert all(0 <= record["certified"] <= record["accuracy"] <= 1 for record in history)
    assert history[-1]["certified"] > 0.5


def test_the_best_epoch_is_judged_by_what_is_certified_once_epsilon_has_grown(tmp_path: Path):
    regime = Certified(warmup_epochs=0, ramp_epochs=2.5, epsilon=0.06)
    wanted = task(epochs=6, checkpoint="best", holdout=0.25, regime=regime)
    result = train.run(wanted, StageFolder(tmp_path), CPU)
    history = StageFolder(tmp_path).history()
    judged = {record["epoch"]: record["held_out"] for record in history if "held_out" in record}
    assert list(judged) == [3, 4, 5, 6]
    assert result["epoch_kept"] == next(epoch for epoch in judged if judged[epoch] == max(judged.values()))


@pytest.mark.parametrize(("beta", "method"), [(0.0, "ibp"), (1.0, "crown-ibp")])
def test_what_is_judged_is_what_certification_finds(beta: float, method: str):
    network = toy().eval()
    regime = Certified(beta_end=beta)
    images, labels = IMAGES.pixels.double(), IMAGES.labels
    shares = set()
    for epsilon in (0.0, 0.001, 0.004, 0.016):
        threat = ThreatModel("linf", epsilon)
        found = regime.right(network, images, labels, threat)
        margins = certify.margins(network, images, labels, threat, method)
        assert torch.equal(found, (margins > 0).all(1))
        shares.add(int(found.sum()))
    assert len(shares) > 1


def test_it_certifies_what_standard_training_does_not(tmp_path: Path):
    shares, threat = {}, ThreatModel("linf", 0.15)
    images = Bars().split("test")
    for name, regime in (("standard", Standard()), ("certified", Certified(beta_start=0.0))):
        wanted = evolve(task(epochs=8, regime=regime, drop_path=0.0, crop=0, cutout=0), threat=threat)
        train.run(wanted, StageFolder(tmp_path / name), CPU)
        network = train.load(StageFolder(tmp_path / name), TinySpace(), {"width": 4}, Bars(), wanted.settings)
        assert (network(images.pixels).argmax(1) == images.labels).float().mean() > 0.8
        margins = certify.margins(network, images.pixels, images.labels, threat, "ibp")
        shares[name] = (margins > 0).all(1).float().mean().item()
    assert shares["standard"] < 0.2
    assert shares["certified"] > 0.7


def test_options_enter_the_key():
    regimes = (Standard(), Certified(), Certified(epsilon=8 / 255), Certified(beta_start=0.0))
    assert len({digest("train", settings(Train(regime=regime))) for regime in regimes}) == 4


def test_every_option_is_documented_with_its_default():
    text = (places.ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert len(attrs.fields(Certified)) == 10
    for found in attrs.fields(Certified):
        default = found.default
        if default is None or isinstance(default, bool):  # as YAML writes them
            default = json.dumps(default)
        assert f"\n| `{found.name}` | `{default}` | {found.metadata['help']} |\n" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ramp_epochs": 10}, r"warmup_epochs 0\.5 and ramp_epochs 10.*epochs: 10"),
        ({"warmup_epochs": 8}, "warmup_epochs 8 and ramp_epochs 5.*more than epochs"),
        ({"kappa_end": 1}, "'kappa_end' must be < 1"),
        ({"beta_start": 0, "fused": True}, "fused: true with beta_start and beta_end 0.*fused: false"),
        ({"beta_start": 2}, "'beta_start' must be <= 1"),
        ({"epsilon": 0}, "'epsilon' must be > 0"),
        ({"ramp_epochs": -1}, "'ramp_epochs' must be >= 0"),
    ],
)
def test_bad_options_are_refused(options: dict[str, float], message: str):
    with pytest.raises((ValueError, OptionError), match=message):
        Train(epochs=10, regime=Certified(**options))


def test_an_epsilon_in_grey_levels_is_refused_before_training(tmp_path: Path):
    regime = Certified(epsilon=8.0)
    with pytest.raises(InputError, match=r"found epsilon 8 in train\.regime.*8/255"):
        train.run(task(regime=regime), StageFolder(tmp_path), CPU)
    regime.check(4, ThreatModel("l2", 1.0))
    assert regime.moment(4, 4, ThreatModel("l2", 1.0)).epsilon == 8.0


def test_divergence_names_the_ramp(tmp_path: Path):
    with pytest.raises(RunError, match=r"train\.lr or train\.clip, or a longer ramp_epochs"):
        train.run(task(lr=1e30, clip=1e30), StageFolder(tmp_path), CPU)
