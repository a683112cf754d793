"""Writes the recipe by which `robustnas evaluate` evaluates one network made elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from os.path import realpath
from pathlib import Path
from typing import Any

from attrs import frozen

from robustnas.errors import InputError
from robustnas.recipe.document import parse
from robustnas.recipe.faults import Faults, Mark
from robustnas.recipe.methods import NAME
from robustnas.runtime.given_file import shown
from robustnas.runtime.quoted import quoted
from robustnas.threat import NORMS, USUAL_RADIUS, pixels

MOST_TOLD = 5
"""A message lists at most so many faults of one option."""

STEPS = 20
STEP = 8
"""PGD's number of steps, and how many of them make an epsilon."""


@frozen
class Evaluation:
    """The options of `robustnas evaluate`.

    Args:
        network: `module:factory`.
        weights: file of its weights; None where the factory fills them in.
        weights_key: where in the file the state dict is; None tries what fits.
        weights_prefix: what stands before the network's names; None tries what fits.
        dataset: YAML: the name of a dataset, or a mapping with its options.
        name: name of the row; None: the factory's.
        normalize: whether the dataset's mean and deviation become the network's first layer.
        norm: norm of the threat.
        epsilon: in pixel units; None: what is usual in the norm.
        attacks: YAML each, as entries of `attacks`; none: FGSM, PGD and AutoAttack.
        images: how many test images, of equal classes; None: all.
        certify: bound method; None certifies nothing.
        seed: seed of the attacks.
    """

    network: str
    weights: Path | None
    dataset: str
    name: str | None = None
    normalize: bool = False
    norm: str = "linf"
    epsilon: str | None = None
    attacks: Sequence[str] = ()
    images: int | None = None
    certify: str | None = None
    seed: int = 0
    weights_key: str | None = None
    weights_prefix: str | None = None


def name_of(asked: Evaluation) -> str:
    """Return the row's name, which names folders too."""
    given = asked.name or asked.network.rpartition(":")[2] or "network"
    return given if NAME.fullmatch(given) else "network"


def recipe(asked: Evaluation) -> dict[str, Any]:
    """Write the recipe, as plain data.

    Raises:
        InputError: norm or name is not valid, the radius is not a number, or a text is not YAML.
    """
    if asked.name is not None and not NAME.fullmatch(asked.name):
        raise InputError(
            f"--name {quoted(asked.name)}: letters, digits, '.', '_' and '-' would do, a letter or digit first, 100 at "
            "most (it names a folder)"
        )
    if asked.norm not in NORMS:
        raise InputError(f"--norm {shown(asked.norm)}: {', '.join(NORMS)} would do")
    epsilon = asked.epsilon or USUAL_RADIUS[asked.norm]
    try:
        radius = pixels(epsilon)
    except ValueError as fault:
        raise InputError(f"--epsilon: {fault}") from None
    usual: list[Any] = [
        "fgsm",
        {"name": "pgd", "steps": STEPS, "step_size": radius / STEP},
        "autoattack",
    ]
    method: dict[str, Any] = {"network": asked.network, "normalize": asked.normalize}
    if asked.weights is not None:
        said = {"key": asked.weights_key, "prefix": asked.weights_prefix}
        method["weights"] = {"file": realpath(asked.weights)} | {k: v for k, v in said.items() if v is not None}
    elif asked.weights_key is not None or asked.weights_prefix is not None:
        raise InputError("--weights-key and --weights-prefix say what of --weights FILE is meant; give --weights too")
    return {
        "dataset": _yaml("--dataset", asked.dataset),
        "threat": {"norm": asked.norm, "epsilon": epsilon},
        "seeds": [asked.seed],
        "methods": {name_of(asked): method},
        "attacks": [_yaml("--attack", one) for one in asked.attacks] or usual,
        "certify": False if asked.certify is None else {"method": asked.certify},
        "evaluate": {"images": asked.images},
    }


def _yaml(option: str, text: str) -> Any:
    faults = Faults()
    node = parse(text, option, faults, at=Mark(option))
    if len(faults):
        problems = "; ".join(fault.text.removeprefix("not YAML: ") for fault in faults.found[:MOST_TOLD])
        raise InputError(
            f"{option} {quoted(text)} is not YAML of plain values ({problems}); a name would do, or a mapping such as "
            "'{name: pgd, steps: 20, step_size: 2/255}'"
        )
    return None if node is None else node.plain()
