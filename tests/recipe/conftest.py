"""A working directory for each test of recipes, and small plugins of every kind."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.small_recipes import install_plugins


@pytest.fixture(scope="module")
def small_plugins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Small plugins of every kind, installed for the tests of a module."""
    site = tmp_path_factory.mktemp("site")
    install_plugins(site)
    sys.path.insert(0, str(site))
    yield
    sys.path.remove(str(site))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of a test."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
