"""Natural corruptions: families of Hendrycks and Dietterich 2019, arXiv:1903.12261, at severities 1 to 5.

No adversary chooses them and no ball bounds them: the column is the mean accuracy over families and severities, and
they are no part of the worst case.  What each family does is in the package `corruption`; with `folder` the corrupted
images are not computed but read, as CIFAR-10-C and ImageNet-C are.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import attrs
from attrs import frozen
from attrs.validators import instance_of, optional

from robustnas.attack.foolbox_attack import Corruption, Each
from robustnas.contracts import Images, Shape
from robustnas.errors import OptionError
from robustnas.options import option
from robustnas.runtime.suggest import did_you_mean
from robustnas.threat import ThreatModel
from robustnas_plugins.attacks.corruption.apply import FAMILIES, Natural
from robustnas_plugins.attacks.corruption.copies import BENCHMARK, Copies, Stored

COLOUR = ("saturate",)
"""Families for three channels only."""
ANY_IMAGE = tuple(family for family in FAMILIES if family not in COLOUR)
"""Families for images of any number of channels."""
SEVERITIES = (1, 2, 3, 4, 5)


def _usual(plugin: Corruptions) -> list[str]:
    """The families where none are named."""
    return list(ANY_IMAGE if getattr(plugin, "folder", None) is None else BENCHMARK)


@frozen
class Corruptions:
    """Natural corruptions; every family at every severity is one part of the column, which is their mean."""

    access = "corruption"

    folder: str | None = option(
        None,
        "folder of CIFAR-10-C (.npy) or ImageNet-C (FAMILY/SEVERITY/CLASS/IMAGE), copies of the test split; default: "
        "corruptions are computed",
        optional(instance_of(str)),
        identity=False,
    )
    families: list[str] = option(
        attrs.Factory(_usual, takes_self=True),
        "names of families; by default all but saturate, which needs three channels, with a folder the benchmark's 15",
    )
    severities: list[int] = option(attrs.Factory(lambda: list(SEVERITIES)), "of 1 to 5")

    @families.validator
    def _known(self, attribute: object, families: list[str]) -> None:
        for family in families if self.folder is None else ():
            if family not in FAMILIES:
                hint = did_you_mean(str(family), FAMILIES) or f"; known are {', '.join(FAMILIES)}"
                raise ValueError(f"no corruption is called {family!r}{hint}")
        _once("families", families if self.folder is None else _as_files(families))

    @severities.validator
    def _from_1_to_5(self, attribute: object, severities: list[int]) -> None:
        for severity in severities:
            if isinstance(severity, bool) or severity not in SEVERITIES:
                raise ValueError(f"severities are whole numbers from 1 to 5, found {severity!r}")
        _once("severities", severities)

    def check(self, shape: Shape, classes: int, threat: ThreatModel) -> None:
        """Refuse families for colour images on images of another number of channels.

        Raises:
            OptionError: they are not.
        """
        coloured = [family for family in self.families if family in COLOUR and self.folder is None]
        if coloured and shape[0] != 3:
            raise OptionError(
                f"{', '.join(coloured)} needs images of three channels, found {shape[0]}; families without it would do"
            )

    def evaluations(self, classes: int) -> float:
        """Every part costs one evaluation, that of the judge."""
        return float(len(self.families) * len(self.severities))

    def build(self, threat: ThreatModel) -> Each:
        """All parts, named `snow/3` and so on; sizes are reported in `threat.norm`."""
        copies, norm = self._copies, threat.norm

        def part(family: str, severity: int) -> Corruption:
            if copies is None:
                return Natural(norm, family, severity)
            return Stored(norm, copies, family, severity)

        families = self.families if copies is None else copies.names
        return Each(norm, {f"{f}/{s}": part(f, s) for f in families for s in self.severities})

    @property
    def _copies(self) -> Copies | None:
        """What lies in the folder; None without one."""
        if self.folder is None:
            return None
        return Copies(Path(self.folder).expanduser(), _as_files(self.families), tuple(self.severities))

    @property
    def contents(self) -> str | None:
        """What tells the copies in the folder from others."""
        return None if self._copies is None else self._copies.contents()

    def check_test(self, images: Images) -> None:
        """Hold the copies in the folder to the test split.

        Raises:
            DataError: some are missing, or they are of other images.
        """
        if self._copies is not None:
            self._copies.check(images)


def _as_files(families: Sequence[str]) -> tuple[str, ...]:
    """Names of families as files of copies have them, with underscores where a recipe may have hyphens."""
    return tuple(str(family).replace("-", "_") for family in families)


def _once(name: str, values: Sequence[object]) -> None:
    """Raise a ValueError where there are none, or one is given twice."""
    if not values:
        raise ValueError(f"{name} is empty: leave it out for all of them")
    if len(set(values)) < len(values):
        raise ValueError(f"{name} names one twice: {', '.join(map(str, values))}")
