"""Plugins and recipes that the tests of recipes share."""

from __future__ import annotations

from pathlib import Path

import pytest

from robustnas.errors import RecipeError
from robustnas.recipe.load import Loaded, load
from support.fake_package import install

PLUGINS = """
    from pathlib import Path
    from typing import TYPE_CHECKING, Literal

    from attrs import field, frozen
    from attrs.validators import and_, ge, in_, lt, min_len, optional

    from robustnas.errors import OptionError
    from robustnas.threat import pixels

    @frozen
    class Data:
        folder: Path | None = None
        first: int | None = field(default=None, validator=optional(ge(1)))
        mean: tuple = (0.0,)
        std: tuple = (1.0,)
        shape: tuple[int, int, int] = (1, 4, 4)
        classes: int = 2
        def split(self, name): ...

    @frozen
    class Space:
        cells: int = field(default=8, validator=ge(1))
        ops: list[str] = field(factory=lambda: ["skip"], validator=min_len(1))
        wide: bool = False
        def supernet(self, shape, classes): ...
        def genotype(self, supernet): ...
        def network(self, genotype, shape, classes, auxiliary=False): ...

    @frozen
    class Bound:
        method: str = field(default="ibp", validator=in_(("ibp", "crown-ibp")))
        share: float = field(default=0.5, validator=and_(ge(0.0), lt(1.0)))
        low: float = 0.0
        high: float = field(default=1.0)
        _hidden: int = 3
        count: int = field(default=0, init=False)

        @high.validator
        def _above(self, attribute, high):
            if high <= self.low:
                raise ValueError("high must be above low")

        def score(self, network, images, labels, threat): ...

    @frozen
    class Inner:
        radius: float
        def inner_loss(self, supernet, images, labels, threat, context): ...

    @frozen
    class Picky:
        a: int = 0
        b: int = 0
        def __attrs_post_init__(self):
            if self.a > self.b:
                raise ValueError("a is larger than b")
        def score(self, network, images, labels, threat): ...

    def lost(*arguments):
        {}["missing"]

    @frozen
    class Lost:
        a: list = field(factory=lost)
        def score(self, network, images, labels, threat): ...

    @frozen
    class Bug:
        a: int = 0
        b: int = field(default=0, validator=lost)
        c: int = field(default=0, validator=lambda self, attribute, value: self.nothing)
        def __attrs_post_init__(self):
            {}["missing"]
        def score(self, network, images, labels, threat): ...

    @frozen
    class Fast:
        def build(self, threat):
            return None

    @frozen
    class Steps:
        steps: int = 10
        step_size: float | None = field(default=None, converter=lambda v: v)
        size: float = field(default=0.1, converter=pixels)
        def build(self, threat):
            if threat.norm != "linf":
                raise OptionError(f"steps knows linf, found {threat.norm}; linf would do")
"""

BASE = """\
dataset: data
search_space: {name: space, cells: 3}
threat: {norm: linf, epsilon: 8/255}
methods:
  darts: {}
"""


def install_plugins(site: Path) -> None:
    """Install small plugins of every kind into a folder on `sys.path`."""
    points = {
        "robustnas.datasets": {"data": "recipe_fakes:Data"},
        "robustnas.search_spaces": {"space": "recipe_fakes:Space"},
        "robustnas.metrics": {
            "bound": "recipe_fakes:Bound",
            "inner": "recipe_fakes:Inner",
            "picky": "recipe_fakes:Picky",
            "bug": "recipe_fakes:Bug",
            "lost": "recipe_fakes:Lost",
            "gone": "recipe_fakes_gone:Gone",
        },
        "robustnas.attacks": {
            "fast": "recipe_fakes:Fast",
            "steps": "recipe_fakes:Steps",
            "lib-l2": "foolbox.attacks:L2PGD",
        },
    }
    install(site, "recipe-fakes", points, recipe_fakes=PLUGINS, recipe_fakes_gone="assert False, 'too old'")


def recipe(text: str, *overrides: str, name: str = "r.yaml") -> Loaded:
    """The recipe of a text, written into the working directory."""
    Path(name).write_text(text, encoding="utf-8")
    return load(name, overrides)


def faults(text: str, *overrides: str, name: str = "r.yaml") -> list[str]:
    """The faults of a text that is no good recipe."""
    with pytest.raises(RecipeError) as caught:
        recipe(text, *overrides, name=name)
    return caught.value.faults
