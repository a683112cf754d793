"""Writes a result in the form of RobustBench's leaderboard: one JSON file a network, figures as text in percent.

The form is that of the files below `model_info` of https://github.com/RobustBench/robustbench (Croce et al. 2021,
"RobustBench: a standardized adversarial robustness benchmark", arXiv:2010.09670).  It holds AutoAttack's figure in
l_inf or l_2 and no other attack's.
"""

from __future__ import annotations

from typing import Any

import attrs
from attrs import frozen

from robustnas.errors import InputError
from robustnas.runtime import printable
from robustnas.threat import ThreatModel

LISTED = ("linf", "l2")
"""The norms that have a leaderboard."""

UNKNOWN = "N/A"
"""What the leaderboard's files write for a missing text."""


@frozen(kw_only=True)
class Entry:
    """One network as the leaderboard lists it: the keys of its file, in their order.

    Args:
        link: address of the paper.
        name: title of the paper or of the method.
        authors: separated by commas.
        additional_data: whether it was trained on more images than those of the dataset.
        number_forward_passes: evaluations of the network for one answer.
        dataset: `cifar10`, `cifar100` or `imagenet`, where it is to be listed.
        venue: where it was published.
        architecture: the network's architecture, in words.
        eps: the epsilon that AutoAttack was allowed.
        clean_acc: percent of the test images that are right.
        reported: percent that the paper reports.
        autoattack_acc: percent of them that are right under AutoAttack too.
        footnote: whatever a reader should know.
        unreliable: whether AutoAttack's figure may be too high; a result with a flag is.
    """

    link: str = ""
    name: str
    authors: str = ""
    additional_data: bool = False
    number_forward_passes: int = 1
    dataset: str
    venue: str = UNKNOWN
    architecture: str
    eps: str
    clean_acc: str
    reported: str = UNKNOWN
    autoattack_acc: str
    footnote: str = ""
    unreliable: bool = False


def entry(
    threat: ThreatModel, *, clean: float, autoattack: float | None, reported: float | None = None, **about: Any
) -> dict[str, str | bool | int]:
    """Describe one network as the leaderboard lists it, as plain data.

    Args:
        threat: norm and epsilon that AutoAttack was allowed, l_inf or l_2.
        clean: share of the test images that are right, in [0, 1].
        autoattack: share of them that are right under AutoAttack too; None where it was not run.
        reported: share that the paper reports; None where it reports none.
        about: the other fields of `Entry`.

    Raises:
        InputError: AutoAttack was not run, or not in a norm that has a leaderboard.
    """
    if threat.norm not in LISTED:
        raise InputError(f"RobustBench has no leaderboard of {threat.norm}; a threat in linf or l2 would do")
    if autoattack is None:
        raise InputError(
            f"{about['name']}: no result of autoattack at {threat}, the one figure RobustBench lists; "
            "autoattack (version standard) among the attacks of the evaluation would do"
        )
    listed = Entry(
        eps=str(threat).partition(" ")[2],
        clean_acc=_percent(clean),
        autoattack_acc=_percent(autoattack),
        reported=UNKNOWN if reported is None else _percent(reported),
        **about,
    )
    if not listed.name or listed.number_forward_passes < 1:
        raise InputError(
            "RobustBench lists a name and at least one forward pass; found "
            f"{listed.name!r} and {listed.number_forward_passes}"
        )
    if not 0 <= autoattack <= clean <= 1:
        raise ValueError(f"expected 0 <= autoattack <= clean <= 1, found {autoattack} and {clean}")
    return attrs.asdict(listed)


def text(listed: dict[str, str | bool | int]) -> str:
    """Write the file of an entry."""
    return printable.json_text(listed, indent=2) + "\n"


def _percent(share: float) -> str:
    """Write a share in [0, 1] in percent, with two decimals."""
    return f"{100 * share:.2f}"
