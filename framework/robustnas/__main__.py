"""`python -m robustnas`: the same as the command `robustnas`."""

from __future__ import annotations

import sys

from robustnas.cli import main

sys.exit(main())
