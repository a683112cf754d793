"""What holds for every attack of this package, in every norm that it knows: one table of attacks, one of promises."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustnas.attack.foolbox_attack import InTurn
from robustnas.attack.foolbox_import import load_foolbox
from robustnas.attack.network import Counted
from robustnas.errors import OptionError
from robustnas.testing.attack import SAME
from robustnas.threat import NORMS, ThreatModel
from robustnas_plugins.attacks.apgd import AutoPGDCrossEntropy, AutoPGDLogitsRatio, AutoPGDTargeted
from robustnas_plugins.attacks.autoattack import AutoAttack
from robustnas_plugins.attacks.boundary import Boundary
from robustnas_plugins.attacks.carlini_wagner import CarliniWagner
from robustnas_plugins.attacks.cw_linf import MarginPGD
from robustnas_plugins.attacks.ddn import DDN
from robustnas_plugins.attacks.deepfool import DeepFool
from robustnas_plugins.attacks.fab import FAB, FABT
from robustnas_plugins.attacks.fgsm import FGSM
from robustnas_plugins.attacks.fmn import FMN
from robustnas_plugins.attacks.hopskipjump import HopSkipJump
from robustnas_plugins.attacks.mi_fgsm import MomentumFGSM
from robustnas_plugins.attacks.noise import GaussianNoise, UniformNoise
from robustnas_plugins.attacks.pgd import PGD
from robustnas_plugins.attacks.square import Square
from robustnas_plugins.attacks.transfer import Transfer
from support.attacked_networks import Flat, draws_of, proposed, wavy
from support.watched import Watched

EPSILON = {"linf": 0.08, "l2": 0.2, "l1": 0.3}
"""Radii at which some of the images are fooled and some are not."""

STEPS = {"steps": 6, "step_size": 0.05}

ATTACKS: dict[str, Any] = {
    "fgsm": FGSM(),
    "fgsm, random start": FGSM(random_start=True),
    "pgd": PGD(**STEPS, restarts=2),
    "mi-fgsm": MomentumFGSM(**STEPS),
    "cw-linf": MarginPGD(**STEPS, restarts=2),
    "transfer": Transfer(**STEPS),
    "apgd-ce": AutoPGDCrossEntropy(steps=15, restarts=2),
    "apgd-dlr": AutoPGDLogitsRatio(steps=15),
    "apgd-t": AutoPGDTargeted(steps=15, target_classes=3),
    "square": Square(queries=40, restarts=2),
    "square as the reference": Square(queries=40, restarts=2, variant="reference"),
    "gaussian-noise": GaussianNoise(draws=4),
    "uniform-noise": UniformNoise(draws=4),
    "fab": FAB(steps=8, restarts=2),
    "fab-t": FABT(steps=8, restarts=2, target_classes=4),
    "fmn": FMN(steps=15),
    "ddn": DDN(steps=15),
    "boundary": Boundary(steps=25, sideways=0.1, inwards=0.1),
    "hopskipjump": HopSkipJump(steps=3, samples=20),
    "deepfool": DeepFool(steps=5),
    "cw": CarliniWagner(steps=20, step_size=0.05, binary_search_steps=3),
}
KNOWN = {
    "mi-fgsm": ("linf", "l2"), "transfer": ("linf", "l2"), "cw-linf": ("linf",), "ddn": ("l2",), "boundary": ("l2",),
    "hopskipjump": ("linf", "l2"), "deepfool": ("linf", "l2"), "cw": ("l2",),
}  # fmt: skip
"""Norms of those that do not know all."""

FOOLBOX = {"ddn", "deepfool", "cw"}
"""Attacks whose machine is foolbox's: they step with the whole batch."""
MINIMISE = {"fab", "fab-t", "fmn", "boundary", "hopskipjump"} | FOOLBOX
BLIND = {"square", "square as the reference", "gaussian-noise", "uniform-noise", "boundary", "hopskipjump"}


def cases(names: Any) -> Any:
    chosen = [(name, norm) for name in ATTACKS if name in names for norm in KNOWN.get(name, NORMS)]
    return pytest.mark.parametrize(("name", "norm"), chosen, ids=lambda value: value)


def threat_of(norm: str, epsilon: float | None = None) -> ThreatModel:
    return ThreatModel(norm, EPSILON[norm] if epsilon is None else epsilon)


class Sighted(Counted):
    """Counts, and refuses to be differentiated where the attack is blind."""

    def __init__(self, network: nn.Module, blind: bool):
        super().__init__(network)
        self.blind = blind

    def forward(self, images: Tensor) -> Tensor:
        assert not (self.blind and images.requires_grad)
        logits: Tensor = super().forward(images)
        return logits.detach() if self.blind else logits


def test_the_attacks_know_the_norms_they_should():
    for name, attack in ATTACKS.items():
        known = []
        for norm in NORMS:
            with contextlib.suppress(OptionError):
                attack.build(threat_of(norm))
                known.append(norm)
        assert tuple(known) == KNOWN.get(name, NORMS), name


@cases(ATTACKS)
def test_proposals_are_images_in_ball_and_box_and_some_fool(name, norm):
    network, images, labels = wavy()
    network.requires_grad_(name not in FOOLBOX)
    given, threat, seen = images.clone(), threat_of(norm), Sighted(network, name in BLIND)
    found = proposed(ATTACKS[name], threat, seen, images, labels)
    assert torch.equal(given, images)
    assert all(one.grad is None for one in network.parameters())
    assert not images.requires_grad
    assert (found.shape, found.dtype) == (images.shape, images.dtype)
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    fooled = network(found).argmax(1) != labels
    if name in MINIMISE:
        assert bool(fooled.any())
    else:
        assert float(threat.distance(found, images).max()) <= threat.epsilon * (1 + 1e-6) + 1e-7
        assert name.endswith("noise") or bool(fooled.any())
        assert not bool(fooled.all())
        assert torch.equal(proposed(ATTACKS[name], threat_of(norm, 0.0), network, images, labels), images)
    assert 0 < seen.images <= ATTACKS[name].evaluations(5) * len(images)


@cases(set(ATTACKS) - {"deepfool", "cw"})
def test_an_image_gets_the_same_whatever_the_batch_and_its_order(name, norm):
    network, images, labels = wavy()
    network = network.double()

    class InFloat64(nn.Module):
        """So that no decision hangs on how float32 rounds a batch of another size."""

        def forward(self, batch: Tensor) -> Tensor:
            return network(batch.double())

    judge = InFloat64().eval()
    together = proposed(ATTACKS[name], threat_of(norm), judge, images, labels)
    assert not torch.equal(together, images)
    for rows in (torch.arange(len(images)).flip(0), torch.arange(7, 31, 3), torch.tensor([11])):
        alone = proposed(ATTACKS[name], threat_of(norm), judge, images, labels, rows)
        torch.testing.assert_close(alone, together[rows], atol=SAME if name in MINIMISE else 1e-6, rtol=0)


@cases(set(ATTACKS) - MINIMISE)
def test_fooled_images_leave_at_once_and_no_image_costs_more_than_promised(name, norm):
    network, images, labels = wavy()
    watched = Watched(network, images, labels, threat_of(norm), strict=name != "transfer")
    proposed(ATTACKS[name], threat_of(norm), watched, images, labels)
    promised = ATTACKS[name].evaluations(5)
    assert int(watched.seen.max()) <= promised
    if name == "transfer":
        assert bool(watched.fooled.any())
        assert bool((watched.seen == promised).all())
    elif not name.startswith("fgsm") and not name.endswith("noise"):
        assert int(watched.seen[watched.fooled].min()) < int(watched.seen.max())


@cases(set(ATTACKS) - FOOLBOX)
def test_gradients_of_0_give_images_and_cost_what_is_promised(name, norm):
    images, labels = wavy()[1], torch.zeros(60, dtype=torch.int64)
    seen = Sighted(Flat(4), name in BLIND)
    found = proposed(ATTACKS[name], threat_of(norm), seen, images, labels)
    promised, spent = ATTACKS[name].evaluations(4), seen.images / len(images)
    if name in MINIMISE:
        assert torch.equal(found, images)
        # no start, or nothing found that a last search could bring nearer
        assert spent == {"boundary": 50, "hopskipjump": 50, "fmn": promised}.get(name, promised - 4)
    else:
        assert float(threat_of(norm).distance(found, images).max()) <= EPSILON[norm] + 1e-6
        # apgd looks once at each start: of one ball, in l1 of three; runs towards the targets, and one to find these
        runs = {"apgd-ce": 2, "apgd-dlr": 1, "apgd-t": 3}.get(name, 0)
        assert spent == promised - (2 * runs if norm != "l1" else 0)


@cases(set(ATTACKS) - FOOLBOX)
def test_no_images_are_no_case_of_their_own(name, norm):
    none = torch.zeros(0, dtype=torch.int64)
    assert proposed(ATTACKS[name], threat_of(norm), *wavy(), rows=none).shape == (0, 1, 4, 4)


@pytest.mark.parametrize("classes", [2, 3, 12])
def test_the_cost_is_what_is_announced_for_any_number_of_classes(classes):
    network, images, labels = wavy(classes, count=20, shape=(1, 3, 3))
    composed = {f"autoattack, {version}": AutoAttack(version, steps=4, queries=10) for version in ("standard", "plus")}
    for name, plugin in {**ATTACKS, **composed}.items():
        norm = KNOWN.get(name, ("l2",))[-1]
        counted, threat = Counted(network), threat_of(norm)
        built = plugin.build(threat)
        if isinstance(built, InTurn):
            built.perturbed(counted, images, labels, threat, draws_of(20))
        else:
            proposed(plugin, threat, counted, images, labels)
        promised = plugin.evaluations(classes) * len(images)
        assert 0 < counted.images <= promised, name
        if name in ("fab", "fab-t"):  # only images for which nothing was found are spared the final search
            assert counted.images >= promised - 4 * len(images)
        if name in ("ddn", "fmn"):
            assert counted.images == promised


@pytest.mark.parametrize("name", sorted(set(ATTACKS) - MINIMISE - {"gaussian-noise", "uniform-noise"}))
def test_foolbox_can_call_them_by_itself(name):
    network, images, labels = wavy()
    model = load_foolbox().PyTorchModel(network.eval(), bounds=(0, 1), device="cpu")
    _, clipped, success = ATTACKS[name].build(threat_of("linf"))(model, images, labels, epsilons=[0.01, 0.08])
    assert 0 <= int(success[0].sum()) < int(success[1].sum())
    assert torch.equal(network(clipped[1]).argmax(1) != labels, success[1])


@pytest.mark.parametrize(
    ("attack", "norm", "message"),
    [
        (CarliniWagner(), "linf", "attack cw does not know the norm linf; it knows l2; .*norm: l2.*pgd"),
        (CarliniWagner(), "l1", "attack cw does not know the norm l1; it knows .*l2; .*pgd"),
        (DeepFool(), "l1", "attack deepfool does not know the norm l1; it knows .*l2; .*pgd"),
        (MomentumFGSM(1, 1), "l1", "mi-fgsm does not know the norm l1; it knows linf and l2; .*apgd-ce"),
        (Transfer(1, 1), "l1", "transfer does not know the norm l1; it knows linf and l2; .*norm: linf"),
        (MarginPGD(1, 1), "l2", "cw-linf does not know the norm l2; it knows linf; cw .*apgd-dlr"),
        (DDN(), "linf", "attack ddn does not know the norm linf; it knows l2; fmn knows linf, l2 and l1"),
        (Boundary(), "linf", "attack boundary does not know the norm linf; it knows l2; hopskipjump knows linf and l2"),
        (HopSkipJump(), "l1", "hopskipjump does not know the norm l1; it knows linf and l2; .* gradient .*norm: l2"),
    ],
)
def test_a_norm_an_attack_does_not_know_is_refused_with_advice(attack, norm, message):
    with pytest.raises(OptionError, match=message):
        attack.build(ThreatModel(norm, 0.1))


@pytest.mark.parametrize(
    ("form", "options", "message"),
    [
        (PGD, {}, "steps"),
        (PGD, {"steps": 10}, "step_size"),
        (PGD, {"steps": 0, "step_size": 0.1}, "steps"),
        (PGD, {"steps": 10, "step_size": 0}, "step_size"),
        (PGD, {"steps": 10, "step_size": "1/0"}, "divides by zero"),
        (PGD, {"steps": 2.5, "step_size": 0.1}, "steps"),
        (PGD, {"steps": 10, "step_size": 0.1, "restarts": 0}, "restarts"),
        (PGD, {**STEPS, "restarts": 3, "random_start": False}, "restarts above 1 need random_start"),
        (MomentumFGSM, {"steps": 3}, "step_size"),
        (MarginPGD, {"step_size": 0.1}, "steps"),
        (Transfer, {**STEPS, "momentum": -1}, "momentum"),
        (AutoPGDCrossEntropy, {"steps": 0}, "steps"),
        (AutoPGDLogitsRatio, {"eot_samples": 0}, "eot_samples"),
        (AutoPGDTargeted, {"target_classes": 0}, "target_classes"),
        (AutoPGDTargeted, {"restarts": 1.5}, "restarts"),
        (AutoAttack, {"version": "custom"}, "version"),
        (AutoAttack, {"square_variant": "both"}, "square_variant"),
        (AutoAttack, {"steps": 0}, "steps"),
        (AutoAttack, {"queries": 0}, "queries"),
        (Square, {"queries": 0}, "queries"),
        (Square, {"p_init": 0}, "p_init"),
        (Square, {"p_init": 1.5}, "p_init"),
        (Square, {"restarts": 0}, "restarts"),
        (Square, {"variant": "both"}, "variant"),
        (Square, {"rescaled": 1}, "rescaled"),
        (FABT, {"steps": 0}, "steps"),
        (FABT, {"restarts": 0}, "restarts"),
        (FABT, {"target_classes": 0}, "target_classes"),
        (FABT, {"alpha_max": 1.5}, "alpha_max"),
        (FABT, {"eta": 0.9}, "eta"),
        (FABT, {"beta": 1.0}, "beta"),
        (DDN, {"steps": 0}, "steps"),
        (DDN, {"gamma": 1.0}, "gamma"),
        (DDN, {"initial_radius": 0}, "initial_radius"),
        (FMN, {"steps": 2.5}, "steps"),
        (FMN, {"step_size": 0}, "step_size"),
        (FMN, {"gamma": 0.001}, "gamma"),
        (Boundary, {"steps": 0}, "steps"),
        (Boundary, {"sideways": 0}, "sideways"),
        (Boundary, {"inwards": -1}, "inwards"),
        (Boundary, {"tries": 0}, "tries"),
        (HopSkipJump, {"samples": 0}, "samples"),
        (HopSkipJump, {"most_samples": 0}, "most_samples"),
        (HopSkipJump, {"gamma": 0}, "gamma"),
        (GaussianNoise, {"draws": 0}, "draws"),
        (UniformNoise, {"draws": "3"}, "draws"),
    ],
)
def test_options_are_checked(form, options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        form(**options)


def test_what_is_built_is_the_plugin_in_one_norm():
    plugin = PGD(steps=7, step_size="2/255")
    built = plugin.build(ThreatModel("l2", 0.1))
    assert (built.step_size, built.steps, built.norm, plugin.norm) == (2 / 255, 7, "l2", "")
    assert built.build(ThreatModel("l2", 0.3)) is built
    assert plugin.build(ThreatModel("l1", 0.1)).norm == "l1"
    assert {ATTACKS[name].access for name in ("square", "boundary", "hopskipjump", "transfer")} == {"black-box"}
    assert {ATTACKS[name].access for name in ("gaussian-noise", "uniform-noise")} == {"noise"}
