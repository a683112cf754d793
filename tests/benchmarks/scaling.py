"""How a plain step of the search grows with cells, channels, batch and processes.

    python tests/benchmarks/scaling.py                                   one process
    torchrun --nproc-per-node 2 tests/benchmarks/scaling.py              data parallel, the same batches shared

Each line changes one figure of the first, all in turn, several rounds; `per image and cell` is the time divided by
both, as a multiple of the first line's.  On CUDA devices add --device cuda; on the CPU each process has --threads.
"""

from __future__ import annotations

import argparse

import torch
from attrs import evolve
from rich.console import Console
from rich.table import Table
from stepping import Size, seconds, stepper

from robustnas.runtime import processes as group
from robustnas_plugins.search_spaces.darts import Darts

BASE = Size(Darts(cells=4, channels=8), (3, 32, 32), 16)


def variants() -> dict[str, Size]:
    """The base, and what differs from it in one figure."""
    found = {"base: 4 cells, 8 channels, batch 16, 32x32x3": BASE}
    for cells in (2, 8):
        found[f"{cells} cells"] = evolve(BASE, space=Darts(cells=cells, channels=8))
    for channels in (4, 16):
        found[f"{channels} channels"] = evolve(BASE, space=Darts(cells=4, channels=channels))
    for batch in (4, 32):
        found[f"batch {batch}"] = evolve(BASE, batch=batch)
    return found


def main() -> None:
    """Time every variant and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(group.own_device(arguments.device))
    with group.joined(device) as processes:
        sizes = variants()
        steps = {name: stepper(size, device=device, processes=processes) for name, size in sizes.items()}
        found = seconds(steps, arguments.rounds, device)
        if not processes.first:
            return
        table = Table(
            title=f"one plain step, first order, {processes.size} process(es), {arguments.threads} thread(s), {device}"
        )
        for title in ("supernet", "seconds", "x base", "per image and cell"):
            table.add_column(title, justify="left" if title == "supernet" else "right")
        first = next(iter(found.values()))
        for name, middle in found.items():
            size = sizes[name]
            work = size.batch * size.space.cells / (BASE.batch * BASE.space.cells)
            table.add_row(name, f"{middle:.3f}", f"{middle / first:.2f}", f"{middle / first / work:.2f}")
        Console(width=100).print(table)


if __name__ == "__main__":
    main()
