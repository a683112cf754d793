"""A finished run in Python: its table, networks, genotypes, histories and records.

    run = robustnas.open("runs/quickstart")
    network = run.network("dsrna-cb", seed=0)

Nothing imports torch before a network or the plan is asked for.
"""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from attrs import frozen

from robustnas.contracts import Genotype
from robustnas.errors import InputError, RunDirectoryError
from robustnas.plan import Plan, Seed
from robustnas.run import layout
from robustnas.run.asked import genotype_in, known_method, known_seed, trains
from robustnas.run.directory import RunDirectory
from robustnas.runtime.artifacts import damaged
from robustnas.runtime.suggest import did_you_mean
from robustnas.table import finished, results
from robustnas.table.tabulated import Table

if TYPE_CHECKING:
    from torch import nn


@frozen
class Run:
    """A run directory, opened to be read; what is still being computed is not there yet.

    In all members `seed` is a seed of the recipe, of nested seeds that of the search (or both, `"0.2"`), and
    `train_seed` that of the training; None takes the first there is.  A method or a seed that the run does not have is
    an `InputError` that names those it has.

    Args:
        directory: the run directory.
    """

    directory: RunDirectory

    @property
    def path(self) -> Path:
        """The folder of the run."""
        return self.directory.path

    @property
    def methods(self) -> list[str]:
        """The names of the methods, in the order of the recipe."""
        return list(layout.read(self.directory).methods)

    def seeds(self, method: str) -> list[Seed]:
        """The seeds of a method's networks."""
        return list(self._stages_by_seed(method))

    @property
    def table(self) -> Table:
        """The table, made anew from the results that are there.

        Raises:
            RunDirectoryError: a result is damaged.
        """
        return Table.of(results.comparison(self.directory))

    @cached_property
    def plan(self) -> Plan:
        """The methods with all their settings, and the stages; loads the plugins of the recipe.

        Raises:
            RecipeError: the recipe has faults by now: a plugin is gone, say.
        """
        from robustnas.run.evaluated import planned

        return planned(self.path)

    def network(self, method: str, seed: int | str | None = None, train_seed: int | None = None) -> nn.Module:
        """Load a trained network on the CPU, in eval mode: from pixels in [0, 1] (N, C, H, W) to logits (N, K).

        Raises:
            RunDirectoryError: it has not been trained yet; the message has the command that trains it.
        """
        at, _ = self._network(method, seed, train_seed)
        from robustnas.run.evaluated import trained

        return trained(self.directory, self.plan, method, at)

    def genotype(self, method: str, seed: int | str | None = None) -> Genotype:
        """Return the discrete architecture of a method: what its search found, or the recipe names.

        Raises:
            InputError: the method is a network made elsewhere.
            RunDirectoryError: it has not been searched yet; the message has the command that does.
        """
        at, stages = self._network(method, seed)
        where = stages["choose"] or stages["search"]
        if where is None:
            given = self.plan.methods[method].genotype
            if given is None:
                raise InputError(f"{method} is a network made elsewhere and has no genotype; `.network` would do")
            return given
        if not self.directory.at(where).done:
            raise RunDirectoryError(
                f"{self.path} holds no genotype of {method} seed {at.search}; {trains(self.path)} searches it"
            )
        return genotype_in(self.directory.at(where))

    def history(
        self,
        method: str,
        seed: int | str | None = None,
        train_seed: int | None = None,
        kind: Literal["train", "search"] = "train",
    ) -> list[dict[str, Any]]:
        """List what happened in each epoch of a training or a search, also of one that goes on.

        Of several candidates the search is that of the chosen one; a draw at random has no epochs.

        Raises:
            InputError: the method has no such stage, as its genotype or its network is given.
            RunDirectoryError: there are no epochs yet; the message has the command that makes them.
        """
        at, stages = self._network(method, seed, train_seed)
        if kind not in ("train", "search"):
            raise InputError(f"found kind {kind!r}; 'train' or 'search' would do")
        where = stages[kind]
        if kind == "search" and stages["choose"] is not None:
            where = searched(self.directory, stages)
        elif where is None:
            raise InputError(f"{method} has no history of kind {kind!r}: what that would make is given to the run")
        folder = None if where is None else self.directory.at(where)
        records = [] if folder is None else folder.history()
        if not records and (folder is None or not folder.done):
            raise RunDirectoryError(
                f"{self.path} holds no epoch of the {kind} of {method} seed {at}; {trains(self.path)} makes them"
            )
        return records

    def records(
        self, method: str, seed: int | str | None = None, train_seed: int | None = None, attack: str | None = None
    ) -> dict[str, np.ndarray[Any, Any]]:
        """Return what attacks did to each image, as columns: an entry an image, attack, and radius or variant.

        The columns are those of `robustnas records` (docs/results.md), from `attack` on; `by` is a name.

        Args:
            attack: the label of one attack; None: all that are done.

        Raises:
            InputError: there is no such attack.
            RunDirectoryError: none of them is done; the message has the command that runs them.
        """
        at, stages = self._network(method, seed, train_seed)
        labels = list(stages["attacks"])
        if attack is not None and attack not in labels:
            have = ", ".join(labels) or "none"
            raise InputError(f"{self.path} has no attack {attack!r}{did_you_mean(attack, labels)}; it has {have}")
        found = results.columns(self.directory, stages, attack)
        if found is None:
            raise RunDirectoryError(
                f"{self.path} holds no result of {attack or 'an attack'} on {method} seed {at}; "
                f"{trains(self.path)} runs what its recipe asks for"
            )
        return found

    def _stages_by_seed(self, method: str) -> dict[Seed, dict[str, Any]]:
        methods = layout.read(self.directory).methods
        return methods[known_method(self.path, method, methods)]

    def _network(
        self, method: str, seed: int | str | None, train_seed: int | None = None
    ) -> tuple[Seed, dict[str, Any]]:
        """Find the seeds of a network, and the folders of its stages."""
        stages_by_seed = self._stages_by_seed(method)
        at = known_seed(self.path, stages_by_seed, seed, train_seed)
        return at, stages_by_seed[at]

    def _repr_html_(self) -> str:
        return self.table._repr_html_()


def searched(directory: RunDirectory, stages: dict[str, Any]) -> str | None:
    """Find the folder of the search whose genotype a network has: of several candidates that of the chosen one.

    Args:
        stages: the folders of the network's stages.

    Returns:
        None where nothing is searched, or no candidate was chosen yet.

    Raises:
        RunDirectoryError: the result of the choice is damaged.
    """
    if stages["choose"] is None:
        return stages["search"]  # type: ignore[no-any-return]
    folder = directory.at(stages["choose"])
    if not folder.done:
        return None
    searches: dict[Any, str] = dict(enumerate((t for t in stages["tried"] if t.startswith("search/")), start=1))
    chosen = folder.result().get("chosen")
    if chosen not in searches:
        raise RunDirectoryError(damaged(folder.result_file, f"its chosen is {chosen!r:.60}"))
    return searches[chosen]


def open(run: str | os.PathLike[str]) -> Run:
    """Open a run directory; everything in it is held to what was written.

    Raises:
        RunDirectoryError: it is not a run directory, or something in it was changed.
    """
    return Run(finished.opened(Path(run)))
