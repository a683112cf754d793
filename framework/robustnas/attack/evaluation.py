"""One attack on one network at one radius: for every image, whether it was fooled, and by how much.

Only images that are right when clean and asked for are attacked; the parts of an attack come one after the other, each
on the images that still stand.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from robustnas.attack.conditions import Conditions
from robustnas.attack.foolbox_import import load_foolbox
from robustnas.attack.judge import check_images, judge
from robustnas.attack.network import (
    Counted,
    Expected,
    answers,
    as_images,
    device_of,
    no_gradient,
    predict,
    take,
)
from robustnas.attack.outcomes import Outcomes
from robustnas.attack.per_image_random import PerImageRandom
from robustnas.attack.progress import Progress
from robustnas.attack.runner import Runner, random_state, runners
from robustnas.attack.untouched import Untouched
from robustnas.contracts import Images
from robustnas.data.images import on_device
from robustnas.errors import RunError
from robustnas.nn.read_only import read_only
from robustnas.runtime import interrupt
from robustnas.runtime.machine_faults import blaming
from robustnas.runtime.precision import float32_with_gradients
from robustnas.threat import ThreatModel

USUAL = Conditions()
"""The default conditions: one run in batches of 256, with the random numbers of seed 0."""


def evaluate(
    network: nn.Module,
    images: Images | Tensor,
    labels: Tensor,
    attack: Any,
    threat: ThreatModel,
    conditions: Conditions = USUAL,
    *,
    among: Tensor | None = None,
    before: Outcomes | None = None,
) -> Outcomes:
    """Run one attack on one network, and judge what it proposes.

    Attacks that work inside a ball are given epsilon; attacks that minimise the perturbation run once, and
    what they find outside the ball is no success at this epsilon (it is kept in `sizes`).  Where epsilon is
    0 the clean image is the only admissible one and the attack is not called.

    Random draws.  An attack that takes draws (`robustnas.attack.foolbox_attack`) gives an image the same result
    whatever the batch, the order and the processes, to rounding.  Others draw from global generators, seeded for each
    batch from the seed, the label and the batch's first place.  For these attacks all images are cut into batches
    first, of which only images that still stand are attacked, so that batches do not shift as images fall.

    Args:
        network: (N, C, H, W) pixels -> (N, K) logits; left exactly as it was.
        images: at least N of them; the first N are used.  A tensor is (N, C, H, W), uint8 or float in [0, 1].
        labels: (N,) int64.
        attack: a foolbox `Attack`, as `AttackFactory.build` makes it.
        threat: norm and epsilon in pixel units.
        conditions: how the attack is run, and what is known of the images beforehand.
        among: (N,) bool, the images to attack; default all that are right when clean.
        before: what the same attack did at a smaller radius: images it fooled within this one are not attacked
            again, and what minimises is not run again where it was run.

    Raises:
        RunError: the attack raised, changed the network, or returned what is not an admissible image; names attack
            and image.
        OptionError: the attack measures in another norm than the threat.
        DataError: images or labels are not what is promised above.
        DeviceError: the network is not on the device.
    """
    label = type(attack).__name__ if conditions.label is None else conditions.label
    parts = runners(attack, threat, label, conditions.runs, conditions.access)
    device = device_of(network, conditions.device)
    whole = as_images(images, labels)
    labels = labels.detach().cpu()
    places = torch.arange(len(labels)) if conditions.places is None else conditions.places
    clean = conditions.clean
    if clean is None:
        clean = predict(network, whole, conditions.batch, device, conditions.processes, places=conditions.places)
        clean = clean[: len(labels)]
    if before is None:
        outcomes = Outcomes(threat, index=places, label=labels, clean=clean, variant=conditions.variant)
    else:
        outcomes = attrs.evolve(before.at(threat.epsilon), tried=torch.zeros_like(before.tried), evaluations=0)
    counted = Counted(network if conditions.source is None else conditions.source)
    run = _Run(network, counted, on_device(whole, device), outcomes, device, label, conditions)
    wanted = outcomes.correct if among is None else outcomes.correct & among
    parts, left_out = run.possible(parts, wanted & ~outcomes.success)
    if threat.epsilon > 0 or not parts[0].bounded:
        for place, part in enumerate(parts):
            standing = wanted & ~outcomes.success
            todo = standing if before is None or not part.minimises else standing & (before.tried <= place)
            outcomes = attrs.evolve(outcomes, tried=torch.where(standing, place + 1, outcomes.tried))
            outcomes = outcomes.add(run.part(part, todo, standing), place)
    return attrs.evolve(
        outcomes,
        parts=tuple(part.name for part in parts),
        access=tuple(part.access for part in parts),
        left_out=left_out,
    )


@attrs.frozen(eq=False)
class _Run:
    """What stays the same for all batches of an attack at one radius.

    Args:
        network: the network that judges.
        counted: the network that the attack sees, counting each pass.
        images: N of them, on the device.
        start: the outcomes before this run, on the CPU.
        device: where networks and images are.
        name: what messages call the attack.
        conditions: the conditions under which the attack is run.
    """

    network: nn.Module
    counted: Counted
    images: Images
    start: Outcomes
    device: torch.device
    name: str
    conditions: Conditions
    progress: Progress = attrs.field(init=False)

    @progress.default
    def _kept(self) -> Progress:
        return self.conditions.progress or Progress()

    @property
    def seeded_as(self) -> str:
        """What seeds call the attack; variants differ in it, so that each draws numbers of its own."""
        return "/".join(filter(None, (self.name, self.conditions.variant)))

    def possible(self, parts: list[Runner], standing: Tensor) -> tuple[list[Runner], tuple[str, ...]]:
        """Find the parts of an attack that can be run on the network, and the names of those left out.

        Parts that follow gradients would raise on a network without them, so only the others are run, and a flag says
        so.  An attack that has only such parts raises, and says why.
        """
        others = [part for part in parts if part.access != "white-box"]
        if not 0 < len(others) < len(parts) or not bool(standing.any()):
            return parts, ()
        with _read_only([self.counted.network], self.device):
            # all processes look at the same image, so that they leave out the same parts
            why = no_gradient(self.counted, take(self.images, standing.nonzero()[:1, 0], self.start.index))
        return (others, tuple(part.name for part in parts if part not in others)) if why else (parts, ())

    def part(self, runner: Runner, todo: Tensor, standing: Tensor) -> Outcomes:
        """Run one part of an attack on the images `todo` (N,) bool, shared with all other processes.

        Args:
            standing: (N,) bool, images that are still right; only reports need them.
        """
        processes, batch = self.conditions.processes, self.conditions.batch
        key = f"{self.conditions.variant}/{self.start.threat.epsilon!r}/{runner.name}"
        # all processes take the first one's view of what is done: with views of their own, which a slow disk may
        # change, they would cut different batches
        known = processes.broadcast(torch.isin(self.start.index, self.progress.of(key, self.start.threat).index))
        left = (todo & ~known).nonzero().squeeze(1)
        if runner.takes_draws:
            batches = [some for some in left.split(batch) if len(some)]
        else:  # all places are cut into batches, so that which images share a batch does not depend on what fell
            batches = [left[left // batch == group] for group in (left // batch).unique()]

        def own() -> Outcomes:
            """Run this process's share of the batches, and add their outcomes to the earlier ones."""
            networks = list(dict.fromkeys([self.counted.network, self.network]))
            passes = self.conditions.expectation
            seen: nn.Module = Expected(self.counted, passes) if passes > 1 else self.counted
            count, right, done = len(standing), int(standing.sum()), 0
            unit = " ".join(filter(None, (runner.name, "image")))
            if runner.name and batches:
                self.conditions.report(count - right, count, unit, standing=right / max(count, 1))
            with Untouched.held(networks) as untouched, _read_only(networks, self.device):
                model = load_foolbox().PyTorchModel(seen, bounds=(0, 1), device=self.device)
                for indices in batches[processes.rank :: processes.size]:
                    if interrupt.asked():
                        self.progress.write()
                    interrupt.check()
                    self.progress.note(key, self._batch(runner, model, indices, untouched))
                    done += len(indices)
                    left_over = right - int(self.progress.of(key, self.start.threat).success.sum())
                    told = min(count - right + done * processes.size, count)
                    self.conditions.report(told, count, unit, standing=left_over / max(count, 1))
            return self.progress.of(key, self.start.threat)

        shares = processes.run_together(own)
        merged = shares[0]
        for share in shares[1:]:
            merged = merged.joined(share)
        return merged.chosen(torch.isin(merged.index, self.start.index[todo]))

    def _batch(self, runner: Runner, model: Any, indices: Tensor, untouched: Untouched) -> Outcomes:
        """Run one part of an attack on one batch, the images at `indices` (n,), and judge what it proposes."""
        start, at = take(self.images, indices, self.start.index), self.start.index[indices]
        truth = self.start.label[indices].to(self.device)
        before = self.counted.images
        draws = runner.draws(self.conditions.seed, self.seeded_as, at, start.device)
        first = int(indices[0]) // self.conditions.batch * self.conditions.batch
        with random_state(self.conditions.seed, "/".join(filter(None, (self.seeded_as, runner.name))), first):
            proposed = self._proposed(runner, model, start, truth, draws, at)
        cost = torch.full((len(indices),), (self.counted.images - before) / len(indices), dtype=torch.float64)
        if any(module.training for module in (*self.network.modules(), *self.counted.modules())):
            raise RunError(f"attack {self.name} put the network into training mode; its results are not used")
        untouched.check(" ".join(filter(None, (self.name, runner.name))), (self.counted.network, self.network), start)
        check_images(proposed, start, self.name, at)
        judged, outcomes = judge(
            lambda images: answers(self.network, images, at),
            proposed.detach(),
            start,
            truth,
            self.start.threat,
            runner,
            self.name,
            at,
        )
        fooled = outcomes.found.isfinite()
        if self.conditions.watch is not None and bool(fooled.any()):
            self.conditions.watch(outcomes.chosen(fooled), start.cpu()[fooled], judged.cpu()[fooled])
        return attrs.evolve(outcomes, cost=cost)

    def _proposed(
        self, runner: Runner, model: Any, start: Tensor, truth: Tensor, draws: PerImageRandom, at: Tensor
    ) -> Any:
        """Let the attack propose images for a batch, from copies that it may write into."""
        criterion = load_foolbox().criteria.Misclassification(truth.clone())
        try:
            with blaming(f"attack {self.name}", f"on images {int(at[0])} to {int(at[-1])}"):
                return runner.call(model, start.clone(), criterion, draws)
        except RunError as fault:
            why = no_gradient(self.counted, start[:1]) if runner.access == "white-box" else ""
            if not why:
                raise
            raise RunError(
                f"attack {self.name} follows gradients, and {why} ({fault}); attacks without (square, boundary, "
                "hopskipjump), or a network without detach, no_grad, argmax and the like, would do"
            ) from fault


@contextmanager
def _read_only(networks: Sequence[nn.Module], device: torch.device) -> Iterator[None]:
    """Freeze networks, in float32 with gradients, while the block lasts."""
    with ExitStack() as stack:
        for network in networks:
            stack.enter_context(read_only(network))
        stack.enter_context(float32_with_gradients(device))
        yield
