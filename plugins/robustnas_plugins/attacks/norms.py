"""Choosing an attack's form for a norm, with one message where it has none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from robustnas.errors import OptionError
from robustnas.threat import ThreatModel

Form = TypeVar("Form")


def for_norm(name: str, forms: Mapping[str, Form], threat: ThreatModel, instead: str = "") -> Form:
    """The form of attack `name` for `threat.norm`.

    Args:
        name: the attack's name in a recipe.
        forms: by norm.
        threat: the threat the recipe gives the attack.
        instead: what would do, after the norms that are known.

    Raises:
        OptionError: the attack does not know that norm.
    """
    if threat.norm not in forms:
        known = " and ".join(forms)
        advice = f"; {instead}" if instead else ""
        raise OptionError(f"attack {name} does not know the norm {threat.norm}; it knows {known}{advice}")
    return forms[threat.norm]
