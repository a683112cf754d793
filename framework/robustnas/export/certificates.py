"""What is claimed of each exported image: margins and verdicts, from the run's certify stage or computed anew."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen
from torch import Tensor, nn

from robustnas import certify
from robustnas.errors import RunDirectoryError
from robustnas.runtime.artifacts import StageFolder, damaged
from robustnas.runtime.report import Report
from robustnas.threat import ThreatModel

KEYS = ("threat", "method", "radius_method", "margin", "certified", "radius")
"""Of a certify stage's result."""


@frozen
class Certificates:
    """Certificates of the exported images, in their order.

    Args:
        threat: what they are about.
        method: of `robustnas.bounds`.
        source: where they come from.
        margins: least certified margin, logits; None where the bound is not finite.
        certified: whether no admissible image is classified otherwise.
        radii: certified radii by norm, pixel units; None for an image whose radius the run has not.
        radius_method: of the radii.
    """

    threat: ThreatModel
    method: str
    source: str
    margins: Sequence[float | None]
    certified: Sequence[bool]
    radii: Mapping[str, Sequence[float | None]]
    radius_method: str | None


def of(
    stage: StageFolder | None,
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    method: str,
    report: Report,
) -> Certificates:
    """The certificates of the first images of the test split.

    Args:
        stage: the run's certify stage, None where it has none.  Its margins are taken where it is done, at this threat
            and for all of these images; its radii for the images it has.
        network: (N, C, H, W) -> (N, K).
        images: (N, C, H, W) in [0, 1].
        labels: (N,).
        threat: admissible images.
        method: of the bounds where they have to be computed.
        report: told about the computation.
    """
    count = len(images)
    found = _result(stage) if stage is not None and stage.done else None
    radii = {norm: _padded(some, count) for norm, some in found["radius"].items()} if found else {}
    radius_method = str(found["radius_method"]) if found and radii else None
    same = found is not None and found["threat"] == {"norm": threat.norm, "epsilon": threat.epsilon}
    if stage is not None and found is not None and same and len(found["certified"]) >= count:
        margins, certified = found["margin"][:count], found["certified"][:count]
        source = f"certify stage of the run, {stage.path.name}"
        return Certificates(threat, found["method"], source, margins, certified, radii, radius_method)
    least = certify.margins(network, images, labels, threat, method=method, report=report).amin(dim=1).tolist()
    return Certificates(
        threat,
        method,
        "computed by the export",
        [value if math.isfinite(value) else None for value in least],
        [value > 0 for value in least],
        radii,
        radius_method,
    )


def _padded(values: Sequence[float], count: int) -> list[float | None]:
    return [*values[:count], *[None] * (count - len(values))]


def _result(stage: StageFolder) -> dict[str, Any]:
    """What the stage found."""
    found = stage.result()
    missing = [key for key in KEYS if key not in found]
    if missing:
        raise RunDirectoryError(damaged(stage.result_file, f"it has no {', '.join(missing)}"))
    return found


def table(certificates: Certificates, labels: Sequence[int], predictions: Sequence[int]) -> str:
    """`certificates.csv`: a row an image; an empty field where there is no figure.

    Numbers have as many digits as it takes to read them back exactly.
    """
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    norms = sorted(certificates.radii)
    heads = ("image", "label", "prediction", "norm", "epsilon", "method", "margin", "certified")
    rows.writerow([*heads, *(f"radius_{norm}" for norm in norms)])
    threat = certificates.threat
    for index, (label, prediction) in enumerate(zip(labels, predictions, strict=True)):
        margin, certified = certificates.margins[index], certificates.certified[index]
        rows.writerow(
            [
                index,
                label,
                prediction,
                threat.norm,
                repr(threat.epsilon),
                certificates.method,
                _number(margin),
                "yes" if certified else "no",
                *(_number(certificates.radii[norm][index]) for norm in norms),
            ]
        )
    return text.getvalue()


def _number(value: float | None) -> str:
    return "" if value is None else repr(value)
