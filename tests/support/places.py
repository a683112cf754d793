"""Where the project lies, for tests that read its documents, its data and the data beside it."""

from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
GOLDEN = TESTS / "evidence" / "golden"
