"""Reads a YAML text as a tree of nodes that know their line and column.

PyYAML reads YAML 1.1, in which `1e-3` is text, `no` is false and `2026-01-02` a date; the scalars here are
those of the core schema of YAML 1.2 (yaml.org/spec/1.2.2, section 10.3.2).  Duplicate keys, which PyYAML
takes silently, are faults, and so are tabs as indentation.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NoReturn

import yaml
from attrs import Factory, evolve, frozen

from robustnas.recipe.faults import Faults, Mark
from robustnas.runtime import given_file
from robustnas.runtime.quoted import quoted

MOST_BYTES = 1 << 20
"""Largest size of a file, that of a recipe with ten thousand methods."""

LARGEST = 100_000
"""Values of a document with its aliases written out; one whose key is long or deep counts for several, by `WEIGHT`."""

WEIGHT = 64
"""Characters of a value's dotted path that count as a further value: all paths are kept."""

DEEPEST = 32
"""Lists and mappings may be nested so deep."""

LONGEST_KEY, LONGEST_TEXT = 200, 16_384
"""A text may have so many characters, because a genotype may be one."""

LARGEST_INTEGER = 2**63 - 1
"""Integers may have so many bits: no seed of a generator and no size of a tensor has more."""

BREAK = r"\r\n|[\n\r\x85\u2028\u2029]"
"""The end of a line, as PyYAML counts them."""

UNPRINTABLE = re.compile("[^\t\n\r -~\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that YAML forbids in a text but an escape in quotes could bring in: 0 ends a path, half a surrogate is no
text (yaml.org/spec/1.2.2, section 5.1)."""

PREFIX = "tag:yaml.org,2002:"
SCALARS = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
}


@frozen(eq=False)
class Node:
    """A value of a recipe, and where it is written.

    Args:
        mark: where the value is written.
        path: its key, dotted from the top (`attacks.0.steps`).
        value: a scalar, a tuple of nodes, or a mapping of keys to nodes.
        keys: where each key of a mapping is written.
    """

    mark: Mark
    path: str
    value: bool | int | float | str | tuple[Node, ...] | dict[str, Node] | None
    keys: dict[str, Mark] = Factory(dict)

    @property
    def entries(self) -> dict[str, Node]:
        """The nodes of a mapping by key; none where it is something else."""
        return self.value if isinstance(self.value, dict) else {}

    @property
    def given(self) -> dict[str, Node]:
        """The entries that are not null."""
        return {key: node for key, node in self.entries.items() if node.value is not None}

    def plain(self) -> Any:
        """Return the value without its places."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        return [node.plain() for node in self.value] if isinstance(self.value, tuple) else self.value

    def moved(self, path: str) -> Node:
        """Move the node, and all nodes below it, to another key."""
        value = self.value
        if isinstance(value, dict):
            value = {key: node.moved(below(path, key)) for key, node in value.items()}
        elif isinstance(value, tuple):
            value = tuple(node.moved(below(path, index)) for index, node in enumerate(value))
        return evolve(self, path=path, value=value)


def below(path: str, key: str | int) -> str:
    """Return the path of a key of the node at `path`."""
    return f"{path}.{key}" if path else str(key)


class TooMuch(yaml.MarkedYAMLError):
    """Raised for a document that is YAML, but deeper or larger than any recipe."""


class _Composer(yaml.SafeLoader):
    """PyYAML's reader with the scalars of YAML 1.2; only its node tree is used, nothing is constructed.

    It stops where the tree is too deep or too large, before it is there.
    """

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  the name and form PyYAML looks for
    depth = size = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a node and those below it.

        Raises:
            yaml.MarkedYAMLError: there are too many, inside each other or in all.
        """
        self.depth, self.size = self.depth + 1, self.size + 1
        if self.depth > DEEPEST:
            self.stop(f"found lists or mappings nested more than {DEEPEST} deep")
        if self.size > LARGEST:
            self.stop(f"found more than {LARGEST} values")
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def stop(self, why: str) -> NoReturn:
        """Refuse the document at the node that comes next.

        Raises:
            TooMuch: always.
        """
        raise TooMuch(None, None, why, self.peek_event().start_mark)  # type: ignore[no-untyped-call]


class _Dumper(yaml.SafeDumper):
    """PyYAML's writer, which puts into quotes what YAML 1.1 or 1.2 would take for something else than text."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write out values that occur twice, instead of aliases."""
        return True


for _kind, (_pattern, _first) in SCALARS.items():
    # "float" is tried after "int", so that 3 is an integer
    _Composer.add_implicit_resolver(PREFIX + _kind, re.compile(rf"(?:{_pattern})\Z"), _first)
    _Dumper.add_implicit_resolver(PREFIX + _kind, re.compile(rf"(?:{_pattern})\Z"), _first)


def text_of(data: Any) -> str:
    """Write plain data as a YAML text that this module and PyYAML read alike."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def read(path: Path, faults: Faults) -> tuple[str, Node | None]:
    """Read the text of a file and its tree, which is None where there is none; then a fault says why.

    Raises:
        InputError: the file cannot be read, is not a regular file, or is too large.
    """
    data = given_file.read(path, MOST_BYTES)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        before = data[: fault.start].decode("utf-8", errors="replace")
        mark = _mark_of(str(path), before, len(before))
        faults.add(mark, "", f"not UTF-8: found the byte 0x{data[fault.start]:02x}; save the file as UTF-8")
        return "", None
    return text, parse(text, str(path), faults)


def parse(text: str, file: str, faults: Faults, at: Mark | None = None) -> Node | None:
    """Read the tree of a YAML text; None where it cannot be read or holds nothing.

    Args:
        text: the text.
        file: what messages call the text.
        faults: collects what is wrong.
        at: the place of every node, where the text is not a file.
    """
    if at is None:
        before = len(faults)
        for index, line in enumerate(re.split(BREAK, text)):
            if re.match(r" *\t\s*[^\s#]", line):
                mark = Mark(file, index + 1, line.index("\t") + 1)
                faults.add(mark, "", "found a tab as indentation; spaces would do")
        if len(faults) > before:
            return None
    composer = None
    try:
        composer = _Composer(text)
        root = composer.get_single_node()
    except yaml.reader.ReaderError as fault:
        mark = at or _mark_of(file, text, fault.position)
        faults.add(mark, "", f"not YAML: found the character {chr(int(fault.character))!r}; printable text would do")
        return None
    except yaml.MarkedYAMLError as fault:
        faults.add(at or _mark(file, fault.problem_mark or fault.context_mark), "", _syntax(fault, text))
        return None
    except ValueError as fault:  # Python raises it for an escape beyond Unicode or a version of thousands of digits
        mark = at or (_mark(file, composer.get_mark()) if composer is not None else Mark(file, 1, 1))
        faults.add(mark, "", f"not YAML: {fault}")
        return None
    return _Reader(file, at, faults).node(root, "", ()) if root is not None else None


def _syntax(fault: yaml.MarkedYAMLError, text: str) -> str:
    """Write a syntax error in PyYAML's words and the form of other faults."""
    mark = fault.problem_mark
    if mark is not None and text[mark.index : mark.index + 1] == "\t":
        return "found a tab; spaces would do"
    if "single document" in str(fault.context):
        return "found a second document ('---'); one recipe a file would do"
    if isinstance(fault, TooMuch):
        return f"not a recipe: {fault.problem}"
    parts = [part for part in (fault.context, fault.problem) if part]
    return f"not YAML: {', '.join(parts)}"


def _mark(file: str, mark: Any) -> Mark:
    return Mark(file, mark.line + 1, mark.column + 1) if mark is not None else Mark(file, 1, 1)


def _mark_of(file: str, text: str, index: int) -> Mark:
    """Count the line and the column of a character of a text."""
    lines = re.split(BREAK, text[:index])
    return Mark(file, len(lines), len(lines[-1]) + 1)


class _Reader:
    """Turns PyYAML's nodes into ours."""

    def __init__(self, file: str, at: Mark | None, faults: Faults):
        self.file, self.at, self.faults = file, at, faults
        self.size = 0
        self.full = False

    def node(self, node: yaml.Node, path: str, above: tuple[int, ...]) -> Node | None:
        """Convert a node and those below it; None, with a fault, where that fails."""
        mark = self.mark(node)
        self.size += 1 + len(path) // WEIGHT
        if id(node) in above:
            self.faults.add(mark, path, "found an alias of the value it stands in; a value cannot hold itself")
            return None
        if self.size > LARGEST:
            if not self.full:
                self.full = True
                text = (
                    f"found more than {LARGEST} values; aliases of aliases grow fast, and long keys count for several"
                )
                self.faults.add(mark, path, text)
            return None
        if len(above) == DEEPEST:
            self.faults.add(mark, path, f"found lists or mappings nested more than {DEEPEST} deep")
            return None
        above = (*above, id(node))
        if isinstance(node, yaml.MappingNode) and node.tag == PREFIX + "map":
            return self.mapping(node, mark, path, above)
        if isinstance(node, yaml.SequenceNode) and node.tag == PREFIX + "seq":
            items = [self.node(item, below(path, index), above) for index, item in enumerate(node.value)]
            return Node(mark, path, tuple(item for item in items if item is not None))
        kind = node.tag.removeprefix(PREFIX)
        if isinstance(node, yaml.ScalarNode) and kind in ("str", *SCALARS):
            wrong = _unfit(node.value, LONGEST_TEXT) or _too_large(kind, node.value)
            if wrong:
                self.faults.add(mark, path, wrong)
                return None
            try:
                return Node(mark, path, _scalar(kind, node.value))
            except ValueError:
                self.faults.add(mark, path, f"found {quoted(node.value)} tagged !!{kind}; it is none")
                return None
        self.faults.add(
            mark, path, f"found the tag {quoted(node.tag)}; plain text, numbers, lists and mappings would do"
        )
        return None

    def mapping(self, node: yaml.MappingNode, mark: Mark, path: str, above: tuple[int, ...]) -> Node:
        """Convert a mapping; of a duplicate key the first counts."""
        values: dict[str, Node] = {}
        keys: dict[str, Mark] = {}
        for key_node, value_node in node.value:
            at = self.mark(key_node)
            if not isinstance(key_node, yaml.ScalarNode):
                self.faults.add(at, path, "found a list or mapping as a key; a word would do")
                continue
            key = key_node.value
            wrong = _unfit(key, LONGEST_KEY)
            if wrong:
                self.faults.add(at, path, f"{wrong}, as a key")
                continue
            if key == "<<":
                self.faults.add(at, path, "found a merge key ('<<'), which YAML 1.2 does not have; extends would do")
                continue
            if key in keys:
                text = f"duplicate key; found first at line {keys[key].line}, one of the two would do"
                self.faults.add(at, below(path, key), text)
                continue
            keys[key] = at
            value = self.node(value_node, below(path, key), above)
            if value is not None:
                values[key] = value
        return Node(mark, path, values, keys)

    def mark(self, node: yaml.Node) -> Mark:
        return self.at or _mark(self.file, node.start_mark)


def _unfit(text: str, longest: int) -> str:
    """Say what is wrong with a text, whatever its kind; empty if nothing is."""
    if len(text) > longest:
        return f"found {len(text)} characters, {quoted(text)}; at most {longest} would do"
    character = UNPRINTABLE.search(text)
    return f"found the character {character[0]!r}; printable text would do" if character else ""


def _too_large(kind: str, text: str) -> str:
    """Say that an integer has too many digits; empty if it has not."""
    if kind != "int" or not re.fullmatch(SCALARS[kind][0], text):
        return ""
    if (
        len(text) <= len(str(LARGEST_INTEGER)) + 1
        and abs(int(text, 0 if text[1:2] in ("o", "x") else 10)) <= LARGEST_INTEGER
    ):
        return ""
    return f"found {quoted(text)}; whole numbers are at most {LARGEST_INTEGER}"


def _scalar(kind: str, text: str) -> bool | int | float | str | None:
    """Read the text of a scalar as its kind says."""
    if kind == "str":
        return text
    if not re.fullmatch(SCALARS[kind][0], text):
        raise ValueError(text)
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind == "int":
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
    return float(re.sub(r"\.(?=inf|nan)", "", text.lower()))
