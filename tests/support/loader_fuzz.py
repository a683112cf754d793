"""Damaged and hostile recipes by the thousand, each a function of a seed, and what the program makes of them.

Whatever is handed in is either taken or refused by an `InputError` whose every line can be shown and says where.
Anything else is an escape: another exception, a warning, more than `LONGEST` seconds.
"""

from __future__ import annotations

import copy
import json
import os
import random
import re
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml
from attrs import Factory, define, frozen

from robustnas.errors import InputError, RecipeError
from robustnas.plan import make
from robustnas.recipe.load import load, written
from robustnas.recipe.of_network import Evaluation, recipe
from robustnas.registry import Registry

LONGEST = 20
"""Seconds after which a mutant counts as one that hangs."""

BASE = """\
dataset: digits
search_space: {name: darts, cells: 1, channels: 2, network_cells: 1, network_channels: 2}
threat: {norm: linf, epsilon: 8/255}
seeds: [0, 1]
search: {epochs: 3, warmup_epochs: 1, batch: 8, order: {name: cg, iterations: 2}, gamma: 1e-3, w_lr: .025, crop: 1}
methods:
  plain: {}
  scored: {metric: [{name: jacobian, rows: 1}, {name: certified-bound, epsilon: 1/255, weight: 2}], search: {gamma: 0}}
  noisy: {metric: random-noise, threat: {norm: l2, epsilon: 0.5}, train: {regime: {name: trades, beta: 3}}}
  published: {genotype: DARTS_V2, train: {epochs: 5, checkpoint: best, holdout: 0.2}}
  given: {genotype: cells.json#one}
  other: {search_space: {name: pc-darts, partial: 2, channels: 4, network_cells: 1, network_channels: 4}}
train: {epochs: 2, regime: {name: adversarial, steps: 2, step_size: 2/255}, auxiliary: 0, colour_jitter: [0, 0, 0, 0]}
attacks:
  - fgsm
  - {name: pgd, steps: 2, step_size: 2/255, runs: 2}
  - {name: square, queries: 5, label: 'a square', threat: {norm: l2, epsilon: 0.5}}
  - &attack {name: apgd-ce, steps: 3}
certify: {method: ibp, norms: [linf, l2], images: 10}
smoothing: {sigma: 0.25, samples: 100, radii: [0.25, 0.5]}
evaluate: {images: 10, subset: balanced, epsilons: [0.01, 4/255]}
"""

NETS = """\
from torch import nn

def make():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
"""

FOLDER = """\
extends: base.yaml
dataset: {name: image-folder, folder: images, size: 8}
methods: {plain: null, foreign: {network: 'nets:make', normalize: true}}
"""

HOSTILE = (
    "9" * 400, "9" * 5000, "9" * 400 + "/1", "1/" + "9" * 400, "0x" + "f" * 400, "-" + "9" * 30,
    "9223372036854775808", "1e400", "-1e400", "1e99999999", "'1e99999999'", "1e99999999/1e99999999",
    "0." + "3" * 5000, "1/0", "0/0", "-0", "-0.0", ".inf", "-.inf", ".nan", "1_000", "0o17", "0b1", "+1", "1.",
    ".5", "1e-400", "00", "1:30", "2026-99-99", "2026-01-02", "/" + "a" * 5000, "'" + "a/" * 2500 + "'", '"x\\0y"',
    '"\\ud800"', '"\\U00110000"', '"\\xff"', '"\\e[31m"', '"a\\nb"', "''", "' '", "~", "null", "true", "no", "[]",
    "{}", "[[]]", "{a: {b: {c: 1}}}", "[1, [2, [3]]]", "..", ".", "/", "/dev/zero", "/dev/stdin", "/proc/self/mem",
    "pipe", "loop.yaml", "nowhere", "images", "base.yaml", "cells.json", "cells.json#", "#one", "*attack",
    "*nothing", "&a [*a]", "!!python/object:os.system {}", "!!binary aGk=", "!!set {a, b}",
    "!!timestamp 2026-01-02", "!!omap [a: 1]", "!!int x", "!!float 1", "!!str 1", "!!null x", "!local x",
    "<<: *attack", "{<<: {a: 1}}", "{a: 1, a: 2}", "{1: 2, 2.5: 3, null: 4, true: 5}", "{[a]: 1}",
    "{? {a: 1} : 2}", "[" * 10_000, "{a: " * 1000, "- " * 1000, "? " * 500, "[" + "1, " * 3000 + "]",
    "{" + ", ".join(f"k{n}: {n}" for n in range(1500)) + "}", "\u2028", "\x85", "\ufeff", "é", "８", "١",
    "a" * 4096, "'" + "a" * 20_000 + "'", "|\n  x\n  y", ">-\n  x", "'open", '"open', "a: b: c", "@x", "`x", "%x",
    "- x", "\t", "\r", "darts", "jacobian", "l1", "linf", "first", "survivors", "1000000", "1000000000",
    "9223372036854775807", "0.5", "0", "1", "-1",
)  # fmt: skip
"""What stands in place of a value."""

VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, 2, 3, -1, 10**3, 10**9, 2**63 - 1, 2**63, 10**400, 0.0, -0.0, 0.5, 1.0, 1e-320, 1e308,
    float("inf"), float("nan"), "", " ", "x\0y", "\ud800", "\x1b[31m", "a\nb", "=1+1", "|", "[bold]", "a" * 300,
    "a/" * 2000, "1/3", "0.5/255", "1e99999999", "9" * 400 + "/1", "pipe", "loop.yaml", "nowhere", "images", ".",
    "/dev/zero", "cells.json", "cells.json#two", "cells.json#some", [], {}, [None], [[]], [1, 2], [0.1, 0.2],
    ["linf", "linf"], ["l1"], [0.5] * 300, {"name": None}, {"name": "pgd"}, {"name": "transfer"},
    {"name": "autoattack"}, {"name": "corruptions"}, {"name": "certified", "epsilon": 1}, "adversarial-alpha",
    "certified-radius", "exact", "best", "survivors", "all", "l1", "crown", "digits", "pc-darts",
    {"norm": "l1", "epsilon": 12},
)  # fmt: skip
"""What stands in place of a value in good YAML."""

PATHS = (
    "dataset", "dataset.name", "dataset.x", "search_space.cells", "search_space.network_channels",
    "threat.epsilon", "threat", "seeds", "seeds.0", "search.epochs", "search.order", "search.gamma", "methods",
    "methods.plain", "methods.plain.metric", "methods.scored.metric.0.rows", "methods.given.genotype",
    "methods.new.search.gamma", "methods.plain.search_space.channels", "train.regime.step_size",
    "train.colour_jitter", "train.regime", "attacks", "attacks.1.steps", "attacks.0", "attacks.9",
    "attacks." + "9" * 5000, "attacks.²", "attacks.-1", "certify", "certify.norms", "smoothing.samples",
    "evaluate.epsilons", "evaluate.images", "extends", "a" * 5000, ".".join("a" * 2000), "", ".", "..", "a..b",
    " ", "<<", "methods.a\x00b", "é",
)  # fmt: skip
"""Keys of `--set`."""


REGISTERED = cache(Registry.entries)
"""What is installed, looked up once."""


@frozen
class Mutant:
    """One thing to hand in.

    Args:
        number: its seed.
        files: texts or bytes by name, in a folder of their own.
        sets: of `--set`.
        asked: options of `evaluate`, in place of a recipe.
    """

    number: int
    files: dict[str, bytes]
    sets: list[str]
    asked: dict[str, Any] | None = None


@define
class Found:
    """What became of mutants.

    Args:
        escapes: the number of each that was neither taken nor properly refused, with what happened.
        slowest: CPU seconds of one, and its number.
    """

    taken: int = 0
    refused: int = 0
    escapes: list[tuple[int, str]] = Factory(list)
    slowest: tuple[float, int] = (0.0, -1)


def mutant(number: int) -> Mutant:
    """The mutant of a seed."""
    draw = random.Random(number)
    kind = draw.choice(("text", "text", "values", "tree", "tree", "tree", "sets", "genotype", "evaluate"))
    name, text = draw.choice((("base.yaml", BASE), ("base.yaml", BASE), ("folder.yaml", FOLDER)))
    files = {"base.yaml": BASE.encode(), "cells.json": cells()}
    sets: list[str] = []
    if kind == "evaluate":
        return Mutant(number, files, _sets(draw), _asked(draw))
    if kind == "text":
        files[name] = _damaged(text.encode("utf-8", "surrogatepass"), draw)
    elif kind == "values":
        files[name] = _with_values(text, draw).encode("utf-8", "surrogatepass")
    elif kind == "tree":
        files[name] = _other_tree(text, draw)
    elif kind == "sets":
        files[name] = text.encode()
        sets = _sets(draw)
    else:
        files[name] = text.encode()
        damaged = _damaged(files["cells.json"], draw)
        files["cells.json"] = draw.choice((damaged, _other_cells(draw)))
    return Mutant(number, {name: files.pop(name), **files}, sets)


def cells() -> bytes:
    """A file of two genotypes."""
    cell = [["sep_conv_3x3", 0], ["skip_connect", 1], ["max_pool_3x3", 0], ["none", 2]]
    one = {"normal": cell, "normal_concat": [2, 3], "reduce": cell, "reduce_concat": [2, 3]}
    return json.dumps({"one": one, "some": {"two": one}}, indent=1).encode()


def _other_cells(draw: random.Random) -> bytes:
    """A genotype whose parts are of another kind or size."""
    hostile: list[Any] = [
        None, 1.5, -1, 10**400, "x", [], {}, [[]], [["skip_connect", 0]] * 801, [["skip_connect", 0]] * 800,
        [2] * 5000, [["skip_connect", float("nan")]] * 2, [["\ud800", 0]] * 2, [[1, 2]] * 2, [["none", True]] * 2,
        [["a" * 9999, 0]] * 2,
    ]  # fmt: skip
    data = json.loads(cells())
    for _ in range(draw.choice((1, 1, 2, 3))):
        data["one"][draw.choice(("normal", "normal_concat", "reduce", "reduce_concat"))] = draw.choice(hostile)
    return json.dumps(draw.choice((data, data["one"], [data], draw.choice(hostile)))).encode()


def _damaged(data: bytes, draw: random.Random) -> bytes:
    """Bytes with a few accidents: lost, doubled, moved, changed, or in another encoding."""
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        start = draw.randrange(len(data) + 1)
        end = min(start + draw.randint(1, 60), len(data))
        piece = data[start:end]
        accident = draw.randrange(8)
        if accident == 0:
            data = data[:start] + data[end:]
        elif accident == 1:
            data = data[:start] + piece * draw.choice((2, 2, 50, 2000)) + data[end:]
        elif accident == 2:
            data = data[:start] + bytes(draw.randrange(256) for _ in range(draw.randint(1, 4))) + data[start:]
        elif accident == 3:
            data = data[:start] + draw.choice(HOSTILE).encode("utf-8", "surrogatepass") + data[end:]
        elif accident == 4:
            there = draw.randrange(len(data) + 1)
            data = data[:there] + piece + data[there:]
        elif accident == 5:
            marks = (b"[ ] { } : , \n \t \r #", b"' \" |")
            signs = [*marks[0].split(b" "), b"&a ", b"*a ", b"- ", *marks[1].split(b" ")]
            data = data[:start] + draw.choice(signs) + data[start:]
        elif accident == 6:
            data = data.replace(b"\n", draw.choice((b"\r", b"\r\n", b"\n\n", "\u2028".encode(), b"\n\t", b" ")))
        else:
            changes: tuple[Callable[[bytes], bytes], ...] = (
                lambda b: b"\xef\xbb\xbf" + b,
                lambda b: b.decode("utf-8", "replace").encode("utf-16"),
                lambda b: b.decode("utf-8", "replace").encode("utf-16-le"),
                lambda b: b"",
                lambda b: b"---\n" + b + b"\n...\n",
                lambda b: b + b"\n---\n" + b,
                lambda b: b"%YAML 1.2\n---\n" + b,
                lambda b: b"x: " * 300 + b,
            )
            data = draw.choice(changes)(data)
    return data


def _with_values(text: str, draw: random.Random) -> str:
    """A recipe some of whose values are others."""
    for _ in range(draw.choice((1, 1, 2, 3))):
        places = list(re.finditer(r"(?<=[:\[,] )[^\s\[\]{},][^\[\]{},\n]*", text)) or [re.compile("").match(text)]
        place = draw.choice(places)
        assert place is not None
        text = text[: place.start()] + draw.choice(HOSTILE) + text[place.end() :]
    return text


def _other_tree(text: str, draw: random.Random) -> bytes:
    """A recipe that is good YAML, some of whose values are others, gone, doubled, or in each other's places."""
    data = yaml.safe_load(text)
    for _ in range(draw.choice((1, 1, 2, 3))):
        places = list(_places(data))
        holder, key = draw.choice(places)
        accident = draw.randrange(6)
        if accident == 0:
            del holder[key]
        elif accident == 1 and isinstance(holder, dict):
            holder[draw.choice((f"{key}s", str(key).upper(), "x\0", "é", "a" * 199, "<<", "name"))] = holder.pop(key)
        elif accident == 2:
            other, at = draw.choice(places)
            holder[key] = copy.deepcopy(other[at])
        elif accident == 3 and isinstance(holder, list):
            holder.extend(copy.deepcopy(holder[key]) for _ in range(draw.choice((1, 3, 300))))
        else:
            holder[key] = draw.choice(VALUES)
    return yaml.safe_dump(data, sort_keys=False, default_flow_style=draw.choice((True, False, None))).encode()


def _places(data: Any) -> Iterator[tuple[Any, Any]]:
    """Where values stand: what holds each, and its key or index."""
    for key in data if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ():
        yield data, key
        yield from _places(data[key])


def _sets(draw: random.Random) -> list[str]:
    return [f"{draw.choice(PATHS)}={draw.choice(HOSTILE)}" for _ in range(draw.choice((1, 1, 2, 3)))]


def _asked(draw: random.Random) -> dict[str, Any]:
    """Options of `evaluate`, some of them hostile."""
    asked: dict[str, Any] = {"network": "nets:make", "weights": None, "dataset": "digits"}
    texts = ("network", "dataset", "name", "norm", "epsilon", "certify", "weights_key")
    for _ in range(draw.choice((1, 1, 2, 3))):
        key = draw.choice((*texts, "attacks", "weights", "images", "seed"))
        value: Any = draw.choice(HOSTILE)
        if key == "attacks":
            value = [value, draw.choice(HOSTILE)]
        elif key == "weights":
            value = Path(value)
        elif key in ("images", "seed"):
            value = draw.choice((0, -1, 10**18, 10**400))
        asked[key] = value
    return asked


def tried(one: Mutant, folder: Path) -> tuple[bool, str]:
    """Whether a mutant was taken, and what is wrong with how it was refused, if anything is."""
    for name, data in one.files.items():
        (folder / name).write_bytes(data)
    path = folder / next(iter(one.files))
    try:
        with warnings.catch_warnings(), _in_time():
            warnings.simplefilter("error")
            if one.asked is None:
                loaded = load(path, one.sets)
            else:
                loaded = written(
                    recipe(Evaluation(**one.asked)), folder / "evaluate.yaml", "robustnas evaluate", one.sets
                )
            make(loaded)
    except InputError as fault:
        return False, _badly_told(fault)
    except Exception as fault:
        return False, f"{type(fault).__name__}: {fault!s:.200}"
    return True, ""


def _badly_told(fault: InputError) -> str:
    """What a refusal lacks; nothing where it is well told."""
    lines = fault.faults if isinstance(fault, RecipeError) else [str(fault)]
    if not lines or not all(line.strip() for line in lines):
        return "an empty message"
    for line in lines:
        if isinstance(fault, RecipeError) and not re.match(r"[^\n]*?(:\d+:\d+: |--set |robustnas evaluate|: )", line):
            return f"no place: {line:.200}"
        try:
            line.encode()
        except UnicodeEncodeError:
            return f"a message that cannot be shown: {line!r:.200}"
        if re.search(r"failed with \w+|not done in", line):  # our own plugins are what is named
            return line[:300]
        if len(line) > 2000:
            return f"a message of {len(line)} characters: {line:.200}"
    return ""


@contextmanager
def _in_time() -> Iterator[None]:
    """Ends what takes more than `LONGEST` seconds, where the system can do so."""

    def late(*_: object) -> None:
        raise TimeoutError(f"not done in {LONGEST} s")

    if not hasattr(signal, "setitimer"):
        yield
        return
    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, LONGEST)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def furnish(folder: Path) -> None:
    """Put into a folder what recipes there may name: images, a network, a pipe, links to nowhere and to themselves."""
    from PIL import Image

    for split in ("train", "test"):
        for label, name in enumerate(("ants", "bees")):
            for number in range(2):
                path = folder / "images" / split / name / f"{split}{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("L", (8, 8), 40 * label + 9 * number).save(path)
    (folder / "nets.py").write_text(NETS, encoding="utf-8")
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "pipe")
        (folder / "loop.yaml").symlink_to("loop.yaml")
        (folder / "nowhere").symlink_to("nothing")


def fuzz(numbers: range, folder: Path) -> Found:
    """Try the mutants of some seeds in an empty folder, the working directory meanwhile."""
    furnish(folder)
    found = Found()
    for number in numbers:
        one = mutant(number)
        start = time.process_time()
        with patch.object(Registry, "entries", lambda self: REGISTERED(self)):  # which takes longer than all the rest
            taken, escaped = tried(one, folder)
        seconds = time.process_time() - start
        found.slowest = max(found.slowest, (seconds, number))
        if escaped:
            found.escapes.append((number, escaped))
        elif taken:
            found.taken += 1
        else:
            found.refused += 1
    return found
