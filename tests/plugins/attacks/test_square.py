"""Square: what it proposes is admissible, it looks at logits alone, and an image's result is its own."""

import pytest
import torch

from robustnas.attack.per_image_random import PerImageRandom
from robustnas.threat import NORMS, ThreatModel
from robustnas_plugins.attacks.square import VARIANTS, Square
from robustnas_plugins.attacks.square_moves import FORMS
from support.attacked_networks import draws_of, wavy

RADII = {"linf": 0.15, "l2": 0.6, "l1": 2.5}


def subject(height=6, width=6, channels=1):
    """A small network that is not linear, images it is right on, and their draws."""
    return *wavy(4, 24, (channels, height, width), gain=2.0), draws_of(24)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shape", [(6, 6, 1), (5, 9, 3), (2, 3, 1), (1, 1, 2)], ids=str)
def test_what_it_gives_is_in_ball_and_box(norm, variant, shape):
    network, images, labels, draws = subject(*shape)
    for epsilon in (0.0, RADII[norm] / 5, 1.0):
        threat = ThreatModel(norm, epsilon)
        found = Square(queries=12, variant=variant).build(threat).perturbed(network, images, labels, threat, draws)
        assert float(threat.distance(found, images).max()) <= epsilon + 1e-6
        assert float(found.min()) >= 0
        assert float(found.max()) <= 1


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_candidate_is_in_ball_and_box_and_most_fill_the_ball(norm, variant):
    _, images, _, draws = subject(channels=2)
    threat = ThreatModel(norm, RADII[norm] / 3)
    moves = FORMS[norm](images, threat, short=variant == "reference")
    best = moves.start(draws, draws)
    full = 0
    for iteration in range(20):
        side = moves.side(0.8 / 2 ** (iteration // 4))
        best = moves.candidate(best, side, draws.of(iteration).uniform(moves.numbers))
        size = threat.distance(best, images)
        assert float(size.max()) <= threat.epsilon + 1e-6
        assert 0 <= float(best.min()) <= float(best.max()) <= 1
        full += int((size > 0.8 * threat.epsilon).sum())
    assert full > 0.9 * 20 * len(images)


@pytest.mark.parametrize("norm", NORMS)
def test_squares_reach_the_last_row_and_column_but_for_the_reference(norm):
    clean = torch.full((24, 1, 6, 6), 0.5)
    draws = draws_of(24)
    threat = ThreatModel(norm, 0.1)
    touched = {}
    for variant in VARIANTS:
        moves = FORMS[norm](clean, threat, short=variant == "reference")
        side = moves.side(0.05)
        changed = torch.zeros(6, 6, dtype=torch.bool)
        for iteration in range(15):
            numbers = draws.of("iteration", iteration).uniform(moves.numbers)
            changed |= (moves.candidate(clean, side, numbers) != clean).any(dim=0)[0]
        touched[variant] = changed
    assert bool(touched["per-sample"].all())
    assert not bool(touched["reference"][-1].any() | touched["reference"][:, -1].any())
    assert bool(touched["reference"][:-1, :-1].all())


def test_in_the_reference_variant_all_images_share_their_squares():
    images = torch.full((8, 1, 6, 6), 0.5)
    threat = ThreatModel("linf", 0.1)
    own = draws_of(8)
    for variant, shared, places in (("reference", True, 1), ("per-sample", False, 8)):
        numbers = Square(queries=9, variant=variant)._numbers(
            own, PerImageRandom.of_images(0, "common", torch.zeros(1, dtype=torch.int64)), 0, 3, 3
        )
        assert numbers.shape == (8, 64, 3)
        assert len(numbers[:, 0].unique(dim=0)) == places
        changed = FORMS["linf"](images, threat, short=shared).candidate(images, 2, numbers[:, 0]) != images
        assert bool((changed.flatten(1).sum(1) == 4).all())
        assert (len(changed.unique(dim=0)) == 1) == shared


def test_squares_shrink_as_in_the_paper_and_stretched_over_the_queries():
    ends = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
    paper = Square(queries=10000)
    assert Square(queries=70, restarts=3).evaluations(4) == 3 * 70
    for halvings, end in enumerate(ends):
        assert paper.share(end) == 0.8 / 2**halvings
        assert paper.share(end + 1) == 0.8 / 2 ** (halvings + 1)
        assert Square(queries=1000).share(end // 10) == 0.8 / 2**halvings
    assert Square(queries=100, rescaled=False).share(99) == paper.share(99) != Square(queries=100).share(99)


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_a_pair_of_bumps_is_up_and_down_and_of_size_one(norm):
    from robustnas_plugins.attacks.square_moves import _pairs

    order = {"l2": 2, "l1": 1}[norm]
    for side in (1, 2, 3, 5, 8):
        upright, turned = _pairs(side, order, torch.device("cpu"))
        assert torch.equal(upright.T, turned)
        assert float(upright.norm(p=order)) == pytest.approx(1, abs=1e-6)
        if side > 1:
            assert bool((upright[: side // 2] > 0).all())
            assert bool((upright[side // 2 :] < 0).all())
    # by hand: one row of three, 1 + 1/2^q in the middle and 1/2^q beside it, before it is scaled
    power = 2 if norm == "l2" else 4
    row = _pairs(3, order, torch.device("cpu"))[0][0]
    assert float(row[0] / row[1]) == pytest.approx(2.0**-power / (1 + 2.0**-power), abs=1e-6)


def test_per_sample_finds_what_hangs_on_the_last_row():
    """Only a change of the last row fools; the reference variant meets it by its first stripes alone."""

    def network(images):
        corner = images[:, 0, -1, -2:].sum(dim=1)
        return torch.stack([torch.full_like(corner, 1.15), corner], dim=1)

    images = torch.full((30, 1, 8, 8), 0.5)
    labels = torch.zeros(30, dtype=torch.int64)
    threat = ThreatModel("linf", 0.1)
    draws = draws_of(30)
    found = {
        variant: Square(queries=1500, variant=variant).build(threat).perturbed(network, images, labels, threat, draws)
        for variant in VARIANTS
    }
    broken = {variant: network(images).argmax(1) != labels for variant, images in found.items()}
    assert bool(broken["per-sample"].all())
    assert 0 < int(broken["reference"].sum()) < 20
