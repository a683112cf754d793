"""Genotypes of the literature that installed search spaces publish, by name."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from attrs import frozen

from robustnas.errors import PluginError
from robustnas.genotype.reference import Reference
from robustnas.runtime.strangers import contained, text_of
from robustnas.runtime.terminal import tell


@frozen
class Published:
    """A genotype that search spaces publish under one name.

    Args:
        spaces: their names.
        reference: where it comes from; None where none of them says it.
    """

    genotype: Mapping[str, Any]
    spaces: tuple[str, ...]
    reference: Reference | None


def published() -> dict[str, Published]:
    """What the installed search spaces publish, by name; one that cannot be asked without options is told on stderr.

    Where two spaces publish different genotypes under one name, the first one's stands.
    """
    from robustnas import contracts
    from robustnas.registry import SEARCH_SPACES

    found: dict[str, Published] = {}
    for space in SEARCH_SPACES.names():
        try:
            cls = SEARCH_SPACES.load(space)
            with contained(partial(_silent, space)):
                asked: Any = cls()
                genotypes, references = contracts.published(asked), contracts.references(asked)
                for name, genotype in genotypes.items():
                    known = found.setdefault(name, Published(genotype, (), references.get(name)))
                    if known.genotype == genotype:
                        found[name] = Published(genotype, (*known.spaces, space), known.reference)
        except PluginError as fault:
            tell(f"robustnas: {text_of(fault)}", error=True)
    return found


def _silent(name: str, why: str) -> PluginError:
    return PluginError(f"search-space {name!r} cannot be asked what it publishes: {why}")
