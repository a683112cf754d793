"""What a test writes into the tables of rules is taken out again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from robustnas.bounds import RULES
from robustnas.bounds.value import SCALED


@pytest.fixture
def rules_put_back() -> Iterator[None]:
    rules, scaled = dict(RULES), set(SCALED)
    yield
    RULES.clear()
    RULES.update(rules)
    SCALED.clear()
    SCALED.update(scaled)
