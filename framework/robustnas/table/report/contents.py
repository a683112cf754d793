"""Reads what a report of one run is made of, once for all its forms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from attrs import frozen

from robustnas.errors import RunDirectoryError
from robustnas.run import layout, provenance
from robustnas.run.layout import Layout
from robustnas.runtime.artifacts import damaged, of_no_stage
from robustnas.table import kept_recipe, results
from robustnas.table.opened import Run
from robustnas.table.report import curves, searches
from robustnas.table.report.charts import Chart, Drawing, HeatMap
from robustnas.table.rows import Comparison
from robustnas.table.swept import swept


@frozen(eq=False)
class Contents:
    """What a report of one run shows.

    Args:
        run: the run.
        shown: its layout.
        comparison: its table.
        recipe: as it was run, as plain data.
        text: the same as it is written.
        accuracy: charts of accuracy.
        search: charts of the searches.
        maps: of each method, where the alpha of its first search went.
        provenance: what the results of the stages say of versions and machines, a mapping a stage.
    """

    run: Run
    shown: Layout
    comparison: Comparison
    recipe: Mapping[str, Any]
    text: str
    accuracy: Sequence[Chart]
    search: Sequence[Chart]
    maps: Mapping[str, Sequence[HeatMap]]
    provenance: Sequence[Mapping[str, Any]]

    @classmethod
    def of(cls, run: Run) -> Contents:
        """Read a run, finished or not.

        Raises:
            RunDirectoryError: something in it is damaged.
        """
        shown = layout.read(run.directory)
        comparison, networks = results.with_networks(run.directory)
        text, recipe = _recipe(run)
        histories, maps = {}, {}
        for method, folders in searches.folders(run, shown).items():
            histories[method] = [folder.history() for folder in folders]
            began = [(folder, records) for folder, records in zip(folders, histories[method], strict=True) if records]
            maps[method] = list(searches.heat_maps(method, began[0][1], _operations(began[0][0]))) if began else []
        return cls(
            run,
            shown,
            comparison,
            recipe,
            text,
            [
                *curves.over_keys(swept(shown.swept, comparison.rows)),
                *curves.over_epsilon(comparison, networks, shown.threat),
                *curves.trade(comparison),
            ],
            list(searches.curves(histories)),
            maps,
            list(_provenance(run, shown)),
        )

    @property
    def drawings(self) -> Iterator[Drawing]:
        """All charts and heat maps, in the order of the page."""
        yield from self.accuracy
        yield from self.search
        for some in self.maps.values():
            yield from some


def _recipe(run: Run) -> tuple[str, Any]:
    """Read the recipe that a run keeps: its text, and plain data."""
    text, data = kept_recipe.read(run.path)
    if not isinstance(data, Mapping) or not isinstance(data.get("methods"), Mapping):
        file = run.path / "recipe.yaml"
        raise RunDirectoryError(damaged(file, "it holds no methods", of_no_stage(file)))
    return text, data


def _operations(folder: Any) -> Mapping[str, Sequence[str]]:
    """The operations of alpha's columns, as the result of a search tells them; older versions did not."""
    found = folder.result().get("operations") if folder.done else None
    return found if isinstance(found, Mapping) else {}


def _provenance(run: Run, shown: Layout) -> Iterator[Mapping[str, Any]]:
    """Yield what each finished stage says of what made it, and the run of the command that did."""
    commands = {entry["started"]: entry for entry in provenance.entries(run.directory)}
    for folder in shown.folders(run.directory):
        if folder.done:
            result = folder.result()
            found = dict(result.get("provenance") or {})
            command = dict(commands.get(found.pop("run", None), {}))
            found = command | command.pop("packages", {}) | found
            yield found | ({"foolbox": result["foolbox"]} if "foolbox" in result else {})
