"""A genotype as scripts of the DARTS family write and print it: `Genotype(normal=[('sep_conv_3x3', 1), ...], ...)`.

The text is Python, and is read with `ast`, never run: what may stand in it is the call `Genotype(...)`, lists, tuples,
dictionaries, texts, whole numbers, and `range(...)` of them, also as `list(range(...))`.

Source of the notation: `genotypes.py` of Liu et al. 2019, arXiv:1806.09055.
"""

from __future__ import annotations

import ast
import json
import warnings
from collections.abc import Callable, Mapping
from reprlib import repr as shortened
from typing import Any

from robustnas.errors import InputError

FIELDS = ("normal", "normal_concat", "reduce", "reduce_concat")
"""Of the named tuple, in its order."""

CELLS = (*FIELDS, "reduction", "reduction_concat")
"""Entries of a mapping whose values may be written in the notation."""

LARGEST = 250_000
"""Characters of a text: hundreds of genotypes."""

LONGEST = 10_000
"""Numbers of a range."""


def plain(data: Any) -> Any:
    """A genotype in any notation as plain data; what is in none of them is returned as it is.

    Args:
        data: a text, a named tuple, or a mapping whose values may be texts, tuples and ranges.

    Raises:
        InputError: a text that cannot be read; says in which line and column of it.
    """
    if isinstance(data, str):
        return one(read(data.strip(), "genotype"), "genotype")
    fields = getattr(data, "_asdict", None)
    if callable(fields):
        data = fields()
    if not isinstance(data, Mapping) or not any(name in data for name in CELLS):
        return data
    return {name: _written(name, value) if name in CELLS else value for name, value in data.items()}


def _written(name: str, value: Any) -> Any:
    """Read the value of an entry, if it is a text."""
    if isinstance(value, str):
        where = f"genotype: {name}"
        return _Reader(where).value(_tree(value.strip(), where, ast.parse, mode="eval").body)
    if isinstance(value, range) and len(value) > LONGEST:
        raise InputError(f"genotype: {name} has {len(value)} nodes; at most {LONGEST} would do")
    return _lists(value)


def _lists(value: Any) -> Any:
    """Tuples and ranges as the lists that JSON has, two deep."""
    rows = list(value) if isinstance(value, list | tuple | range) else value
    return [list(row) if isinstance(row, tuple) else row for row in rows] if isinstance(rows, list) else rows


def is_call(text: str) -> bool:
    """Whether a text is meant as one in this notation, rather than as a name or a path."""
    return "Genotype(" in text.replace(" ", "")


def read(text: str, where: str) -> dict[str, Any]:
    """Read the genotypes of a text by the names that are given to them; one without a name has the empty one.

    Other statements (imports, lists of operations) are passed over.

    Args:
        where: what to call the text in messages, before `:line:column`.

    Raises:
        InputError: it is too long, no Python, or a genotype holds something else than the notation has.
    """
    reader = _Reader(where)
    found: dict[str, Any] = {}
    for statement in _tree(text, where, ast.parse).body:
        if isinstance(statement, ast.Expr):
            names, value = [""], statement.value
        elif isinstance(statement, ast.Assign):
            names, value = [target.id for target in statement.targets if isinstance(target, ast.Name)], statement.value
        elif isinstance(statement, ast.AnnAssign) and statement.value and isinstance(statement.target, ast.Name):
            names, value = [statement.target.id], statement.value
        else:
            continue
        if isinstance(value, ast.Name) and value.id in found:
            found |= dict.fromkeys(names, found[value.id])
        elif _is_genotype(value):
            found |= dict.fromkeys(names, reader.value(value))
    return found


def one(found: Mapping[str, Any], where: str) -> Any:
    """The genotype of a text that holds one.

    Raises:
        InputError: it holds none, or several that differ.
    """
    different = {json.dumps(value): value for value in found.values()}
    if len(different) == 1:
        return next(iter(different.values()))
    if not found:
        raise InputError(f"{where} holds no genotype: Genotype(normal=[...], normal_concat=[...], reduce=[...], ...)")
    named = [name for name in found if name]
    would = f"{where}#{named[-1]} would do" if named else "one of them would do"
    raise InputError(f"{where} holds several genotypes: {', '.join(named[:12]) or 'without names'}; {would}")


def _tree(text: str, where: str, parse: Callable[..., Any], **mode: str) -> Any:
    """Parse a text into its syntax tree.

    Raises:
        InputError: it is too long, or no Python.
    """
    if len(text) > LARGEST:
        raise InputError(f"{where} has {len(text)} characters; a genotype in at most {LARGEST} would do")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # of statements beside the genotype
            return parse(text, **mode)
    except SyntaxError as fault:
        raise InputError(f"{where}:{fault.lineno or 1}:{fault.offset or 1}: {fault.msg.partition(' (')[0]}") from fault
    except (ValueError, RecursionError, MemoryError) as fault:
        raise InputError(f"{where} cannot be read as Python: {fault or 'it is nested too deep'}") from fault


def _called(node: ast.expr) -> str:
    """What a call calls, without the module; empty for anything else."""
    if not isinstance(node, ast.Call):
        return ""
    called = node.func
    return called.attr if isinstance(called, ast.Attribute) else called.id if isinstance(called, ast.Name) else ""


def _is_genotype(node: ast.expr) -> bool:
    """Whether an expression is one, by call or as a dictionary of its cells."""
    keys = [key.value for key in node.keys if isinstance(key, ast.Constant)] if isinstance(node, ast.Dict) else []
    return _called(node) == "Genotype" or any(key in CELLS for key in keys)


class _Reader:
    """Turns values of a syntax tree into plain data."""

    def __init__(self, where: str):
        self.where = where

    def value(self, node: ast.expr) -> Any:
        """Evaluate an expression.

        Raises:
            InputError: it holds something that the notation does not have.
        """
        if isinstance(node, ast.Constant) and isinstance(node.value, str | int | float | None):
            return node.value
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant):
            return -self.number(node.operand)
        if isinstance(node, ast.List | ast.Tuple):
            return [self.value(entry) for entry in node.elts]
        if isinstance(node, ast.Dict):
            return {self.text(key): self.value(entry) for key, entry in zip(node.keys, node.values, strict=True)}
        called = _called(node)
        if isinstance(node, ast.Call) and called == "Genotype":
            return self.genotype(node)
        if isinstance(node, ast.Call) and called == "range" and not node.keywords:
            return self.numbers(node)
        if isinstance(node, ast.Call) and called in ("list", "tuple") and len(node.args) == 1 and not node.keywords:
            return self.value(node.args[0])
        raise self.fault(node, "lists, pairs, texts, whole numbers and range(...) would do")

    def genotype(self, call: ast.Call) -> dict[str, Any]:
        """Read the fields of a call, by position and by name."""
        if len(call.args) > len(FIELDS):
            raise self.fault(call.args[len(FIELDS)], f"{', '.join(FIELDS)} are all it has")
        found = {name: self.value(node) for name, node in zip(FIELDS, call.args, strict=False)}
        for keyword in call.keywords:
            if keyword.arg is None or keyword.arg in found:
                raise self.fault(keyword.value, f"each of {', '.join(FIELDS)} once would do")
            found[keyword.arg] = self.value(keyword.value)
        return found

    def numbers(self, call: ast.Call) -> list[int]:
        """List the numbers of a range."""
        if not 1 <= len(call.args) <= 3:
            raise self.fault(call, "range(2, 6) would do")
        numbers = [self.number(argument) for argument in call.args]
        if (len(numbers) == 3 and numbers[2] == 0) or len(range(*numbers)) > LONGEST:
            raise self.fault(call, f"a range of at most {LONGEST} numbers would do")
        return list(range(*numbers))

    def number(self, node: ast.expr) -> int:
        """Read a whole number of a size that counts something."""
        value = self.value(node)
        if type(value) is not int or abs(value) > 2**31:
            raise self.fault(node, "a whole number would do")
        return value

    def text(self, node: ast.expr | None) -> str:
        """Read a key of a dictionary."""
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
            raise self.fault(node or ast.Constant(None), "a text as a key would do")
        return node.value

    def fault(self, node: ast.expr, would: str) -> InputError:
        """Say what is wrong at a node."""
        called = _called(node)
        words = {ast.Constant: getattr(node, "value", None), ast.Name: getattr(node, "id", None)}
        found = f"{called}(...)" if called else words.get(type(node), f"Python's {type(node).__name__}")
        place = f"{self.where}:{getattr(node, 'lineno', 1)}:{getattr(node, 'col_offset', 0) + 1}"
        return InputError(f"{place}: found {shortened(found)}; {would}")
