"""The ledger of soundness checks: how many, how many violated, and how close a sampled margin came to its bound.

A check is one comparison of a certified bound with the margin at one admissible image: (network, image, class,
point, method).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from attrs import define, field, frozen
from torch import Tensor, nn

from evidence.soundness.points import in_single, margins_at, sizes, some_points
from robustnas import bounds, certify
from robustnas.bounds import BoundMethod
from robustnas.bounds.methods import bound_method
from robustnas.threat import ThreatModel

RELATIVE = 1e-9
"""What float64 arithmetic may cost, relative to the largest logit of the image."""


@frozen(eq=False)
class Case:
    """One network and its images; float32, of which the float64 checks take exact copies."""

    name: str
    network: nn.Module
    images: Tensor
    labels: Tensor
    threat: ThreatModel
    methods: Sequence[str | BoundMethod]
    seed: int = 0


@define
class Line:
    """Checks of one method in one norm in one number format."""

    checks: int = 0
    violations: int = 0
    gap: float = float("inf")
    """Smallest margin minus bound, in logits."""
    share: float = float("inf")
    """Smallest gap as a share of the bound's width: 0 where a sampled image attains the bound."""


@define
class Ledger:
    lines: dict[tuple[str, str, str], Line] = field(factory=dict)
    violations: list[str] = field(factory=list)

    def check(self, case: Case, values: Tensor, bound: Tensor, claim: str, method: str, tolerance: Tensor) -> int:
        """Enter the comparisons of margins (P, N, S) with bounds (N, S) that are finite; how many violate.

        Args:
            values: the first point is the clean image.
            tolerance: (N, 1) or (N, S), logits.
        """
        line = self.lines.setdefault((claim, method, case.threat.norm), Line())
        known = bound.isfinite() & torch.ones_like(values, dtype=torch.bool)
        gap = (values - bound)[known]
        if gap.numel() == 0:
            return 0
        wrong = int(((values - bound < -tolerance) & known).sum())
        line.checks += gap.numel()
        line.violations += wrong
        line.gap = min(line.gap, gap.min().item())
        width = (values[0] - bound).expand_as(values)
        wide = known & (width > 10 * tolerance)
        if wide.any():
            line.share = min(line.share, ((values - bound)[wide] / width[wide]).min().item())
        if wrong:
            below = gap.min().item()
            self.violations.append(f"{case.name}, {case.threat}, {method}, {claim}: {wrong} margins, by {-below:.3g}")
        return wrong

    def double(self, case: Case) -> None:
        """The arithmetic claim: bounds in float64 against margins in float64."""
        network, images = copy.deepcopy(case.network).double(), case.images.double()
        points = some_points(network, images, case.labels, case.threat, case.seed)
        with torch.no_grad():
            values, logits = margins_at(network, points, case.labels)
            tolerance = RELATIVE * logits.abs().amax(dim=(0, 2))[:, None]
            for method in case.methods:
                bound = bounds.margins(network, images, case.labels, case.threat, method)
                self.check(case, values, bound, "float64", bound_method(method).name, tolerance)

    def single(self, case: Case) -> None:
        """The rounding claim: certified margins in float32 against the float32 network and its exact copy."""
        exact = copy.deepcopy(case.network).double()
        points = some_points(exact, case.images.double(), case.labels, case.threat, case.seed + 1)
        points = in_single(points, case.images)
        clean = case.images.double()
        far = sizes((points.double() - clean).flatten(2), case.threat.norm)
        assert (far <= case.threat.epsilon * (1 + 1e-12)).all()
        assert ((points >= 0) & (points <= 1)).all()
        with torch.no_grad():
            true = margins_at(exact, points.double(), case.labels)[0]
            rounded = margins_at(case.network, points, case.labels)[0].double()
        for method in case.methods:
            bound = certify.margins(case.network, case.images, case.labels, case.threat, method).double()
            nothing, name = torch.zeros_like(bound), bound_method(method).name
            self.check(case, true, bound, "float32, exact network", name, nothing)
            self.check(case, rounded, bound, "float32, rounded network", name, nothing)

    @property
    def checks(self) -> int:
        return sum(line.checks for line in self.lines.values())

    def table(self) -> str:
        """One row for each claim, method and norm."""
        head = f"{'checked':26s} {'method':12s} {'norm':5s} {'checks':>9s} {'violated':>9s} {'smallest gap':>13s}"
        rows = [f"{head} of width"]
        for (claim, method, norm), line in sorted(self.lines.items()):
            numbers = f"{line.checks:9,d} {line.violations:9d} {line.gap:13.2e} {100 * line.share:7.2f} %"
            rows.append(f"{claim:26s} {method:12s} {norm:5s} {numbers}")
        total = sum(line.violations for line in self.lines.values())
        return "\n".join([*rows, f"{'all':46s} {self.checks:9,d} {total:9d}"])
