r"""The table in LaTeX: a `tabular` with the rules of booktabs, as `\input` takes it; threat and notes are comments."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from robustnas.runtime import printable
from robustnas.table.grids import Body, below, cells, leading, split
from robustnas.table.lines import under
from robustnas.table.rows import Comparison

GREEK = {
    letter: f"$\\{unicodedata.name(letter).rpartition(' ')[2].lower().replace('lamda', 'lambda')}$"
    for letter in "αβγδεζηθικλμνξπρστυφχψω"
}

SIGNS = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$",
    "|": "$|$", "`": r"{\textasciigrave}", "±": r"$\pm$", "×": r"$\times$", "≤": r"$\le$", "≥": r"$\ge$",
    "–": "--", "ß": r"{\ss}", "æ": r"{\ae}", "Æ": r"{\AE}", "ø": r"{\o}", "Ø": r"{\O}", "ł": r"{\l}", "Ł": r"{\L}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    **{sign: f"{{{sign}}}" for sign in "[]*"},
    **GREEK,
}  # fmt: skip
r"""What LaTeX acts on, or sets as something else; behind `\\` a star and a bracket are its own."""

ACCENTS = dict(
    zip("\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u030a\u030b\u030c\u0327", "`'^~=u.\"rHvc", strict=True)
)


def latex(comparison: Comparison) -> str:
    r"""Write the table in LaTeX, best values bold; it needs `\usepackage{booktabs}` and no other package."""
    notes = [r"needs \usepackage{booktabs}", comparison.heading, *under(comparison)]
    parts = ["".join(map(_comment, notes)) + _tabular(*cells(comparison))]
    parts += [_comment(title) + _tabular(titles, body) for title, titles, body in below(comparison)]
    return "\n".join(parts)


def escaped(text: str) -> str:
    r"""Write a text as LaTeX sets it; a letter that pdfLaTeX's own fonts do not have becomes `\u4e2d` or the like."""
    return "".join(map(_sign, printable.line(text))).replace("--", "-{}-")


def _sign(sign: str) -> str:
    """Write one character."""
    if sign in SIGNS or sign.isascii():
        return SIGNS.get(sign, sign)
    parts = unicodedata.normalize("NFD", sign)
    base, mark = parts[0], parts[1:]
    if mark in ACCENTS and base.isascii() and base.isalpha():
        return f"\\{ACCENTS[mark]}{{{base}}}"
    return SIGNS["\\"] + sign.encode("unicode_escape").decode()[1:]


def _comment(text: str) -> str:
    return f"% {printable.line(text)}\n"


def _tabular(titles: list[str], body: Body) -> str:
    """Write one grid; its first columns hold names."""
    names = leading(titles)
    columns = "l" * names + "r" * (len(titles) - names)
    lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", _line(map(escaped, titles)), r"\midrule"]
    lines += [
        _line([*(escaped(text) for text, _ in line[:names]), *(_cell(*cell) for cell in line[names:])]) for line in body
    ]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _line(texts: Iterable[str]) -> str:
    return " & ".join(texts) + r" \\"


def _cell(text: str, best: bool) -> str:
    """Write a figure: its mean bold where it is marked, and a minus as such."""
    mean, rest = (re.sub(r"(?<![\w.])-(?=\d)", "$-$", escaped(part)) for part in split(text))
    return "--" if text == "-" else rf"\textbf{{{mean}}}{rest}" if best else mean + rest
