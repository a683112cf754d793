"""The known word nearest to one that is not known, for messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from itertools import islice

LONGEST, MOST = 100, 500


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word most like `word`, or None where none is; case, `-` and `_` make no difference.

    Words longer than `LONGEST` are like none, and of the known ones the first `MOST` are looked at: each is compared
    letter by letter.
    """
    if len(word) > LONGEST:
        return None
    folded: dict[str, str] = {}
    for candidate in islice(known, MOST):
        folded.setdefault(_fold(candidate), candidate)
    found = difflib.get_close_matches(_fold(word), folded, n=1, cutoff=0.6)
    return folded[found[0]] if found else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'epochs'?`, or nothing where no known word is near."""
    found = nearest(word, known)
    return f"; did you mean {found!r}?" if found else ""


def _fold(word: str) -> str:
    return word.casefold().replace("_", "-")
