"""The figures of the steps of one epoch, kept on the device until its end; a NaN is traced to its step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from attrs import define, field
from torch import Tensor, nn

from robustnas.errors import DivergedError
from robustnas.nn.diagnostics import nonfinite_tensors
from robustnas.search.objective import Validation

ADVICE = {
    "validation loss": "a lower search.w_lr or search.alpha_lr would help",
    "robustness R": "a lower threat.epsilon, or another option of the metric, would help",
    "gradient of alpha": "a lower search.gamma, a metric's scale: log, or a lower search.alpha_lr would help",
    "training loss": "a lower search.w_lr would help",
    "gradient of w": "a lower search.w_lr or search.w_clip would help",
}
"""The figures that are watched, in the order of their computation, each with what to change when it is not finite."""

CHECK_EVERY = 50
"""Figures are checked after so many steps: often enough to stop early, too seldom to make the device wait."""


@define(eq=False)
class Figures:
    """Keeps a row a step: the figures of `ADVICE`, accuracy and share floored; zero where a step has no such figure.

    And one for each step of the outer level: how the terms of its objective pull at alpha.

    Args:
        epoch: counted from 0.
        epochs: of the whole search.
        steps: of this epoch.
        device: where the figures are.
        network: its tensors are searched for the cause where a figure is not finite.
        names: of the scores.
    """

    epoch: int
    epochs: int
    steps: int
    device: torch.device
    network: nn.Module | None = None
    names: tuple[str, ...] = ()
    rows: list[Tensor] = field(factory=list)
    pulls: list[Tensor] = field(factory=list)
    sizes: list[tuple[int, int]] = field(factory=list)
    outer: bool = False
    scored: bool = False
    floors: bool = False

    def note(
        self, sizes: tuple[int, int], outer: tuple[Validation, Tensor] | None, inner: tuple[Tensor, Tensor]
    ) -> None:
        """Note one step: images in its training and validation batch, and what the two levels returned.

        Raises:
            DivergedError: a figure is not finite (looked at now and then).
        """
        zero = inner[0].new_zeros(())
        loss = robustness = accuracy = hypergradient = floored = zero
        if outer is not None:
            self.outer = True
            seen, hypergradient = outer
            loss, accuracy = seen.loss, seen.accuracy
            if seen.robustness is not None:
                self.scored, robustness = True, seen.robustness
            if seen.floored is not None:
                self.floors, floored = True, seen.floored
            if seen.pull is not None:
                self.pulls.append(seen.pull.row())
        columns = [loss, robustness, hypergradient, *inner, accuracy, floored]
        self.rows.append(torch.stack([column.detach().float() for column in columns]))
        self.sizes.append(sizes)
        if len(self.rows) % CHECK_EVERY == 0:
            self._check(torch.stack(self.rows[-CHECK_EVERY:]), len(self.rows) - CHECK_EVERY)

    def state(self) -> dict[str, Any]:
        """The steps so far, as a checkpoint in the middle of an epoch keeps them."""
        return {
            "rows": torch.stack(self.rows).cpu() if self.rows else torch.zeros(0, len(ADVICE) + 2),
            "pulls": torch.stack(self.pulls).cpu() if self.pulls else torch.zeros(0, 1),
            "sizes": [list(size) for size in self.sizes],
            "outer": self.outer,
            "scored": self.scored,
            "floors": self.floors,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on after the steps of `state`."""
        rows = state["rows"].to(self.device)
        missing = len(ADVICE) + 2 - rows.shape[1]  # checkpoints of older versions lack the last column
        self.rows = list(torch.nn.functional.pad(rows, (0, missing)).unbind())
        self.pulls = [row.to(self.device) for row in state.get("pulls", ())]
        self.sizes = [(int(train), int(val)) for train, val in state["sizes"]]
        self.outer, self.scored = bool(state["outer"]), bool(state["scored"])
        self.floors = bool(state.get("floors", False))

    def latest(self) -> dict[str, float]:
        """The losses of the last step, and accuracy and robustness where it has them."""
        loss, robustness, _, train_loss, _, accuracy, _ = self.rows[-1].tolist()
        return {
            "loss": train_loss,
            **({"val_loss": loss, "accuracy": accuracy} if self.outer else {}),
            **({"robustness": robustness} if self.scored else {}),
        }

    def check(self) -> None:
        """Look at every step so far.

        Raises:
            DivergedError: a figure is not finite.
        """
        if self.rows:
            self._check(torch.stack(self.rows).cpu(), 0)

    def means(self) -> dict[str, Any]:
        """Means over the epoch's images of figures before each step moved anything; None where no step has them."""
        rows = torch.stack(self.rows).cpu()
        sizes = torch.tensor(self.sizes, dtype=torch.float64)
        share = sizes / sizes.sum(dim=0)
        loss, robustness, _, train_loss, _, accuracy, floored = rows.double().T
        return {
            "loss": float(train_loss @ share[:, 0]),
            "val_loss": float(loss @ share[:, 1]) if self.outer else None,
            "accuracy": float(accuracy @ share[:, 1]) if self.outer else None,
            "robustness": float(robustness @ share[:, 1]) if self.scored else None,
            **({"floored": float(floored @ share[:, 1])} if self.floors else {}),
            **(self._pulls(sizes[:, 1]) if self.pulls else {}),
        }

    def _pulls(self, sizes: Tensor) -> dict[str, dict[str, float | None]]:
        """Means, by the names of the loss and of the scores, of how hard they pulled at alpha.

        Ratios have a geometric mean.  A step without a gradient has no cosine and no ratio; None where no step has one.
        """
        count = len(self.names)
        rows = torch.stack(self.pulls).cpu().double()
        rows[:, 1 + 4 * count :] = rows[:, 1 + 4 * count :].log()
        # a checkpoint of an older version, in the middle of an epoch, lacks those of the steps before it
        share = sizes[-len(rows) :, None].expand_as(rows).where(rows.isfinite(), 0.0)
        means = (rows.nan_to_num(0.0, 0.0, 0.0) * share).sum(dim=0) / share.sum(dim=0)
        told = [float(mean) if mean.isfinite() else None for mean in means]
        found = {"alpha_gradient_norm": dict(zip(("loss", *self.names), told, strict=False))}
        if self.names:
            for part, what in enumerate(("alpha_gradient_cosine", "scores", "gamma", "alpha_gradient_ratio"), 1):
                found[what] = dict(zip(self.names, told[1 + part * count :], strict=False))
            ratios = found["alpha_gradient_ratio"]
            ratios.update({name: None if log is None else math.exp(log) for name, log in ratios.items()})
        return found

    def _check(self, rows: Tensor, first: int) -> None:
        if bool(rows.isfinite().all()):
            return
        tensors = nonfinite_tensors(self.network)
        for step, row in enumerate(rows.tolist(), first):
            for (what, advice), value in zip(ADVICE.items(), row, strict=False):
                if not math.isfinite(value):
                    kept = f"the checkpoint of epoch {self.epoch} is kept" if self.epoch else "there is no checkpoint"
                    raise DivergedError(
                        f"the search diverged: in epoch {self.epoch + 1} of {self.epochs}, step {step + 1} "
                        f"of {self.steps}, the {what} is {value}{tensors}; {advice}; {kept}"
                    )
