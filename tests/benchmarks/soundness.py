"""The whole campaign of soundness: random networks in every norm, those of every space for both claims; minutes.

python tests/benchmarks/soundness.py          one table; every violation below it
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from evidence.soundness.campaign import campaign


def main() -> int:
    ledger = campaign(every=True).ledger
    print(ledger.table())
    print(*ledger.violations, sep="\n")
    return bool(ledger.violations)


if __name__ == "__main__":
    sys.exit(main())
