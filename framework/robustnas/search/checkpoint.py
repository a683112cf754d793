"""What a search writes after each epoch, and in the middle of one when it is asked to stop; and how it goes on.

The history is part of the checkpoint, so the two cannot disagree after a crash between their writes.  A checkpoint in
the middle of an epoch also holds the steps done, the figures so far and the state of every generator: going on from it
gives, bit for bit, what never stopping gives.
"""

from __future__ import annotations

from typing import Any

import torch
from attrs import define, field

from robustnas.errors import RunDirectoryError
from robustnas.nn.normalize import PixelSupernet
from robustnas.runtime.artifacts import StageFolder
from robustnas.runtime.processes import ALONE, Processes, other_processes
from robustnas.runtime.strangers import first_line

FILE = "checkpoint.pt"


@define(eq=False)
class SearchState:
    """Everything that changes from one epoch to the next.

    Args:
        supernet: weights, alpha and running statistics.
        w_optimizer: with its momentum.
        alpha_optimizer: with its moments.
        seed: of the search this belongs to.
        epochs: of the search this belongs to.
        records: history, one an epoch.
        seconds: time spent on the epochs that are done, over all sittings.
        processes: the processes that share the batches; random draws for an image depend on how many they are.
        middle: of the epoch under way, where the search stopped inside one.
    """

    supernet: PixelSupernet
    w_optimizer: torch.optim.Optimizer
    alpha_optimizer: torch.optim.Optimizer
    seed: int
    epochs: int
    records: list[dict[str, Any]] = field(factory=list)
    seconds: float = 0.0
    processes: Processes = ALONE
    middle: dict[str, Any] | None = None

    @property
    def epoch(self) -> int:
        """Epochs that are done."""
        return len(self.records)

    def done(self, record: dict[str, Any], seconds: float) -> None:
        """One more epoch is done."""
        self.records.append(record)
        self.seconds += seconds
        self.middle = None


def save(progress: SearchState, folder: StageFolder) -> None:
    """Write the checkpoint, then the history."""
    folder.save_tensors(
        FILE,
        {
            "seed": progress.seed,
            "epochs": progress.epochs,
            "processes": progress.processes.size,
            "supernet": progress.supernet.state_dict(),
            "w_optimizer": progress.w_optimizer.state_dict(),
            "alpha_optimizer": progress.alpha_optimizer.state_dict(),
            "records": progress.records,
            "seconds": progress.seconds,
            "middle": progress.middle,
        },
    )
    folder.rewrite_history(progress.records)


def restore(progress: SearchState, folder: StageFolder) -> None:
    """Fill `progress` from the folder's checkpoint, if there is one.

    Raises:
        RunDirectoryError: the checkpoint belongs to another search or lacks a part.
    """
    state = folder.load_tensors(FILE)
    if state is None:
        return
    for name, expected in (("seed", progress.seed), ("epochs", progress.epochs)):
        if state.get(name) != expected:
            raise RunDirectoryError(
                f"{folder.path / FILE} belongs to another search: its {name} is {state.get(name)}, "
                f"here {expected}; delete that folder to search again, or choose another run directory"
            )
    if state.get("processes") != progress.processes.size:
        raise RunDirectoryError(other_processes(folder.path / FILE, state.get("processes"), progress.processes))
    try:
        # Loading copies values into the tensors that are there, and refuses what does not fit.
        progress.supernet.load_state_dict(state["supernet"])
        progress.w_optimizer.load_state_dict(state["w_optimizer"])
        progress.alpha_optimizer.load_state_dict(state["alpha_optimizer"])
        progress.records = list(state["records"])
        progress.seconds = float(state["seconds"])
        progress.middle = state["middle"]
    except (KeyError, RuntimeError, TypeError, ValueError, AttributeError) as fault:
        raise RunDirectoryError(
            f"{folder.path / FILE} does not fit this search: {first_line(fault)}\n"
            "  delete that folder and run the same command again: only this search is redone"
        ) from fault
    folder.rewrite_history(progress.records)
