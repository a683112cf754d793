"""The executor `local`: the stages of a run in processes of this machine."""

from __future__ import annotations

from attrs import frozen

from robustnas.contracts import Work


@frozen
class Local:
    """This machine: one stage after the other, or as many side by side as `--jobs` says, on all its devices in turn."""

    def run(self, work: Work) -> None:
        work.here()
