"""One thread for every test: on a busy machine more threads wait for each other far longer than they save."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # also for the processes that tests start

# every process that tests start would compile the product again, and every run rewrite the assertions of all tests
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

gc.disable()  # while some 5,000 tests are collected, all of which stay


def pytest_collection_finish() -> None:
    gc.freeze()  # nor is what was imported and collected looked through again and again while they run
    gc.enable()


if "PYTEST_XDIST_WORKER" in os.environ:
    # workers ignore Ctrl-C, which some tests are about
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe `r.yaml` and its finished run `run`; whoever changes it takes `finished_copy`.

    The worker that needs it first runs it, and every other one has a copy.
    """
    from support.finished_run import finish  # it imports torch, which few tests need

    if "PYTEST_XDIST_WORKER" not in os.environ:
        folder = tmp_path_factory.mktemp("finished")
        finish(folder)
        return folder
    made, own = tmp_path_factory.getbasetemp().parent / "finished", tmp_path_factory.mktemp("own") / "finished"
    try:
        made.with_name("begun").mkdir()
    except FileExistsError:
        while not made.exists():
            assert not made.with_name("failed").exists(), "the worker that runs it failed, and says why"
            time.sleep(0.1)
    else:
        part = made.with_name("part")
        part.mkdir()
        try:
            finish(part)
        except BaseException:
            made.with_name("failed").touch()
            raise
        part.rename(made)
    return Path(shutil.copytree(made, own))


@pytest.fixture
def finished_copy(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, free to be changed."""
    return Path(shutil.copytree(finished_run, tmp_path / "c"))


@pytest.fixture
def rules_put_back() -> Iterator[None]:
    """What a test writes into the tables of bounds' rules is taken out again."""
    from robustnas.bounds.value import RULES, SCALED  # it imports torch

    rules, scaled = dict(RULES), set(SCALED)
    yield
    RULES.clear()
    RULES.update(rules)
    SCALED.clear()
    SCALED.update(scaled)


@pytest.fixture
def no_data_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Datasets are looked for in an empty folder."""
    monkeypatch.delenv("ROBUSTNAS_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
