"""Tests of a CUDA device; without one they are skipped.

`ROBUSTNAS_TEST_DEVICE=cpu` does them on the CPU instead, which shows whether the tests themselves go through.
"""

from __future__ import annotations

import os

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def device() -> torch.device:
    """The device under test."""
    name = os.environ.get("ROBUSTNAS_TEST_DEVICE", "cuda:0")
    if name.startswith("cuda") and not torch.cuda.is_available():
        pytest.skip(f"torch {torch.__version__} sees no CUDA device")
    return torch.device(name)
