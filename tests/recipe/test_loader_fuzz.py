"""Damaged and hostile recipes are taken or refused in place, and every input has a limit."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from robustnas.cli import main
from robustnas.errors import InputError, RecipeError
from robustnas.plan import make
from robustnas.recipe import document, values
from robustnas.recipe.load import load
from robustnas.registry import Registry
from robustnas.threat import pixels
from support import loader_fuzz
from support.loader_fuzz import BASE, REGISTERED, furnish, fuzz, mutant, tried


@pytest.mark.parametrize("count", [12, pytest.param(60, marks=pytest.mark.slow)])
def test_damaged_recipes_are_taken_or_refused_in_place(folder: Path, count: int) -> None:
    found = fuzz(range(count), folder)
    assert found.escapes == []
    assert found.taken > 0
    assert found.refused > count / 2
    assert tried(mutant(11370), folder)[1] == "", "images of a folder that is not there"


def test_what_the_fuzz_begins_with_is_good(folder: Path) -> None:
    furnish(folder)
    files = {"base.yaml": BASE.encode(), "cells.json": loader_fuzz.cells()}
    for name, text in (("base.yaml", BASE), ("folder.yaml", loader_fuzz.FOLDER)):
        assert tried(loader_fuzz.Mutant(0, {name: text.encode(), **files}, []), folder) == (True, "")


PLANTED: dict[str, tuple[Any, str, Any, range]] = {
    "fractions": (values, "_number", lambda node, faults: pixels(node.value), range(15, 50)),
    "depth": (document, "DEEPEST", 10**6, range(205, 260)),
}
"""Faults of a reader, and mutants of which two at least find each: 17 and 25, 210 and 253."""


@pytest.mark.parametrize("planted", PLANTED)
def test_the_fuzz_finds_a_reader_that_is_not_total(folder: Path, monkeypatch: pytest.MonkeyPatch, planted: str) -> None:
    furnish(folder)
    *fault, numbers = PLANTED[planted]
    monkeypatch.setattr(*fault)
    monkeypatch.setattr(Registry, "entries", lambda self: REGISTERED(self))
    assert any(tried(mutant(number), folder)[1] for number in numbers)


# Limits


def refused(text: str, *sets: str) -> list[str]:
    """The faults of a recipe."""
    Path("r.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        load("r.yaml", sets)
    return caught.value.faults


HEAD = "dataset: digits\nsearch_space: darts\nthreat: {norm: linf, epsilon: 8/255}\n"
ONE = HEAD + "methods: {a: {genotype: DARTS_V2}}\n"
METHODS = HEAD + "attacks: [fgsm]\nmethods: {" + ", ".join(f"m{number}: {{}}" for number in range(165)) + "}\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("#" * (1 << 20) + "\na: 1\n", "r.yaml: found more than 1,024 KiB; a file of at most that would do"),
        ("? " + "k" * 5000 + "\n: 1\n", "r.yaml:1:3: found 5000 characters, 'kkk"),
        ("a: " + "x" * 20_000 + "\n", "r.yaml:1:4: a: found 20000 characters, 'xxx"),
        ("a: " + "9" * 400 + "\n", "r.yaml:1:4: a: found '999"),
        ("a: 0x" + "f" * 400 + "\n", "whole numbers are at most 9223372036854775807"),
        ('a: "x\\0y"\n', "r.yaml:1:4: a: found the character '\\x00'; printable text would do"),
        ('a: "\\ud800"\n', "r.yaml:1:4: a: found the character '\\ud800'"),
        ('a: "\\U00110000"\n', "r.yaml:1:"),
        ("a: 1\r\ta: 2\r", "r.yaml:2:1: found a tab"),
        (METHODS + "seeds: " + str(list(range(300))) + "\n", "and 1 attacks, up to 346,500 stages; at most 300,000"),
        (HEAD + "methods: {" + "a" * 101 + ": {}}\n", "a letter or digit first, 100 at most (it names a folder)"),
        (ONE + "attacks: [" + "fgsm, " * 101 + "]\n", "found 101 attacks; at most 100 would do"),
        (ONE + 'attacks: [{name: fgsm, label: "a\\nb"}]\n', "at most 80 printable characters"),
        (HEAD + "methods: {a: {metric: [" + "jacobian, " * 21 + "]}}\n", "found 21 metrics; at most 20 would do"),
        (ONE + f"evaluate: {{epsilons: {[n / 1e4 for n in range(1, 102)]}}}\n", "101 radii; at most 100 would do"),
        (ONE + "certify: {norms: [l2, l2]}\n", "found 2 norms, some of them twice; each once would do"),
        (ONE.replace("darts", "{name: darts, cells: 101}"), "cells is 101; at most 100 would do"),
        (ONE.replace("8/255", "1e99999999"), "threat.epsilon: found .inf; a finite number would do"),
        (ONE.replace("8/255", "'1e99999999'"), "'1e99999999' is not a number"),
        (ONE.replace("8/255", "9" * 400 + "/1"), "which is not a finite number"),
    ],
)  # fmt: skip
def test_every_part_of_a_recipe_has_a_limit(folder: Path, text: str, told: str) -> None:
    assert any(told in fault for fault in refused(text))


def test_a_document_has_so_many_values(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document, "LARGEST", 1000)
    (fault,) = refused("a: [" + "1," * 1001 + "]\n")
    assert fault.startswith("r.yaml:1:1999: not a recipe: found more than 1000 values")
    told = refused("a: &a [" + "1," * 400 + "]\nb: [*a, *a, *a]\n")
    assert any("found more than 1000 values; aliases of aliases grow fast, and long keys" in fault for fault in told)


@pytest.mark.parametrize("key", ["attacks." + "9" * 5000, "attacks.²", ".".join("a" * 2000), "k" * 5000])
def test_a_key_of_set_has_a_limit(folder: Path, key: str) -> None:
    (fault,) = refused(ONE + "attacks: [fgsm]\n", f"{key}=1")
    assert fault.startswith("--set ")
    assert len(fault) < 400


def test_faults_by_the_thousand_end_the_reading(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(values, "did_you_mean", lambda word, known: asked.append(word) or "")
    told = refused("".join(f"key{number}: 1\n" for number in range(3_000)))
    assert len(told) == 1001
    assert told[-1] == "r.yaml: more than 1000 faults, of which these are the first found"
    assert len(asked) == 1000, "suggestions are looked for as long as they are told"


def test_all_faults_are_printed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("r.yaml").write_text(ONE + "".join(f"key{number}: 1\n" for number in range(100)), encoding="utf-8")
    assert main(["plan", "r.yaml"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 100


def test_a_path_that_cannot_be_one_is_told_at_its_key(folder: Path) -> None:
    Path("r.yaml").write_text(ONE.replace("digits", f"{{name: image-folder, folder: {'a' * 5000}}}"), encoding="utf-8")
    with pytest.raises(RecipeError, match=r"^r\.yaml:1:10: dataset: .*aaa: File name too long$"):
        make(load("r.yaml"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes and devices")
@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("pipe", "found a pipe; a regular file would do"),
        ("/dev/zero", "found a device; a regular file would do"),
        ("loop.yaml", "no such file"),
        ("nowhere", "no such file"),
        ("images", "is a folder"),
        ("a" * 5000, "no such file"),
    ],
)
def test_what_is_no_file_is_not_waited_for(folder: Path, name: str, told: str) -> None:
    furnish(folder)
    with pytest.raises(RecipeError, match=told) as caught:
        load(name)
    assert len(caught.value.faults[0]) < 600
    (fault,) = refused(f"extends: {name}\n")
    assert fault.startswith("r.yaml:1:10: extends: ")


# The command line

WORDS = ("a" * 5000, "a/" * 2500, "9" * 5000, "9" * 30, "-1", "\udcff", "pipe", "loop.yaml", "/dev/zero", "a\nb", "²")
"""What is typed in place of an option's value."""

EVALUATE = ["evaluate", "--network", "nets:make", "--dataset", "digits"]
COMMANDS = (
    ["plan", "*"], ["plan", "r.yaml", "--set", "*"], ["plan", "r.yaml", "--set", "*=1"],
    ["plan", "r.yaml", "--set", "seeds=*"], ["table", "*"], ["records", "*"],
    ["robustbench", "*", "m", "--architecture", "x"], ["export", "*", "m"], ["export", "r", "m", "--seed", "*"],
    ["export", "r", "m", "--images", "*"], ["export", "r", "m", "--epsilon", "*"],
    ["run", "r.yaml", "--jobs", "*", "--device", "cuda:99"], ["run", "r.yaml", "--device", "*"],
    ["recipes", "show", "*"], ["recipes", "copy", "*"], ["plugins", "show", "attack", "*"],
    ["plugins", "show", "*", "x"], ["*"], [*EVALUATE, "--network", "*"], [*EVALUATE, "--weights", "*"],
    [*EVALUATE, "--dataset", "*"], [*EVALUATE, "--name", "*"], [*EVALUATE, "--norm", "*"],
    [*EVALUATE, "--epsilon", "*", "--device", "cuda:99"], [*EVALUATE, "--attack", "*"],
    [*EVALUATE, "--images", "*", "--device", "cuda:99"], [*EVALUATE, "--certify", "*"], [*EVALUATE, "--set", "*"],
    [*EVALUATE, "--seed", "*", "--device", "cuda:99"],
)  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_whatever_is_typed_is_refused_in_a_few_words(
    folder: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    furnish(folder)
    Path("r.yaml").write_text(ONE + "attacks: [fgsm]\n", encoding="utf-8")
    for word in WORDS:
        status = main([part.replace("*", word) for part in command])
        told = capsys.readouterr().err
        assert status == InputError.exit_status, (word[:40], told)
        assert 0 < len(told) < 3000
        assert "fault of" not in told
        assert "Traceback" not in told
