"""Natural corruptions: every family at every severity on images of several shapes, what each does, and the column."""

from __future__ import annotations

import io
import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from robustnas.attack import Conditions, evaluate, predict
from robustnas.attack.column import Column
from robustnas.attack.foolbox_attack import Each
from robustnas.attack.per_image_random import PerImageRandom
from robustnas.certify.verdicts import shown
from robustnas.errors import OptionError
from robustnas.runtime.seeding import seeded
from robustnas.threat import ThreatModel
from robustnas_plugins.attacks.corruption import digital, noise
from robustnas_plugins.attacks.corruption.apply import FAMILIES, Natural
from robustnas_plugins.attacks.corruptions import ANY_IMAGE, COLOUR, SEVERITIES, Corruptions
from support.attacked_networks import draws_of

RANDOM = {
    "gaussian-noise", "shot-noise", "impulse-noise", "speckle-noise", "glass-blur", "motion-blur", "snow", "frost",
    "fog", "spatter", "elastic",
}  # fmt: skip
"""Families that draw; the others do the same to an image each time."""
SHAPES = [(1, 8, 8), (3, 8, 8), (1, 28, 28), (3, 28, 28), (1, 9, 13), (3, 13, 9), (3, 40, 33)]
FAMILY = pytest.mark.parametrize("family", list(FAMILIES))


def natural(count: int, channels: int, height: int, width: int) -> Tensor:
    """Images somewhat like photographs: detail that fades with its size, a bright shape with an edge, related colours.

    (count, channels, height, width) in [0.05, 0.95].
    """
    generator = torch.Generator().manual_seed(channels + height)

    def rough(planes: int) -> Tensor:
        total = torch.zeros(count, planes, height, width)
        for octave in range(5):
            side = 2 + 2**octave
            coarse = torch.randn(count, planes, side, side, generator=generator)
            total += 0.6**octave * interpolate(coarse, size=(height, width), mode="bilinear", align_corners=True)
        return total

    scene = rough(1) + (1.5 * (rough(1) > 0.4) if min(height, width) > 8 else 0) + 0.4 * rough(channels)
    flat = scene.flatten(1)
    low, high = flat.amin(dim=1), flat.amax(dim=1)
    return 0.05 + 0.9 * (scene - low.view(-1, 1, 1, 1)) / (high - low).view(-1, 1, 1, 1)


def corrupted(family: str, severity: int, images: Tensor, draws: PerImageRandom | None = None) -> Tensor:
    return Natural("linf", family, severity).corrupted(images, draws_of(len(images)) if draws is None else draws)


def fits(family: str, channels: int) -> bool:
    return channels == 3 or family not in COLOUR


def test_the_families_are_those_that_a_recipe_may_name():
    assert set(FAMILIES) == {*ANY_IMAGE, *COLOUR}
    assert len(FAMILIES) == len(ANY_IMAGE) + len(COLOUR) == 19
    assert set(FAMILIES) >= RANDOM
    assert SEVERITIES == (1, 2, 3, 4, 5)


@FAMILY
def test_every_severity_makes_an_image_of_an_image(family):
    walked = 0
    for channels, height, width in SHAPES:
        if not fits(family, channels):
            continue
        images = natural(3, channels, height, width)
        images[1] = images[1].round()  # black and white
        images[2] = 1.0 if height == 8 else 0.0
        given = images.clone()
        for severity in SEVERITIES:
            found = corrupted(family, severity, images)
            assert found.shape == images.shape
            assert found.dtype == images.dtype
            assert bool(found.isfinite().all())
            assert 0 <= float(found.min()) <= float(found.max()) <= 1
            # one pixel in a hundred may be none of 64
            if family != "impulse-noise" or severity > 2:
                assert not torch.equal(found[0], images[0])
            walked += 1
        assert torch.equal(images, given)
    assert walked == 5 * (4 if family in COLOUR else 7)


@pytest.mark.parametrize(
    ("family", "channels", "side"),
    [
        (family, channels, side)
        for family in FAMILIES
        for channels, side in ((1, 28), (3, 28), (3, 32))
        if fits(family, channels)
    ],
)
def test_a_higher_severity_changes_more(family, channels, side):
    images = natural(48, channels, side, side)
    sizes = [
        float((corrupted(family, severity, images) - images).flatten(1).norm(dim=1).mean()) for severity in SEVERITIES
    ]
    for less, more in itertools.pairwise(sizes):
        assert more > 1.05 * less
    assert sizes[0] > 0.004 * math.sqrt(images[0].numel())


@FAMILY
def test_an_image_is_corrupted_on_its_own_and_each_time_alike(family):
    images = natural(12, 3, 28, 28)
    state = torch.random.get_rng_state()
    for severity in (1, 5):
        together = corrupted(family, severity, images)
        assert torch.equal(corrupted(family, severity, images), together)
        for chosen in (torch.arange(3, 8), torch.tensor([11, 0, 7, 3]), torch.tensor([5])):
            some = corrupted(family, severity, images[chosen], draws_of(12).at(chosen))
            torch.testing.assert_close(some, together[chosen], atol=1e-5, rtol=0)
        elsewhere = corrupted(family, severity, images, draws_of(12, seed=1))
        assert torch.equal(elsewhere, together) == (family not in RANDOM)
        if family in RANDOM:  # images that are equal are corrupted differently
            twins = corrupted(family, severity, images[:1].expand(2, -1, -1, -1).clone())
            assert not torch.equal(twins[0], twins[1])
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    "family",
    ["defocus-blur", "glass-blur", "motion-blur", "zoom-blur", "gaussian-blur", "elastic", "pixelate", "contrast"],
)
def test_what_moves_or_mixes_pixels_leaves_an_image_of_one_colour(family):
    images = torch.tensor([0.2, 0.5, 0.9]).view(1, 3, 1, 1).expand(2, 3, 12, 17).contiguous()
    for severity in SEVERITIES:
        torch.testing.assert_close(corrupted(family, severity, images), images, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["defocus-blur", "motion-blur", "zoom-blur", "gaussian-blur", "jpeg"])
def test_what_blurs_takes_detail_away(family):
    images = natural(24, 1, 28, 28)

    def detail(some: Tensor) -> float:
        return float((some[..., 1:, 1:] - some[..., :-1, :-1]).square().mean())

    assert detail(corrupted(family, 5, images)) < 0.8 * detail(images)


def test_noise_has_the_size_of_its_table():
    images = torch.full((8, 3, 40, 40), 0.5)
    for severity in SEVERITIES:
        draws, at = draws_of(8), severity - 1
        gaussian = noise.gaussian_noise(images, severity, draws) - images
        assert float(gaussian.std()) == pytest.approx(noise.GAUSSIAN[at], rel=0.03)
        speckle = noise.speckle_noise(images, severity, draws) - images
        assert float(speckle.std()) == pytest.approx(0.5 * noise.SPECKLE[at], rel=0.03)
        changed = noise.impulse_noise(images, severity, draws)
        for value in (0.0, 1.0):
            share = float((changed == value).double().mean())
            assert share == pytest.approx(noise.IMPULSE[at] / 2, rel=0.15)
        assert float((changed == 0.5).double().mean()) == pytest.approx(1 - noise.IMPULSE[at], abs=0.01)


@pytest.mark.parametrize("level", [0.0, 0.1, 0.5, 1.0])
def test_shot_noise_counts_photons(level):
    """A Poisson number has its mean as its variance, and is 0 with the probability exp(-mean)."""
    images = torch.full((8, 1, 60, 60), level)
    for severity, photons in zip(SEVERITIES, noise.PHOTONS, strict=True):
        counted = noise.shot_noise(images, severity, draws_of(8)).double() * photons
        torch.testing.assert_close(counted, counted.round(), atol=1e-4, rtol=0)
        mean = level * photons
        assert float(counted.mean()) == pytest.approx(mean, rel=0.03)
        assert float(counted.var()) == pytest.approx(mean, rel=0.06)
        assert float((counted == 0).double().mean()) == pytest.approx(math.exp(-mean), abs=0.02)


def test_light_contrast_and_colour_do_what_their_names_say():
    images = natural(6, 3, 16, 16)
    for severity in SEVERITIES:
        at, draws = severity - 1, draws_of(6)
        bright = digital.brightness(images, severity, draws)
        more = (images.amax(dim=1) + digital.BRIGHTNESS[at]).clamp_max(1.0)
        torch.testing.assert_close(bright.amax(dim=1), more)
        # hue and saturation: the ratios of the channels stay
        torch.testing.assert_close(bright * images.amax(dim=1, keepdim=True), images * more[:, None])
        flat = digital.contrast(images, severity, draws)
        torch.testing.assert_close(flat.mean(dim=(2, 3)), images.mean(dim=(2, 3)))
        torch.testing.assert_close(flat.std(dim=(2, 3)), digital.CONTRAST[at] * images.std(dim=(2, 3)))
        colour = digital.saturate(images, severity, draws)
        torch.testing.assert_close(colour.amax(dim=1), images.amax(dim=1))

        def saturation(some: Tensor) -> Tensor:
            return 1 - some.amin(dim=1) / some.amax(dim=1)

        wanted = (digital.SATURATE[at] * saturation(images)).clamp_max(1.0)
        torch.testing.assert_close(saturation(colour), wanted, atol=1e-5, rtol=0)
        grey = images[:, :1].expand(-1, 3, -1, -1)
        torch.testing.assert_close(digital.saturate(grey, severity, draws), grey)
    black = torch.zeros(1, 3, 8, 8)
    torch.testing.assert_close(digital.brightness(black, 2, draws_of(1)), black + 0.2)


def test_pixelate_keeps_means_and_makes_cells():
    images = natural(4, 1, 30, 30)
    for severity, share in zip(SEVERITIES, digital.PIXELATE, strict=True):
        cells = round(30 * share)
        found = digital.pixelate(images, severity, draws_of(4))
        rows = (found[0, 0, 1:] - found[0, 0, :-1]).abs().amax(dim=1) > 1e-6
        assert int(rows.sum()) == cells - 1
        if 30 % cells == 0:
            torch.testing.assert_close(found.mean(dim=(2, 3)), images.mean(dim=(2, 3)))
    assert any(30 % round(30 * share) == 0 for share in digital.PIXELATE)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_what_an_encoder_makes(channels):
    """Held against Pillow's, which rounds to bytes on the way: rarely a coefficient then falls to another step."""
    pillow = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    images = (natural(24, channels, 24, 40) * 255).round() / 255
    for severity, quality in zip(SEVERITIES, digital.JPEG, strict=True):
        theirs = []
        for image in images:
            bytes_ = (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
            file = io.BytesIO()
            picture = pillow.fromarray(bytes_[..., 0] if channels == 1 else bytes_)
            picture.save(file, "jpeg", quality=quality, subsampling=0)
            read = torch.from_numpy(np.array(pillow.open(file)))
            theirs.append((read[None] if channels == 1 else read.permute(2, 0, 1)).float() / 255)
        apart = (digital.jpeg(images, severity, draws_of(24)) - torch.stack(theirs)).abs().mean()
        lost = (torch.stack(theirs) - images).abs().mean()
        assert float(lost) > 5 / 255
        # colours are rounded twice
        assert float(apart) < (0.25 if channels == 1 else 1.3) / 255


def test_saturate_on_grey_images_says_what_would_do():
    images = natural(2, 1, 8, 8)
    with pytest.raises(OptionError, match=r"saturate needs images of three channels, found 1: leave it out of famil"):
        corrupted("saturate", 1, images)
    threat = ThreatModel("linf", 0.1)
    (part,) = Corruptions(families=["saturate"], severities=[2]).build(threat).parts.values()
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    labels = predict(network, images)
    with pytest.raises(OptionError, match="leave it out of families"):
        evaluate(network, images, labels, part, threat)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"families": ["smoke"]}, r"no corruption is called 'smoke'.*(known are gaussian-noise.*jpeg|did you mean)"),
        ({"families": ["forg"]}, r"no corruption is called 'forg'.*fog"),
        (
            {"families": ["fog", "blizzard-of-1978"]},
            r"no corruption is called 'blizzard-of-1978'; known are .*saturate",
        ),
        ({"families": []}, r"families is empty: leave it out for all of them"),
        ({"families": ["fog", "snow", "fog"]}, r"families names one twice: fog, snow, fog"),
        ({"folder": "C", "families": ["shot-noise", "shot_noise"]}, r"names one twice: shot_noise, shot_noise"),
        ({"severities": [6]}, r"severities are whole numbers from 1 to 5, found 6"),
        ({"severities": [0]}, r"from 1 to 5, found 0"),
        ({"severities": [1, 2.5]}, r"from 1 to 5, found 2.5"),
        ({"severities": [True]}, r"from 1 to 5, found True"),
        ({"severities": ["3"]}, r"from 1 to 5, found '3'"),
        ({"severities": []}, r"severities is empty: leave it out"),
        ({"severities": [2, 2]}, r"severities names one twice"),
    ],
)
def test_options_are_checked_and_what_would_do_is_named(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Corruptions(**options)


def test_by_default_every_family_but_colour_at_every_severity():
    plugin = Corruptions()
    built = plugin.build(ThreatModel("l2", 0.5))
    assert isinstance(built, Each)
    assert built.every
    assert list(built.parts) == [f"{family}/{severity}" for family in ANY_IMAGE for severity in SEVERITIES]
    assert plugin.evaluations(10) == len(built.parts) == 90
    assert plugin.access == "corruption"
    assert all(part.unbounded for part in built.parts.values())


@pytest.mark.parametrize("epsilon", [0.0, 1e-4])
def test_through_the_harness_no_ball_bounds_them_and_the_column_is_their_mean(epsilon):
    with seeded(0, "corruptions"):
        network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 12, 20), nn.Tanh(), nn.Linear(20, 4))
        with torch.no_grad():
            network[1].weight.mul_(6)
    images = natural(40, 3, 12, 12)
    labels = predict(network, images)
    labels[:3] = (labels[:3] + 1) % 4  # wrong when clean
    threat = ThreatModel("linf", epsilon)
    plugin = Corruptions(families=["gaussian-noise", "fog", "contrast"], severities=[1, 5])
    records, right = [], []
    for variant, part in plugin.build(threat).parts.items():
        record = evaluate(
            network,
            images,
            labels,
            part,
            threat,
            Conditions(label="corruptions", variant=variant, access=plugin.access),
        )
        # what was shown, made again beside the harness
        attacked = (labels == predict(network, images)).nonzero().squeeze(1)
        draws = PerImageRandom.of_images(0, f"attack/corruptions/{variant}", attacked)
        answers = predict(network, part.corrupted(images[attacked], draws))
        stands = torch.zeros(40, dtype=torch.bool)
        stands[attacked] = answers == labels[attacked]
        assert torch.equal(record.correct & ~record.success, stands)
        # wrong answers count although the change is far larger than the ball
        if bool(record.success.any()):
            assert float(record.distance[record.success].min()) > epsilon
        records.append(record)
        right.append(stands.double())
    assert sum(int(record.success.sum()) for record in records) > 10
    column = shown([(Column("corruptions", threat, access=plugin.access), records)], 0)
    assert np.array_equal(column, torch.stack(right).mean(dim=0).numpy())
    assert (column[:3] == 0).all()
    assert 0.1 < float(column.mean()) < 0.92
    assert [record.variant for record in records] == [
        f"{f}/{s}" for f in ("gaussian-noise", "fog", "contrast") for s in (1, 5)
    ]
