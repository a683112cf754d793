"""Attacks on a network, judged here: an attack proposes images, this file decides what they prove.

    predict    the network's answers on clean images
    evaluate   one attack on one network: for every image, whether it was fooled, and by how much
    robust     worst case over attacks, image by image

The attack sees a frozen network in eval mode, in float32, on a stated device; only images that are right when
clean are attacked.  What it returns is checked (finite, an image, inside the ball) and judged by a forward
pass of our own.  Foolbox's own bookkeeping (`attack(...)`) is passed by: it counts NaN images and images
that were wrong anyway as successes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor, nn

from robustnas import interrupt
from robustnas.contracts import Images
from robustnas.device import full_precision
from robustnas.errors import DataError, DeviceError, OptionError, RobustnasError, RunError
from robustnas.foolbox_import import load_foolbox
from robustnas.frozen import frozen
from robustnas.images import InMemory, in_order, on_device
from robustnas.report import Report, silent
from robustnas.seeding import derive, seeded
from robustnas.threat import ThreatModel
from robustnas.world import ALONE, World

TOLERANCE = 1e-5
"""Pixel units by which rounding may carry an image out of the ball or the box; it is then projected back."""

ORDER = {"linf": float("inf"), "l2": 2.0, "l1": 1.0}
"""Order p of each norm, as foolbox names its distances."""


@attrs.frozen(eq=False)
class AttackRecord:
    """What one attack did to every image; tensors are on the CPU, N images in the order they were given.

    `success` is `(clean == labels) & (perturbed != labels)`, always.

    Args:
        label: the attack's name in messages and seeds.
        threat: what was allowed.
        batch: images attacked at once; with `seed` it fixes every random draw.
        seed: the recipe's seed.
        labels: (N,) int64.
        clean: (N,) int64, predictions on the clean images.
        perturbed: (N,) int64, predictions on the admissible images the attack ended with; those on the clean
            image where it was not attacked or no admissible image was found.
        success: (N,) bool, right when clean and wrong on the admissible image.
        distance: (N,) float32, size of that admissible perturbation in the threat's norm, pixel units; 0 for
            none.
        found: (N,) float32, size of the perturbation that fooled the network whether inside the ball or not
            (attacks that minimise it go beyond); infinite where the attack found none.
        evaluations: images the attack put through the network, counted with repetition.
    """

    label: str
    threat: ThreatModel
    batch: int
    seed: int
    labels: Tensor
    clean: Tensor
    perturbed: Tensor
    success: Tensor
    distance: Tensor
    found: Tensor
    evaluations: int

    @property
    def correct(self) -> Tensor:
        """(N,) bool, right when clean: the images that were attacked."""
        return self.clean == self.labels

    @property
    def evaluations_per_image(self) -> float:
        """Forward passes an attacked image cost, on average; 0 where none was attacked."""
        return self.evaluations / max(int(self.correct.sum()), 1)


class _Counted(nn.Module):
    """The network, counting the images that go through it."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network
        self.images = 0

    def forward(self, images: Tensor) -> Tensor:
        self.images += len(images)
        logits: Tensor = self.network(images)
        return logits


def _device_of(network: nn.Module, device: torch.device | str | None) -> torch.device:
    """The device to work on; foolbox would move the network silently, so a contradiction is refused.

    Raises:
        DeviceError: the network lives elsewhere.
    """
    home = next((tensor.device for tensor in (*network.parameters(), *network.buffers())), None)
    if device is None:
        return home or torch.device("cpu")
    asked = torch.device(device)
    if home is not None and (home.type != asked.type or asked.index not in (None, home.index)):
        raise DeviceError(f"the network is on {home} and the images are wanted on {asked}; move the network first")
    return home or asked


def _images(images: Images | Tensor, labels: Tensor | None) -> Images:
    """Tensors as images in memory; checks shapes, types and pixel range."""
    if isinstance(images, Tensor):
        none = torch.zeros(len(images), dtype=torch.int64)
        return InMemory(images.detach(), none if labels is None else labels.cpu())
    if labels is None:
        return images
    if labels.dtype != torch.int64 or labels.dim() != 1 or len(labels) > len(images.labels):
        raise DataError(
            f"labels must be int64, one for each of the first images of {len(images.labels)}; "
            f"found {labels.dtype} of shape {tuple(labels.shape)}"
        )
    return images


def _take(images: Images, indices: Tensor) -> Tensor:
    """A batch, certain to hold pixels in [0, 1].

    Raises:
        DataError: a pixel lies outside, or is not a number; the message names the image.
    """
    batch = images.take(indices).float()
    outside = ~((batch >= -TOLERANCE) & (batch <= 1 + TOLERANCE)).flatten(1).all(dim=1)
    if bool(outside.any()):
        raise DataError(
            f"image {int(indices[int(outside.nonzero()[0])])} has pixels outside [0, 1]: "
            "divide by the largest value of a pixel; normalisation belongs into the network"
        )
    return batch.clamp(0.0, 1.0)


def _answers(network: nn.Module, images: Tensor, indices: Tensor) -> Tensor:
    """Predicted classes of a batch, (n, C, H, W) -> (n,) int64.

    Raises:
        RunError: logits are not finite; the message names the image.
    """
    with torch.no_grad():
        logits: Tensor = network(images)
    broken = ~logits.isfinite().all(dim=1)
    if bool(broken.any()):
        raise RunError(
            f"the network's logits for image {int(indices[int(broken.nonzero()[0])])} are not finite: "
            "its training may have diverged; a smaller learning rate would do"
        )
    return logits.argmax(dim=1)


@contextmanager
def _float32_with_gradients(device: torch.device) -> Iterator[None]:
    """Gradients on, mixed precision and TF32 off, whatever the caller has set."""
    with (
        full_precision(),
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(device.type, enabled=False),
    ):
        yield


def predict(
    network: nn.Module,
    images: Images | Tensor,
    batch: int = 256,
    device: torch.device | str | None = None,
    world: World = ALONE,
) -> Tensor:
    """The network's answers, (N,) int64 on the CPU.

    Args:
        network: (N, C, H, W) pixels -> (N, K) logits; looked at in eval mode and left as it was.
        images: all of these; a tensor is (N, C, H, W), uint8 or float in [0, 1].
        batch: images at once.
        device: where the network lives; None finds out.
        world: the processes that share the batches; each returns all answers.

    Raises:
        DataError: pixels outside [0, 1].
        RunError: logits that are not finite.
    """
    device = _device_of(network, device)
    source = on_device(_images(images, None), device)
    answers = torch.zeros(len(source.labels), dtype=torch.int64)

    def own() -> list[tuple[Tensor, Tensor]]:
        """The answers of this process's batches."""
        found = []
        with frozen(network), _float32_with_gradients(device):
            for indices in own_batches(len(source.labels), batch, world):
                interrupt.check()
                found.append((indices, _answers(network, _take(source, indices), indices).cpu()))
        return found

    for some in world.agree(own):
        for indices, found in some:
            answers[indices] = found
    return answers


def own_batches(count: int, batch: int, world: World) -> list[Tensor]:
    """The batches of this process: the same cuts however many share them, so that random draws are the same."""
    return in_order(count, batch)[world.rank :: world.size]


@contextmanager
def _random_state(seed: int, label: str, first: int) -> Iterator[None]:
    """Every global generator an attack may use, seeded for one batch and put back."""
    with seeded(seed, "attack", label, first):
        legacy, plain = np.random.get_state(), random.getstate()
        number = derive(seed, "attack", label, first)
        np.random.seed(number % 2**32)
        random.seed(number)
        try:
            yield
        finally:
            np.random.set_state(legacy)
            random.setstate(plain)


def _runner(attack: Any, threat: ThreatModel, label: str) -> tuple[Callable[[Any, Tensor, Any], Any], bool]:
    """How to run this kind of foolbox attack, and whether it promises to stay inside the ball.

    Raises:
        OptionError: it is not a foolbox attack, or it measures perturbations in another norm.
    """
    base = load_foolbox().attacks.base
    if not isinstance(attack, base.Attack):
        raise OptionError(f"attack {label}: {type(attack).__name__} is not a foolbox Attack")
    order = getattr(getattr(attack, "distance", None), "p", None)
    if order is not None and order != ORDER[threat.norm]:
        raise OptionError(
            f"attack {label} perturbs in l_{order:g} and the threat is {threat}; "
            "give the attack a threat of its own, or use an attack of that norm"
        )
    if isinstance(attack, base.MinimizationAttack):
        return lambda model, images, criterion: attack.run(model, images, criterion, early_stop=None), False
    if isinstance(attack, base.FixedEpsilonAttack):
        return lambda model, images, criterion: attack.run(model, images, criterion, epsilon=threat.epsilon), True
    # wrappers (foolbox's `Repeated`) can only be called; the second of three results is clipped to epsilon
    return lambda model, images, criterion: attack(model, images, criterion, epsilons=threat.epsilon)[1], True


def _refuse(wrong: Tensor, label: str, at: Tensor, what: Callable[[int], str]) -> None:
    """Raise a RunError for the first image that is `wrong` (n,) bool; `what` says what was found there."""
    if bool(wrong.any()):
        first = int(wrong.nonzero()[0])
        raise RunError(f"attack {label} returned for image {int(at[first])} {what(first)}; its results are not used")


def _check_images(proposed: Any, clean: Tensor, label: str, at: Tensor) -> None:
    """What an attack returned is images: same shape, type and device, finite, in [0, 1] to rounding.

    Raises:
        RunError: it is not; names the attack and the first such image.
    """
    if not isinstance(proposed, Tensor):
        raise RunError(f"attack {label} returned {type(proposed).__name__} instead of a tensor of images")
    if (proposed.shape, proposed.dtype, proposed.device) != (clean.shape, clean.dtype, clean.device):
        raise RunError(
            f"attack {label} returned {proposed.dtype} of shape {tuple(proposed.shape)} on {proposed.device} "
            f"for images {clean.dtype} of shape {tuple(clean.shape)} on {clean.device}, "
            f"of which the first is image {int(at[0])}"
        )
    flat = proposed.detach().flatten(1)
    _refuse(~flat.isfinite().all(dim=1), label, at, lambda _: "pixels that are not finite")
    low, high = flat.amin(dim=1), flat.amax(dim=1)
    _refuse(
        (low < -TOLERANCE) | (high > 1 + TOLERANCE),
        label,
        at,
        lambda i: f"pixels from {float(low[i]):.6g} to {float(high[i]):.6g}, outside [0, 1]",
    )


def _judge(
    network: nn.Module,
    proposed: Tensor,
    clean: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    label: str,
    at: Tensor,
    stays_inside: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """What proposed images prove: `perturbed`, `distance` and `found` of `AttackRecord`, (n,) each.

    Raises:
        RunError: a perturbation outside the ball, although the attack promises to stay inside.
    """
    size = threat.distance(proposed, clean)
    inside = size <= threat.epsilon + TOLERANCE
    if stays_inside:
        _refuse(
            ~inside,
            label,
            at,
            lambda i: f"a perturbation of {float(size[i]):.6g}, outside the ball of {threat}",
        )
    # one forward pass judges all: the admissible image where there is one, else the image beyond the ball
    shape = (-1, *[1] * (clean.dim() - 1))
    projected = threat.project(proposed, clean)
    judged = torch.where(inside.view(shape), projected, proposed.clamp(0.0, 1.0))
    answers = _answers(network, judged, at)
    size = threat.distance(judged, clean)
    found = torch.where(answers != labels, size, float("inf"))
    return torch.where(inside, answers, labels), torch.where(inside, size, 0.0), found


def evaluate(
    network: nn.Module,
    images: Images | Tensor,
    labels: Tensor,
    attack: Any,
    threat: ThreatModel,
    batch: int = 256,
    seed: int = 0,
    device: torch.device | str | None = None,
    label: str | None = None,
    report: Report = silent,
    world: World = ALONE,
) -> AttackRecord:
    """One attack on one network.

    Attacks that work inside a ball are given epsilon; attacks that minimise the perturbation run once, and
    what they find outside the ball is no success at this epsilon (it is kept in `found`).  Where epsilon is
    0 the clean image is the only admissible one and the attack is not called.

    Args:
        network: (N, C, H, W) pixels -> (N, K) logits; left exactly as it was.
        images: at least N of them; the first N are used.  A tensor is (N, C, H, W), uint8 or float in [0, 1].
        labels: (N,) int64.
        attack: a foolbox `Attack`, as `AttackFactory.build` makes it.
        threat: norm and epsilon in pixel units.
        batch: images attacked at once, cut from the first on; random draws are seeded for each batch from
            `seed`, `label` and the batch's first index, so the same three and the same batch give the same
            record.
        seed: the recipe's seed.
        device: where the network lives; None finds out.
        label: the attack's name in messages and seeds; None is its class.
        report: told after every batch, with the share of images still right so far as `robust`.
        world: the processes that share the batches; each returns the whole record.

    Raises:
        RunError: the attack raised, or returned what is not an admissible image; names attack and image.
        OptionError: the attack measures in another norm than the threat.
        DataError: images or labels are not what is promised above.
        DeviceError: the network is not on `device`.
    """
    label = type(attack).__name__ if label is None else label
    run, stays_inside = _runner(attack, threat, label)
    device = _device_of(network, device)
    source = on_device(_images(images, labels), device)
    labels = labels.detach().cpu()
    count = len(labels)
    counted = _Counted(network)
    with frozen(counted):
        model = load_foolbox().PyTorchModel(counted, bounds=(0, 1), device=device)

    def one(indices: Tensor) -> tuple[Tensor, ...]:
        """Clean and perturbed answers, distance and found of one batch, (n,) each, on the CPU."""
        pixels = _take(source, indices)
        truth = labels[indices].to(device)
        answers = _answers(network, pixels, indices)
        clean, distance = answers.cpu(), torch.zeros(len(indices))
        perturbed, found = clean.clone(), torch.full((len(indices),), float("inf"))
        right = (answers == truth).nonzero().squeeze(1)
        if len(right) and threat.epsilon > 0:
            here = right.cpu()
            at, start, wanted = indices[here], pixels[right], truth[right]
            with _random_state(seed, label, int(indices[0])):
                proposed = _proposals(run, model, start, wanted, label, at)
            _check_images(proposed, start, label, at)
            verdict = _judge(network, proposed.detach(), start, wanted, threat, label, at, stays_inside)
            perturbed[here], distance[here], found[here] = (part.cpu() for part in verdict)
        return clean, perturbed, distance, found

    def own() -> tuple[list[tuple[Tensor, ...]], int]:
        """Indices, clean and perturbed answers, distance and found of this process's batches; and their cost."""
        found: list[tuple[Tensor, ...]] = []
        done = standing = 0
        with frozen(counted), _float32_with_gradients(device):
            for indices in own_batches(count, batch, world):
                interrupt.check()
                found.append((indices, *one(indices)))
                done += len(indices)
                standing += int((found[-1][2] == labels[indices]).sum())
                report(min(done * world.size, count), count, "image", robust=standing / done)
        return found, counted.images

    clean = torch.empty(count, dtype=torch.int64)
    perturbed = torch.empty(count, dtype=torch.int64)
    distance = torch.zeros(count)
    found = torch.full((count,), float("inf"))
    evaluations = 0
    for some, cost in world.agree(own):
        evaluations += cost
        for indices, *parts in some:
            clean[indices], perturbed[indices], distance[indices], found[indices] = parts
    # an image that was wrong when clean was not attacked and kept its answer: that is nobody's success
    success = (clean == labels) & (perturbed != labels)
    return AttackRecord(
        label=label,
        threat=threat,
        batch=batch,
        seed=seed,
        labels=labels,
        clean=clean,
        perturbed=perturbed,
        success=success,
        distance=distance,
        found=found,
        evaluations=evaluations,
    )


def _proposals(
    run: Callable[[Any, Tensor, Any], Any], model: Any, images: Tensor, labels: Tensor, label: str, at: Tensor
) -> Any:
    """What the attack makes of images that are all classified correctly; it works on copies of its own.

    Raises:
        RunError: the attack raised.
    """
    try:
        return run(model, images.clone(), load_foolbox().criteria.Misclassification(labels.clone()))
    except RobustnasError:
        raise
    except Exception as fault:  # a stranger's code: whatever it raises is its fault, and the table goes on
        where = f"attack {label} raised {type(fault).__name__} on images {int(at[0])} to {int(at[-1])}"
        raise RunError(f"{where}: {fault}" if str(fault) else where) from fault


def robust(correct: Tensor, successes: Sequence[Tensor]) -> Tensor:
    """Worst case, image by image: right when clean and fooled by none of the attacks, (N,) bool.

    Args:
        correct: (N,) bool, right when clean.
        successes: (N,) bool for each attack; all on the same images and the same threat.
    """
    standing = correct.clone()
    for success in successes:
        if success.shape != correct.shape:
            raise ValueError(f"an attack on {len(success)} images beside {len(correct)}: not the same images")
        standing &= ~success
    return standing
