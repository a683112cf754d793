"""One thread for every test: on a busy machine more threads wait for each other far longer than they save."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # also for the processes that tests start
