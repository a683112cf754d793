"""One attack on one network at one radius: for every image, whether it was fooled, and by how much.

Only images that are right when clean and asked for are attacked; the parts of an attack come one after the other, each
on the images that still stand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import attrs
import torch
from torch import Tensor, nn

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
from robustnas.attack.per_image_random import PerImageRandom
from robustnas.attack.progress import Done, Progress
from robustnas.attack.record import AttackRecord
from robustnas.attack.runner import Runner, proposals, random_state, runners
from robustnas.attack.untouched import Untouched
from robustnas.contracts import Images
from robustnas.data.images import on_device
from robustnas.errors import RunError
from robustnas.nn.read_only import read_only
from robustnas.runtime import interrupt
from robustnas.runtime.precision import float32_with_gradients
from robustnas.runtime.processes import ALONE, Processes
from robustnas.runtime.report import Report, silent
from robustnas.threat import NORMS, ThreatModel

Watch = Callable[[Tensor, Tensor, Tensor, dict[str, Tensor]], None]
"""Told of images that were fooled: which of the N (n,), clean and perturbed images, sizes by norm."""


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
    processes: Processes = ALONE,
    *,
    clean: Tensor | None = None,
    among: Tensor | None = None,
    before: AttackRecord | None = None,
    source: nn.Module | None = None,
    expectation: int = 1,
    runs: int = 1,
    variant: str = "",
    access: str = "white-box",
    progress: Progress | None = None,
    watch: Watch | None = None,
    places: Tensor | None = None,
) -> AttackRecord:
    """One attack on one network.

    Attacks that work inside a ball are given epsilon; attacks that minimise the perturbation run once, and
    what they find outside the ball is no success at this epsilon (it is kept in `sizes`).  Where epsilon is
    0 the clean image is the only admissible one and the attack is not called.

    Random draws.  An attack that takes draws (`robustnas.attack.foolbox_attack`) gives an image the same result
    whatever the batch, the order and the processes, to rounding.  Others draw from global generators, seeded for each
    batch from `seed`, `label` and the batch's first place; their batches are cut from all images, `batch` places
    each, and hold what still stands of those.

    Args:
        network: (N, C, H, W) pixels -> (N, K) logits; left exactly as it was.
        images: at least N of them; the first N are used.  A tensor is (N, C, H, W), uint8 or float in [0, 1].
        labels: (N,) int64.
        attack: a foolbox `Attack`, as `AttackFactory.build` makes it.
        threat: norm and epsilon in pixel units.
        batch: images attacked at once.
        seed: the recipe's seed.
        device: where the network lives; None finds out.
        label: the attack's name in messages and seeds; None is its class.
        report: told after every batch, with the name of the part that is run and the share of images still right so far
            as `standing`.
        processes: the processes that share the batches; each returns the whole record.
        clean: (N,) int64, the network's answers on the clean images, if they are known.
        among: (N,) bool, the images to attack; default all that are right when clean.
        before: what the same attack did at a smaller radius: images it fooled within this one are not attacked
            again, and what minimises is not run again where it was run.
        source: the network the attack sees; default the one that judges.
        expectation: passes averaged in each evaluation that the attack sees, for randomised networks.
        runs: how often the attack is run, each time on the images that still stand.
        variant: see `AttackRecord`.
        access: what the attack knows of the network: `white-box`, `black-box`, `noise` or `corruption`.
        progress: what is done already, and where to note what is.
        watch: told of every image that was fooled.
        places: (N,) int64, the images' places in the data set that these are a part of: by them an image is named in
            messages and draws its random numbers.  Default: counted from 0.

    Raises:
        RunError: the attack raised, changed the network, or returned what is not an admissible image; names attack
            and image.
        OptionError: the attack measures in another norm than the threat.
        DataError: images or labels are not what is promised above.
        DeviceError: the network is not on `device`.
    """
    label = type(attack).__name__ if label is None else label
    parts = runners(attack, threat, label, runs, access)
    device = device_of(network, device)
    whole = as_images(images, labels)
    labels = labels.detach().cpu()
    count = len(labels)
    if clean is None:
        clean = predict(network, whole, batch, device, processes, places=places)[:count]
    sources = on_device(whole, device)
    counted = Counted(network if source is None else source)
    seen: nn.Module = Expected(counted, expectation) if expectation > 1 else counted
    state = _State.at_start(labels, clean, threat, among, before)
    names = torch.arange(count) if places is None else places
    work = _Work(network, seen, counted, sources, labels, names, threat, device, label, variant, batch, seed, watch)
    kept = Progress() if progress is None else progress
    parts, left_out = _possible(work, parts, state.standing)
    if threat.epsilon > 0 or not parts[0].bounded:
        for place, runner in enumerate(parts):
            state.merge(place, _part(work, runner, state.todo(place, runner), kept, report, processes, state, count))
    return attrs.evolve(state.record(work, parts), left_out=left_out)


@attrs.define(eq=False)
class _State:
    """What is known of each of N images so far."""

    labels: Tensor
    clean: Tensor
    threat: ThreatModel
    standing: Tensor
    tried: Tensor
    before: AttackRecord | None
    perturbed: Tensor
    by: Tensor
    finder: Tensor
    distance: Tensor
    sizes: dict[str, Tensor]
    answer: Tensor
    evaluations: int = 0

    @staticmethod
    def at_start(
        labels: Tensor, clean: Tensor, threat: ThreatModel, among: Tensor | None, before: AttackRecord | None
    ) -> _State:
        count, right = len(labels), clean == labels
        state = _State(
            labels=labels,
            clean=clean,
            threat=threat,
            standing=right if among is None else right & among,
            tried=torch.zeros(count, dtype=torch.int64),
            before=before,
            perturbed=clean.clone(),
            by=torch.full((count,), -1),
            finder=torch.full((count,), -1),
            distance=torch.zeros(count),
            sizes={norm: torch.full((count,), float("inf"), dtype=torch.float64) for norm in NORMS},
            answer=labels.clone(),
        )
        if before is not None:
            carried = before.at(threat)
            state.sizes = {norm: size.clone() for norm, size in before.sizes.items()}
            state.answer, state.finder = before.answer.clone(), before.finder.clone()
            state.perturbed, state.distance, state.by = carried.perturbed, carried.distance, carried.by
            state.standing = state.standing & ~carried.success
        return state

    def todo(self, place: int, runner: Runner) -> Tensor:
        """(n,) places of the images that a part is to be run on, ascending."""
        wanted = self.standing
        if self.before is not None and runner.minimises:
            wanted = wanted & (self.before.tried <= place)
        return wanted.nonzero().squeeze(1)

    def merge(self, place: int, done: Done) -> None:
        """Take in what a part has done."""
        self.tried[self.standing] = place + 1
        self.evaluations += round(float(done.cost.sum()))
        at = done.indices
        norm = self.threat.norm
        nearer = done.sizes[norm] < self.sizes[norm][at]
        self.answer[at] = torch.where(nearer, done.answer, self.answer[at])
        self.finder[at[nearer]] = place
        for name, size in done.sizes.items():
            self.sizes[name][at] = torch.minimum(self.sizes[name][at], size)
        fooled = done.inside & (done.answer != self.labels[at])
        self.perturbed[at] = torch.where(done.inside, done.answer, self.perturbed[at])
        self.distance[at] = torch.where(done.inside, done.distance, self.distance[at])
        self.by[at[fooled]] = place
        self.standing[at[fooled]] = False

    def record(self, work: _Work, parts: list[Runner]) -> AttackRecord:
        # an image that was wrong when clean was not attacked and kept its answer: that is nobody's success
        success = (self.clean == self.labels) & (self.perturbed != self.labels)
        return AttackRecord(
            label=work.label,
            threat=self.threat,
            batch=work.batch,
            seed=work.seed,
            labels=self.labels,
            clean=self.clean,
            tried=self.tried,
            perturbed=self.perturbed,
            success=success,
            by=self.by,
            distance=self.distance,
            sizes=self.sizes,
            answer=self.answer,
            evaluations=self.evaluations,
            parts=tuple(one.name for one in parts),
            access=tuple(one.access for one in parts),
            variant=work.variant,
            finder=self.finder,
        )


@attrs.frozen(eq=False)
class _Work:
    """What stays the same for all batches of an attack."""

    network: nn.Module
    seen: nn.Module
    counted: Counted
    images: Images
    labels: Tensor
    places: Tensor
    threat: ThreatModel
    device: torch.device
    label: str
    variant: str
    batch: int
    seed: int
    watch: Watch | None

    @property
    def name(self) -> str:
        """The attack in seeds: another variant draws other numbers."""
        return f"{self.label}/{self.variant}" if self.variant else self.label


def _possible(work: _Work, parts: list[Runner], standing: Tensor) -> tuple[list[Runner], tuple[str, ...]]:
    """The parts of an attack that can be run on the network, and the names of those left out.

    Those that follow gradients would raise where there are none; that the others are run is better than nothing, as
    long as it is told.  An attack without others raises, and says why.
    """
    others = [one for one in parts if one.access != "white-box"]
    if not 0 < len(others) < len(parts) or not bool(standing.any()):
        return parts, ()
    with _read_only([work.counted.network], work.device):
        # the first image for all processes: they must agree
        why = no_gradient(work.counted, take(work.images, standing.nonzero()[:1, 0], work.places))
    return (parts, ()) if why is None else (others, tuple(one.name for one in parts if one not in others))


def _part(
    work: _Work,
    runner: Runner,
    todo: Tensor,
    progress: Progress,
    report: Report,
    processes: Processes,
    state: _State,
    count: int,
) -> Done:
    """One part of an attack on the images at `todo` (n,): what this and all other processes found."""
    key = f"{work.variant}/{work.threat.epsilon!r}/{runner.name}"
    # the first process's view: what another has written meanwhile, or a slow disk hides, must not part the batches
    known = processes.broadcast(progress.of(key).indices)
    if runner.takes_draws:
        batches = list(todo[~torch.isin(todo, known)].split(work.batch))
    else:  # places are cut, not what stands of them: who shares a batch is known beforehand
        batches = [some[~torch.isin(some, known)] for some in _cut(todo, work.batch)]
    batches = [some for some in batches if len(some)]
    finished = int((~state.standing).sum())

    def own() -> Done:
        done = 0
        networks = list(dict.fromkeys([work.counted.network, work.network]))
        unit = " ".join(filter(None, (runner.name, "image")))
        if runner.name and batches:
            report(finished, count, unit, standing=int(state.standing.sum()) / max(count, 1))
        with Untouched.held(networks) as untouched, _read_only(networks, work.device):
            model = load_foolbox().PyTorchModel(work.seen, bounds=(0, 1), device=work.device)
            for indices in batches[processes.rank :: processes.size]:
                if interrupt.asked():
                    progress.write()
                interrupt.check()
                progress.note(key, _batch(work, runner, model, indices, untouched))
                done += len(indices)
                so_far = progress.of(key)
                broken = int((so_far.inside & (so_far.answer != work.labels[so_far.indices])).sum())
                standing = (int(state.standing.sum()) - broken) / max(count, 1)
                report(min(finished + done * processes.size, count), count, unit, standing=standing)
        return progress.of(key)

    merged = Done()
    for found in processes.run_together(own):
        merged.add(found)
    return merged.chosen(torch.isin(merged.indices, todo))


def _cut(todo: Tensor, batch: int) -> Iterator[Tensor]:
    """`todo` (n,) ascending places, in groups of the same `place // batch`."""
    for group in (todo // batch).unique():
        yield todo[todo // batch == group]


def _batch(work: _Work, runner: Runner, model: Any, indices: Tensor, untouched: Untouched) -> Done:
    """One part of an attack on one batch."""
    start, at = take(work.images, indices, work.places), work.places[indices]
    truth = work.labels[indices].to(work.device)
    before = work.counted.images
    draws = runner.draws(work.seed, work.name, at, start.device)
    first = int(indices[0]) // work.batch * work.batch
    with random_state(work.seed, "/".join(filter(None, (work.name, runner.name))), first):
        proposed = _proposed(work, runner, model, start, truth, draws, at)
    cost = torch.full((len(indices),), (work.counted.images - before) / len(indices), dtype=torch.float64)
    if any(module.training for module in (*work.network.modules(), *work.seen.modules())):
        raise RunError(f"attack {work.label} put the network into training mode; its results are not used")
    untouched.check(" ".join(filter(None, (work.label, runner.name))), (work.counted.network, work.network), start)
    check_images(proposed, start, work.label, at)
    verdict = judge(
        lambda judged: answers(work.network, judged, at),
        proposed.detach(),
        start,
        truth,
        work.threat,
        work.label,
        at,
        runner.stays_inside,
        runner.bounded,
    )
    if work.watch is not None and bool(verdict.fooled.any()):
        work.watch(
            indices[verdict.fooled],
            start.cpu()[verdict.fooled],
            verdict.images.cpu()[verdict.fooled],
            {norm: size[verdict.fooled] for norm, size in verdict.sizes.items()},
        )
    return Done(indices, verdict.inside, verdict.answer, verdict.distance, verdict.sizes, cost)


def _proposed(
    work: _Work, runner: Runner, model: Any, start: Tensor, truth: Tensor, draws: PerImageRandom, at: Tensor
) -> Any:
    """What the attack makes of a batch.

    Raises:
        RunError: it raised; where it wanted gradients and there are none, that is said.
    """
    try:
        return proposals(runner, model, start, truth, draws, work.label, at)
    except RunError as fault:
        why = no_gradient(work.counted, start[:1]) if runner.access == "white-box" else None
        if why is None:
            raise
        raise RunError(
            f"attack {work.label} follows gradients, and {why} ({fault}); attacks without (square, boundary, "
            "hopskipjump), or a network without detach, no_grad, argmax and the like, would do"
        ) from fault


@contextmanager
def _read_only(networks: Sequence[nn.Module], device: torch.device) -> Iterator[None]:
    """The networks frozen, in float32 with gradients."""
    with ExitStack() as stack:
        for network in networks:
            stack.enter_context(read_only(network))
        stack.enter_context(float32_with_gradients(device))
        yield
