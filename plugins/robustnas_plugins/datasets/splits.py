"""The two splits every dataset has."""

from __future__ import annotations

from robustnas.errors import DataError


def is_train(name: str) -> bool:
    """Whether a split is `"train"`, or `"test"`.

    Raises:
        DataError: it is neither.
    """
    if name not in ("train", "test"):
        raise DataError(f"no split is called {name!r}: there are 'train' and 'test'")
    return name == "train"
