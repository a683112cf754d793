"""A result in the form of RobustBench's leaderboard: one JSON file a network, figures as text in percent.

The form is that of the files below `model_info` of https://github.com/RobustBench/robustbench (Croce et al. 2021,
"RobustBench: a standardized adversarial robustness benchmark", arXiv:2010.09670).  It holds AutoAttack's figure in
l_inf or l_2 and no other attack's.
"""

from __future__ import annotations

from robustnas.errors import InputError
from robustnas.runtime import printable
from robustnas.threat import ThreatModel

FOLDERS = {"linf": "Linf", "l2": "L2"}
"""What the leaderboards are called."""

UNKNOWN = "N/A"
"""What stands for a text that there is none of."""

Entry = dict[str, str | bool | int]


def entry(
    *,
    name: str,
    dataset: str,
    architecture: str,
    threat: ThreatModel,
    clean: float,
    autoattack: float | None,
    reported: float | None = None,
    link: str = "",
    authors: str = "",
    venue: str = UNKNOWN,
    footnote: str = "",
    number_forward_passes: int = 1,
    additional_data: bool = False,
    unreliable: bool = False,
) -> Entry:
    """One network as the leaderboard lists it.

    Args:
        name: title of the paper or of the method.
        dataset: `cifar10`, `cifar100` or `imagenet`, where it is to be listed.
        architecture: of the network, in words.
        threat: what AutoAttack was allowed, l_inf or l_2.
        clean: share of the test images that are right, in [0, 1].
        autoattack: share of them that are right under AutoAttack too; None where it was not run.
        reported: share that the paper reports; None where it reports none.
        link: of the paper.
        authors: separated by commas.
        venue: where it was published.
        footnote: whatever a reader should know.
        number_forward_passes: evaluations of the network for one answer.
        additional_data: whether it was trained on more images than those of the dataset.
        unreliable: whether AutoAttack's figure may be too high; a result with a flag is.

    Raises:
        InputError: AutoAttack was not run, or not in a norm that has a leaderboard.
    """
    _listed(threat)
    if autoattack is None:
        raise InputError(
            f"{name}: no result of autoattack at {threat}, the one figure RobustBench lists; "
            "autoattack (version standard) among the attacks of the evaluation would do"
        )
    if not name or number_forward_passes < 1:
        raise InputError(
            f"RobustBench lists a name and at least one forward pass; found {name!r} and {number_forward_passes}"
        )
    if not 0 <= autoattack <= clean <= 1:
        raise ValueError(f"expected 0 <= autoattack <= clean <= 1, found {autoattack} and {clean}")
    return {
        "link": link,
        "name": name,
        "authors": authors,
        "additional_data": additional_data,
        "number_forward_passes": number_forward_passes,
        "dataset": dataset,
        "venue": venue,
        "architecture": architecture,
        "eps": str(threat).partition(" ")[2],
        "clean_acc": _percent(clean),
        "reported": UNKNOWN if reported is None else _percent(reported),
        "autoattack_acc": _percent(autoattack),
        "footnote": footnote,
        "unreliable": unreliable,
    }


def text(listed: Entry) -> str:
    """The file of an entry."""
    return printable.json_text(listed, indent=2) + "\n"


def _listed(threat: ThreatModel) -> str:
    """The leaderboard of a norm."""
    if threat.norm not in FOLDERS:
        raise InputError(f"RobustBench has no leaderboard of {threat.norm}; a threat in linf or l2 would do")
    return FOLDERS[threat.norm]


def _percent(share: float) -> str:
    """A share in [0, 1] in percent, with two decimals."""
    return f"{100 * share:.2f}"
