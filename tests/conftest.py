"""One thread for every test: on a busy machine more threads wait for each other far longer than they save."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # also for the processes that tests start

if "PYTEST_XDIST_WORKER" in os.environ:
    # workers ignore Ctrl-C, which some tests are about
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def no_data_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Datasets are looked for in an empty folder."""
    monkeypatch.delenv("ROBUSTNAS_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
