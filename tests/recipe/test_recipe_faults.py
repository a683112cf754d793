"""Recipes that are not good: every fault of a file comes at once, at its place."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustnas.errors import RecipeError
from robustnas.recipe.document import parse
from robustnas.recipe.faults import Faults
from robustnas.recipe.load import load
from support.small_recipes import BASE, faults

pytestmark = pytest.mark.usefixtures("small_plugins")


# Files that are no recipe


@pytest.mark.parametrize(
    ("data", "place", "told"),
    [
        (b"", "r.yaml:1:1: ", "nothing in the file"),
        (b"# only a comment\n", "r.yaml:1:1: ", "nothing in the file"),
        (b"[1, 2]\n", "r.yaml:1:1: ", "found a list; a mapping"),
        (b"just words\n", "r.yaml:1:1: ", "found 'just words'; a mapping"),
        (b"a: [1, 2\nb: 3\n", "r.yaml:2:2: ", "not YAML"),
        (b"a: 1\n\tb: 2\n", "r.yaml:2:1: ", "tab"),
        (b"a:\n  b: 1\n \tc: 2\n", "r.yaml:3:2: ", "tab"),
        (b"a:\tb\n", "r.yaml:1:3: ", "tab"),
        (b"a: 1\nb: \xff\n", "r.yaml:2:4: ", "not UTF-8: found the byte 0xff"),
        (b"a: 1\nb: \x00\n", "r.yaml:2:4: ", "character"),
        (b"a: 1\n---\nb: 2\n", "r.yaml:2:1: ", "second document"),
        (b"a: 'open\n", "r.yaml:2:1: ", "not YAML"),
        (b"a: *nothing\n", "r.yaml:1:4: ", "undefined alias"),
        (b"[" * 1500, "r.yaml:1:33: ", "not a recipe: found lists or mappings nested more than 32 deep"),
    ],
)
def test_a_file_that_is_no_recipe(folder: Path, data: bytes, place: str, told: str) -> None:
    Path("r.yaml").write_bytes(data)
    with pytest.raises(RecipeError) as caught:
        load("r.yaml")
    assert len(caught.value.faults) == 1
    assert caught.value.faults[0].startswith(place)
    assert told in caught.value.faults[0]


def test_a_byte_order_mark_and_anchors_are_no_fault(folder: Path) -> None:
    text = BASE + "  a: {search: &s {epochs: 3}}\n  b: {search: *s}\n"
    Path("r.yaml").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert load("r.yaml").recipe.methods["b"].search.epochs == 3


def test_a_missing_file_says_what_was_looked_for(folder: Path) -> None:
    with pytest.raises(RecipeError, match=r"quickstrt: no such file.*did you mean 'quickstart'\?"):
        load("quickstrt")
    with pytest.raises(RecipeError, match="did you mean 'quickstart', without"):
        load("quickstart.yaml")
    Path("dir").mkdir()
    with pytest.raises(RecipeError, match="dir: is a folder"):
        load(Path("dir"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x: &a [*a]", "cannot hold itself"),
        ("x: !!python/object:os.system {}", "found the tag"),
        ("x: !!int abc", "tagged !!int"),
        ("? [a]\n: 1", "as a key"),
        ("a: &a {b: 1}\nc:\n  <<: *a", "merge key"),
    ],
)
def test_yaml_that_is_not_plain_data_is_refused(text: str, told: str) -> None:
    noted = Faults()
    parse(text, "f.yaml", noted)
    assert any(told in fault.text for fault in noted.found)
    assert all(fault.mark.line > 0 for fault in noted.found)


# Faults, each alone

FAULTS = [
    ("dataset: dta\n", "dataset", "no dataset is called 'dta'; did you mean 'data'?"),
    ("dataset: {nme: data}\n", "dataset.name", "missing"),
    ("dataset: 3\n", "dataset", "found 3; a dataset by name would do"),
    ("dataset: {name: data, folder: 3}\n", "dataset.folder", "found 3; path would do"),
    ("dataset: {name: data, first: 0}\n", "dataset.first", "found 0; at least 1 would do"),
    ("dataset: {name: data, shape: [1, 2]}\n", "dataset.shape", "found a list of 2; a list of 3 would do"),
    (
        "search_space: {name: space, cels: 3}\n",
        "search_space.cels",
        "unknown option of search-space 'space'; did you mean 'cells'?",
    ),
    ("search_space: {name: space, cells: '3'}\n", "search_space.cells", "found '3' (text); an integer would do"),
    ("search_space: {name: space, cells: 2.5}\n", "search_space.cells", "found 2.5; an integer would do"),
    ("search_space: {name: space, cells: true}\n", "search_space.cells", "found true; an integer would do"),
    ("search_space: {name: space, cells: 0}\n", "search_space.cells", "found 0; at least 1 would do"),
    ("search_space: {name: space, wide: no}\n", "search_space.wide", "found 'no' (text); true or false would do"),
    ("search_space: {name: space, ops: skip}\n", "search_space.ops", "found 'skip'; list of text would do"),
    ("search_space: {name: space, ops: [skip, 3]}\n", "search_space.ops.1", "found 3; text would do"),
    ("search_space: {name: space, ops: []}\n", "search_space.ops", "found 0 of them; at least 1 would do"),
    (
        "search: {batch: 7, accumulate: 4}\n",
        "search.accumulate",
        "found 4 parts of batch: 7, and batch norm needs two images a part; at most 3 would do",
    ),
    ("train: {accumulate: 49}\n", "train.accumulate", "found 49 parts of batch: 96"),
    ("threat: {norm: linf, epsilon: -8/255}\n", "threat.epsilon", "at least 0, found -0.03"),
    ("threat: {norm: linf, epsilon: 8/0}\n", "threat.epsilon", "found '8/0', which divides by zero"),
    ("threat: {norm: linf, epsilon: .nan}\n", "threat.epsilon", "found .nan; a finite number would do"),
    ("threat: {norm: linf, epsilon: .inf}\n", "threat.epsilon", "found .inf; a finite number would do"),
    ("threat: {norm: linf, epsilon: wide}\n", "threat.epsilon", "'wide' is not a number"),
    ("threat: {norm: linf, epsilon: true}\n", "threat.epsilon", "found true; a number such as 0.03 or 8/255 would do"),
    ("threat: {norm: lnf, epsilon: 0}\n", "threat.norm", "found 'lnf'; linf, l2 or l1 would do; did you mean 'linf'?"),
    ("threat: {norm: linf}\n", "threat.epsilon", "missing"),
    ("threat: linf\n", "threat", "found 'linf'; a mapping would do"),
    ("seeds: []\n", "seeds", "found an empty list"),
    ("seeds: 3\n", "seeds", "found 3; a list of integers would do"),
    ("seeds: [1, -1]\n", "seeds.1", "found -1; at least 0 would do"),
    ("seeds: [1, 1]\n", "seeds.1", "found 1 twice"),
    ("seeds: [one]\n", "seeds.0", "found 'one' (text); an integer would do"),
    ("search: {epochz: 3}\n", "search.epochz", "unknown key of search; did you mean 'epochs'?"),
    ("search: {order: second}\n", "search.order", "no order is called 'second'"),
    ("search: {w_momentum: 1}\n", "search.w_momentum", "found 1; at least 0 and less than 1 would do"),
    ("search: [1]\n", "search", "found a list; a mapping would do"),
    ("train: {regime: {name: adversarial, step: 2}}\n", "train.regime.step", "did you mean 'steps'?"),
    ("train: {epochs: 9, regime: {name: certified, ramp_epochs: 10}}\n", "train.regime", "more than epochs: 9, so"),
    ("train: {regime: {name: adversarial, step_size: 0}}\n", "train.regime.step_size", "found 0; more than 0 would do"),
    ("train: {regime: trade}\n", "train.regime", "did you mean 'trades'?"),
    ("certify: {method: ibpp}\n", "certify.method", "did you mean 'ibp'?"),
    ("certify: {norms: [l3]}\n", "certify.norms", "found 'l3'; linf, l2 or l1 would do"),
    ("certify: {images: 0}\n", "certify.images", "found 0; at least 1 would do"),
    ("evaluate: {images: many}\n", "evaluate.images", "found 'many'"),
    ("attacks: fast\n", "attacks", "found 'fast'; a list of attacks would do"),
    ("attacks: [fasst]\n", "attacks.0", "did you mean 'fast'?"),
    ("attacks: [{name: lib-l2, steps: 3}]\n", "attacks.0", "l2 would do"),
    (
        "attacks: [{name: lib-l2, threat: {norm: l1, epsilon: 12}}]\n",
        "attacks.0.threat",
        "found the threat l1 12 for 'lib-l2', an attack of l2; l2 would do",
    ),
    ("attacks: [3]\n", "attacks.0", "found 3; an attack by name would do"),
    ("attacks: [fast, fast]\n", "attacks.1.label", "second attack with the label 'fast'"),
    (
        "attacks: [{name: steps, threat: {norm: l2, epsilon: 0.5}}]\n",
        "attacks.0.threat",
        "steps knows linf, found l2; linf would do",
    ),
    ("attacks: [{name: steps, threat: {norm: l2}}]\n", "attacks.0.threat.epsilon", "epsilon: 0.5 would do"),
    ("smoothing: {samples: 5}\n", "smoothing.samples", "at least 10 would do"),
    ("evaluate: {images: 5, subset: first, subset_seed: 1}\n", "evaluate.subset_seed", "nothing is drawn"),
    ("certify: {epsilons: [0.1, 8]}\n", "certify.epsilons", "at most 1 in linf, would do"),
    ("certify: {epsilons: [0.2, 0.2]}\n", "certify.epsilons", "from small to large, would do"),
    ("evaluate: {epsilons: [0.2, 0.1]}\n", "evaluate.epsilons", "from small to large, would do"),
    ("attacks: [{name: steps, step_size: 1/0}]\n", "attacks.0.step_size", "divides by zero"),
    ("attacks: [{name: steps, threat: {epsilom: 1}}]\n", "attacks.0.threat.epsilom", "did you mean 'epsilon'?"),
    ("attacks: [{name: steps, label: 3}]\n", "attacks.0.label", "found 3; text would do"),
    ("evalute: {}\n", "evalute", "unknown section; did you mean 'evaluate'?"),
    ("methods: {}\n", "methods", "found no method"),
    ("methods: [darts]\n", "methods", "found a list; a mapping of names"),
    ("methods: {a/b: {}}\n", "methods", "found 'a/b' as the name of a method"),
    ("methods: {a: {}, A: {}}\n", "methods", "found 'A' beside 'a'"),
    ("methods: {a: 3}\n", "methods.a", "found 3; a mapping would do"),
    ("methods: {a: {metrik: bound}}\n", "methods.a.metrik", "did you mean 'metric'?"),
    ("methods: {a: {seeds: [1]}}\n", "methods.a.seeds", "like with like"),
    ("methods: {a: {metric: bond}}\n", "methods.a.metric", "did you mean 'bound'?"),
    ("methods: {a: {metric: gone}}\n", "methods.a.metric", "does not import: AssertionError: too old"),
    ("methods: {a: {metric: []}}\n", "methods.a.metric", "found an empty list"),
    ("methods: {a: {metric: inner}}\n", "methods.a.metric.radius", "missing; number would do"),
    ("methods: {a: {metric: {name: bound, hidden: 3}}}\n", "methods.a.metric.hidden", "unknown option"),
    ("methods: {a: {metric: {name: bound, count: 3}}}\n", "methods.a.metric.count", "unknown option"),
    (
        "methods: {a: {metric: {name: bound, share: 1}}}\n",
        "methods.a.metric.share",
        "found 1; at least 0 and less than 1 would do",
    ),
    ("methods: {a: {metric: {name: bound, high: -1}}}\n", "methods.a.metric.high", "found -1; high must be above low"),
    ("methods: {a: {metric: {name: bound, weight: -1}}}\n", "methods.a.metric.weight", "at least 0 would do"),
    ("methods: {a: {metric: {name: inner, radius: 1, weight: 2}}}\n", "methods.a.metric.weight", "no score to weigh"),
    ("methods: {a: {metric: {name: picky, a: 2, b: 1}}}\n", "methods.a.metric", "a is larger than b"),
    ("methods: {a: {metric: {name: bug, b: 1}}}\n", "methods.a.metric.b", "failed with KeyError: 'missing'"),
    ("methods: {a: {metric: {name: bug, c: 1}}}\n", "methods.a.metric.c", "failed with AttributeError: 'Bug' object"),
    (
        "methods: {a: {metric: lost}}\n",
        "methods.a.metric",
        "Lost: the default of option 'a' cannot be made: KeyError: 'missing'",
    ),
    ("methods: {a: {metric: bug}}\n", "methods.a.metric", "failed with KeyError: 'missing'"),
    (
        "methods: {a: {metric: [{name: inner, radius: 1}, {name: inner, radius: 2}]}}\n",
        "methods.a.metric.1",
        "the second metric with inner_loss",
    ),
    ("methods: {a: {metric: bound, genotype: X}}\n", "methods.a.metric", "no search would use it"),
    ("methods: {a: {genotype: ''}}\n", "methods.a.genotype", "found no text"),
    ("methods: {a: {search: {gama: 1}}}\n", "methods.a.search.gama", "did you mean 'gamma'?"),
    ("methods: {a: {search: {gamma: -1}}}\n", "methods.a.search.gamma", "at least 0, or {balance: 1}"),
    ("methods: {a: {search: {gamma: {balance: 0}}}}\n", "methods.a.search.gamma.balance", "more than 0 would do"),
    ("methods: {a: {search: {gamma: {balance: -1}}}}\n", "methods.a.search.gamma.balance", "more than 0 would do"),
    ("methods: {a: {search: {gamma: {balance: x}}}}\n", "methods.a.search.gamma.balance", "found 'x' (text); a number"),
    (
        "methods: {a: {search: {gamma: {balance: 1, balanse: 1}}}}\n",
        "methods.a.search.gamma.balanse",
        "did you mean 'balance'?",
    ),
    ("methods: {a: {search: {gamma: {}}}}\n", "methods.a.search.gamma.balance", "number would do"),
    ("methods: {a: {search: {gamma: balance}}}\n", "methods.a.search.gamma", "number or {balance: number} would do"),
    ("methods: {a: {search_space: {cells: 0}}}\n", "methods.a.search_space.cells", "at least 1 would do"),
    ("methods: {a: {threat: {epsilon: -1}}}\n", "methods.a.threat.epsilon", "at least 0"),
    (
        "methods: {a: {train: {regime: {name: certified, epsilon: 8}}}}\n",
        "methods.a.train.regime",
        "found epsilon 8 in train.regime; a fraction of the pixel range",
    ),
]


def without(section: str) -> str:
    """The base recipe without a section."""
    lines = BASE.splitlines(keepends=True)
    start = next((i for i, line in enumerate(lines) if line.startswith(f"{section}:")), None)
    if start is None:
        return BASE
    end = next((i for i in range(start + 1, len(lines)) if not lines[i].startswith(" ")), len(lines))
    return "".join(lines[:start] + lines[end:])


@pytest.mark.parametrize(("text", "path", "told"), FAULTS, ids=[path for _, path, _ in FAULTS])
def test_a_fault_is_told_with_its_place_and_key(folder: Path, text: str, path: str, told: str) -> None:
    section = text.split(":")[0]
    base = without(section)
    (fault,) = faults(base + text)
    line = base.count("\n") + 1
    assert fault.startswith(f"r.yaml:{line}:")
    assert f": {path}: " in fault or f": {path}.name: " in fault
    assert told in fault


def test_every_missing_section_is_told(folder: Path) -> None:
    found = faults("seeds: [0]\n")
    assert [fault.split(": ")[1] for fault in found] == ["dataset", "search_space", "threat", "methods"]
    assert all(fault.startswith("r.yaml:1:1: ") and "missing; " in fault for fault in found)


# Faults together


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "search: {epochs: 1, epochs: 2}\nthreat: {norm: l2, epsilon: 1}\n",
            ["6:21: search.epochs: duplicate key; found first at line 6",
             "7:1: threat: duplicate key; found first at line 3"],
        ),
        # the place of the value, or of an unknown key
        ("search:\n  epochs: no\n  gama: 1\n", ["7:11: search.epochs: ", "8:3: search.gama: "]),
        # once, however many methods inherit it
        (
            "  b: {search: {epochs: 2}}\n  c: {search: {epochs: 3}}\nsearch: {gamma: x}\n",
            ["8:17: search.gamma: "],
        ),
    ],
)  # fmt: skip
def test_each_fault_is_told_once_in_its_place(folder: Path, text: str, told: list[str]) -> None:
    for fault, start in zip(faults(BASE + text), told, strict=True):
        assert fault.startswith(f"r.yaml:{start}")


INJECTED = {
    "dataset: dta": "dataset",
    "search_space: {name: space, cells: 0}": "search_space.cells",
    "threat: {norm: linf, epsilon: 1/0}": "threat.epsilon",
    "seeds: [0, 0]": "seeds.1",
    "search: {epochs: 2.5}": "search.epochs",
    "train: {regime: hard}": "train.regime",
    "certify: {batch: 0}": "certify.batch",
    "evaluate: {image: 1}": "evaluate.image",
    "attacks: [{name: steps, steps: x}]": "attacks.0.steps",
    "methods: {a: {metric: {name: bound, method: x}}}": "methods.a.metric.method",
    "unknown: 1": "unknown",
}


@settings(max_examples=15, deadline=None)
@given(st.sets(st.sampled_from(sorted(INJECTED)), min_size=1), st.randoms(use_true_random=False))
def test_any_set_of_faults_is_told_completely_and_in_place(tmp_path_factory, chosen, random) -> None:  # type: ignore[no-untyped-def]
    sections = {line.split(":")[0] for line in chosen}
    good = ["dataset: data", "search_space: space", "threat: {norm: linf, epsilon: 8/255}", "methods: {darts: {}}"]
    lines = [line for line in good if line.split(":")[0] not in sections] + sorted(chosen)
    random.shuffle(lines)
    path = tmp_path_factory.mktemp("injected") / "r.yaml"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(RecipeError) as caught:
        load(path)
    wanted = {f"{path}:{lines.index(line) + 1}": INJECTED[line] for line in chosen}
    found = {}
    for fault in caught.value.faults:
        place, key, _ = fault.split(": ", 2)
        found[place.rpartition(":")[0]] = key
    assert found == wanted
    assert len(caught.value.faults) == len(chosen)
