"""Texts of other people as they may be printed and written: names of files, labels, what exceptions say.

What a terminal, a spreadsheet or a reader of Markdown would act on, instead of showing it, is shown.
"""

from __future__ import annotations

import json
import re
from typing import Any

UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f\ufdd0-\ufdef"
    + "".join(chr(plane + 0xFFFE) + chr(plane + 0xFFFF) for plane in range(0, 0x110000, 0x10000))
    + "]"
)
"""Control characters, which move a cursor or end a line; what turns the direction of a text; what has no width or is no
character.  The joiners of U+200C and U+200D stay: words of some scripts are spelt with them."""

UNSEEN_IN_LINES = re.compile(UNSEEN.pattern.replace("\x00-\x1f", "\x00-\x08\x0b-\x1f"))
"""The same but for tabs and ends of lines."""

FORMULA = re.compile(r"(^|;)(\s*)(?=[=+\-@\uff0b\uff0d\uff1d\uff20])")
"""How a cell begins that a spreadsheet computes; it may cut at a semicolon, where the comma is for decimals."""

MARKED = re.compile(r"[\\`*\[\]|~]|(?<!\w)_|_(?!\w)")
"""What Markdown takes for more than a character; an underscore inside a word is none."""


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


def line(text: str) -> str:
    """A text on one line, in which every character is seen."""
    return UNSEEN.sub(_escaped, text)


def lines(text: str) -> str:
    """A text of several lines, in which every character is seen."""
    return UNSEEN_IN_LINES.sub(_escaped, text)


def cell(value: Any) -> Any:
    """A cell of a file that a spreadsheet opens: a number stays one, and no text is computed."""
    if not isinstance(value, str):
        return value
    try:
        float(value)
    except ValueError:
        return FORMULA.sub(r"\1'\2", line(value))
    return line(value)


def markdown(text: str) -> str:
    """A text that Markdown, and the HTML made of it, show as it is."""
    text = line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return MARKED.sub(lambda found: f"\\{found[0]}", text)


def paragraph(text: str) -> str:
    """The same where a block begins, which a heading's or a list's sign would change."""
    return re.sub(r"^(\d*)(?=[#+=.)-])", r"\1\\", markdown(text))


def json_text(data: Any, indent: int) -> str:
    """Plain data as JSON in which every character is seen, and which is read back as it was."""
    return _seen(json.dumps(data, indent=indent, allow_nan=False, ensure_ascii=False))


def json_rows(data: Any) -> str:
    """The same with a line for each entry that holds no list or mapping of its own, such as a row of a table."""
    return _seen(_rows(data, 0))


def _rows(data: Any, depth: int) -> str:
    entries = list(data.values()) if isinstance(data, dict) else data if isinstance(data, (list, tuple)) else []
    if not any(isinstance(entry, (dict, list, tuple)) for entry in entries):
        return json.dumps(data, allow_nan=False, ensure_ascii=False)
    inside = [_rows(entry, depth + 1) for entry in entries]
    if isinstance(data, dict):
        inside = [f"{json.dumps(str(key), ensure_ascii=False)}: {text}" for key, text in zip(data, inside, strict=True)]
    left, right = "{}" if isinstance(data, dict) else "[]"
    return f"{left}\n" + ",\n".join(f"{' ' * (depth + 1)}{text}" for text in inside) + f"\n{' ' * depth}{right}"


def _seen(text: str) -> str:
    """A text of JSON in which what is not seen is escaped."""
    return UNSEEN_IN_LINES.sub(lambda found: json.dumps(found[0])[1:-1], text)
