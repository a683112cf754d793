"""How a run stands, from any machine that sees its directory: what is done, running and where, waiting, and failed.

It reads what those at work tell of themselves (`robustnas.run.presence`), leases, and what lies in the stages' folders.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

from attrs import evolve, frozen

from robustnas.errors import InputError
from robustnas.plan import KINDS
from robustnas.run import layout, presence, stage_log
from robustnas.run.directory import RunDirectory
from robustnas.run.leases import Leases
from robustnas.run.presence import FOLDER, Peer, Presence
from robustnas.run.submitted import Submitted, kept, stop
from robustnas.runtime.artifacts import StageFolder, digests, write_text
from robustnas.runtime.suggest import did_you_mean

WATCHED = 2.5 * presence.BEAT
"""Seconds for which `check` watches whether the counts of other machines move."""


@frozen
class Found:
    """A stage as it is found.

    Args:
        method, seed: whose it is; of several that share it, the first.
        what: in words, `search`, `candidate 2`, `attack pgd-20`.
        where: its folder below the run directory.
        state: `done`, `running`, `failed` or `waiting`.
        who: of one that is running, the process.
        place: of one that is running, how far it is, if it tells.
        why: of one that failed, the first line of the reason.
    """

    method: str
    seed: str
    what: str
    where: str
    state: str = "waiting"
    who: Peer | None = None
    place: str = ""
    why: str = ""

    @property
    def title(self) -> str:
        return f"{self.method} seed {self.seed} {self.what}"


@frozen
class Status:
    """How a run stands.

    Args:
        stages: all that the last recipe here asks for, each once.
        peers: the processes at work, with whether each shows signs of life; None where that is not known.
    """

    stages: list[Found]
    peers: list[tuple[Peer, bool | None]]

    def of(self, state: str) -> list[Found]:
        """The stages in a state."""
        return [stage for stage in self.stages if stage.state == state]

    @property
    def counts(self) -> Counter[str]:
        return Counter(stage.state for stage in self.stages)


def stages(directory: RunDirectory) -> list[Found]:
    """The stages that the last recipe asks for, each once, as they are named.

    Raises:
        RunDirectoryError: the layout is damaged.
    """
    found: dict[str, Found] = {}
    for method, seed, folders in layout.read(directory).networks:
        named: list[tuple[str, str]] = [(kind, folders[kind]) for kind in layout.SINGLE if folders.get(kind)]
        named += [(_of_candidate(where), where) for where in folders["tried"]]
        named += [(f"attack {label}", where) for label, where in folders["attacks"].items() if where]
        order = {str(kind): place for place, kind in enumerate(KINDS)}
        for what, where in sorted(named, key=lambda one: order.get(one[1].partition("/")[0], 0)):
            of_search = where.partition("/")[0] in KINDS[: KINDS.index("train")]
            found.setdefault(where, Found(method, str(seed.search if of_search else seed), what, where))
    return list(found.values())


def _of_candidate(where: str) -> str:
    """The words for one of several candidates' stages, from its folder's name."""
    kind, _, name = where.partition("/")
    return f"{kind} {name.split('-')[-2]}"


def status(directory: RunDirectory, *, check: bool = False) -> Status:
    """Find how a run stands.

    Args:
        check: watch for `WATCHED` seconds whether processes of other machines show signs of life.

    Raises:
        RunDirectoryError: the directory is damaged.
    """
    leases = Leases.of(Presence(directory.path, quiet=True))  # it is not entered: whoever looks is not at work
    peers = presence.peers(directory.path / FOLDER)
    living = {peer.name: leases.watch.living(peer) for peer in peers}
    if check and None in living.values():
        time.sleep(WATCHED)
        peers = presence.peers(directory.path / FOLDER)
        living = {peer.name: bool(leases.watch.living(peer)) for peer in peers}
    named = {peer.name: peer for peer in peers if living[peer.name] is not False}
    told = {one.get("key", ""): one.get("place", "") for peer in named.values() for one in peer.doing}
    found = []
    for stage in stages(directory):
        folder, key = directory.at(stage.where), digests.key_of(directory.path / stage.where)
        found.append(_as_found(stage, folder, named.get(leases.holder(key) or ""), told.get(key, "")))
    return Status(found, [(peer, living[peer.name]) for peer in peers])


def _as_found(stage: Found, folder: StageFolder, who: Peer | None, place: str) -> Found:
    if folder.done:
        return evolve(stage, state="done")
    if who is not None:
        return evolve(stage, state="running", who=who, place=place)
    why = stage_log.why_failed(folder)
    return stage if why is None else evolve(stage, state="failed", why=why.split("\n")[0])


def log(directory: RunDirectory, method: str, seed: str, what: str) -> Iterator[str]:
    """Yield the texts on one stage: what it told as it went, why it failed, and where in the code.

    Args:
        what: the stage in words, `search`, `attack pgd-20`; of an attack its label will do.

    Raises:
        InputError: there is no such stage.
    """
    every = stages(directory)
    methods = list(dict.fromkeys(one.method for one in every))
    if method not in methods:
        raise InputError(
            f"{directory.path}: found no method {method!r}{did_you_mean(method, methods)}; {_some(methods)}"
        )
    seeds = list(dict.fromkeys(one.seed for one in every if one.method == method))
    if seed not in seeds:
        raise InputError(f"{directory.path}: found no seed {seed!r} of {method}; {_some(seeds)}")
    whats = {one.what: one for one in every if one.method == method and one.seed == seed}
    asked = whats.get(what) or whats.get(f"attack {what}")
    if asked is None:
        raise InputError(f"{directory.path}: found no stage {what!r} of {method} seed {seed}; {_some(list(whats))}")
    folder = directory.at(asked.where)
    texts = [stage_log.text(folder, name) for name in (stage_log.LOG, stage_log.FAILED, "error.txt")]
    if not any(texts):
        yield f"{asked.title}: {'done, and older than logs' if folder.done else 'nothing yet: it has not begun'}"
    for text in texts:
        if text:
            yield text


def _some(names: list[str]) -> str:
    return f"{', '.join(names[:20])} would do"


def submitted(directory: RunDirectory) -> list[Submitted]:
    """The jobs that commands handed to schedulers and whose stages are not done.

    Raises:
        RunDirectoryError: a file with their names is damaged, or its folder is a link.
    """
    undone = {
        digests.key_of(directory.path / one.where) for one in stages(directory) if not directory.at(one.where).done
    }
    left = [
        evolve(one, jobs={key: name for key, name in one.jobs.items() if key in undone}) for one in kept(directory.path)
    ]
    return [one for one in left if one.jobs]


def cancel(directory: RunDirectory) -> list[Peer]:
    """Ask everybody at work to stop at the next checkpoint, and jobs not to begin; returns whom.

    Raises:
        RunDirectoryError: the request cannot be written, or what was submitted cannot be read.
    """
    for one in submitted(directory):
        stop(directory.path, one.command)
    leases = Leases.of(Presence(directory.path, quiet=True))
    folder = directory.path / FOLDER
    asked = [peer for peer in presence.peers(folder) if leases.watch.living(peer) is not False]
    for peer in asked:
        write_text(folder / f"{peer.name}.cancel", "robustnas cancel\n")
    return asked
