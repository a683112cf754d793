"""Hand damaged and hostile recipes to the loader and the plan: how many are refused, taken, and how many escape.

    python tests/benchmarks/fuzz_loader.py --mutants 20000          one table; every escape below it
    python tests/benchmarks/fuzz_loader.py --first 4711 --mutants 1 --show

A mutant is a function of its number (`tests/loader_fuzz.py`): --first and --mutants 1 do one again.  Seconds are of the
CPU; memory is the peak of the whole process, torch's import included.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.loader_fuzz import fuzz, mutant


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=20_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--show", action="store_true", help="print what is handed in")
    asked = parser.parse_args()
    numbers = range(asked.first, asked.first + asked.mutants)
    for number in numbers if asked.show else ():
        print(mutant(number))
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        found = fuzz(numbers, Path(name))
        os.chdir("/")
    table = Table("mutants", "refused", "taken", "escapes", "slowest s", "peak MB")
    seconds, slowest = found.slowest
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    counts = (len(numbers), found.refused, found.taken, len(found.escapes))
    table.add_row(*(f"{count:,}" for count in counts), f"{seconds:.2f} (number {slowest})", f"{peak:.0f}")
    Console().print(table)
    for number, escaped in found.escapes:
        print(f"{number}: {escaped}")
    return 1 if found.escapes else 0


if __name__ == "__main__":
    sys.exit(main())
