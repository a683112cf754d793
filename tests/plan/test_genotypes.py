"""Genotypes that recipes name: where they are found, in every notation, and what is said of those that are none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from robustnas.errors import RecipeError
from robustnas.plan import MethodPlan, Seed, make
from robustnas.recipe.load import load
from robustnas.recipe.resolved import resolved
from robustnas_plugins.search_spaces.nas_bench_201 import ordered
from support.tiny_plan import RECIPE, plan


def test_a_genotype_file_is_found_beside_the_recipe(recipe: Path):
    data = plan(recipe, "methods.p={genotype: DARTS_V1}").methods["p"].genotype
    (recipe.parent / "cell.json").write_text(json.dumps(data))
    sections = {
        "_meta": {"made": "by hand"},
        "genotypes": {"one": data, "_": "by hand"},
        "others": {"deep": {"two": data}},
    }
    (recipe.parent / "many.json").write_text(json.dumps(sections))
    assert plan(recipe, "methods.p={genotype: cell.json}").methods["p"].genotype == data
    for name in ("one", "two"):
        assert plan(recipe, f"methods.p={{genotype: 'many.json#{name}'}}").methods["p"].genotype == data


def printed(data: dict) -> str:
    """A genotype as DARTS's scripts print it."""
    fields = {name: str([tuple(gene) for gene in data[name]]) for name in ("normal", "reduce")}
    fields |= {f"{name}_concat": f"range({min(nodes)}, {max(nodes) + 1})" for name, nodes in concats(data).items()}
    return f"Genotype({', '.join(f'{name}={text}' for name, text in fields.items())})"


def concats(data: dict) -> dict:
    return {name: data[f"{name}_concat"] for name in ("normal", "reduce")}


def test_every_published_cell_is_the_same_stage_in_every_notation(recipe: Path):
    """As a name, a text, a file of one, a script of many, a mapping, and with the cells of it as texts."""
    folder, space = recipe.parent, load(recipe).recipe.search_space.plugin
    cells = {
        name: data
        for name, data in space.published.items()
        if all(c == list(range(c[0], c[-1] + 1)) for c in concats(data).values())
    }
    cells = dict(list(cells.items())[::30])
    assert len(cells) == 3
    (folder / "genotypes.py").write_text(
        "\n".join(f"{name.replace('-', '_')} = {printed(data)}" for name, data in cells.items())
    )
    methods = {}
    for name, data in cells.items():
        (folder / f"{name}.txt").write_text(printed(data))
        texts = {key: str(value) for key, value in data.items()}
        ways = [name, printed(data), f"{name}.txt", f"genotypes.py#{name.replace('-', '_')}", dict(data), texts]
        methods |= {f"{name}.{number}": {"genotype": way} for number, way in enumerate(ways)}
    recipe.write_text(RECIPE.partition("methods:")[0] + json.dumps({"methods": methods})[1:-1])
    found = plan(recipe, "attacks=[]", "train={epochs: 1}", "seeds=[0]")
    for name in cells:
        assert len({found.networks[f"{name}.{number}", Seed(0)] for number in range(6)}) == 1
    again = Path(folder, "again.yaml")
    again.write_text(yaml.safe_dump(resolved(load(recipe))))
    assert make(load(again)).networks == plan(recipe).networks


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("DARTS_V9", "neither a file .* nor a published genotype.*DARTS_V2"),
        ("x" * 300, "neither a file"),
        ("broken.json", "is not JSON"),
        ("broken.py", r"broken\.py:2:14: found 'f\(\.\.\.\)'; lists, pairs"),
        ("two.py", r"two\.py holds several genotypes: A, B; .*two\.py#B would do"),
        ("'two.py#C'", "has no entry 'C'.*it has A, B$"),
        ("large.py", "has 250001 characters"),
        ("{normal: 3}", "normal_concat, reduce, reduce_concat missing"),
        ("'Genotype(normal=f())'", "methods.p.genotype: genotype:1:17: found 'f"),
        ("deep.json", "is not JSON"),
        ("'#5'", "found '#5', and Darts does not list its genotypes"),
        ("{run: ., method: 3}", "found method: 3 beside run; the name of a method of that run would do"),
        ("{run: ., methods: a}", "found methods beside run; run, method and seed would do"),
        ("'two.json#a'", "has 2 entries 'a' that differ"),
        ("'two.json#b'", "has no entry 'b'.*it has a$"),
        ("list.json", "does not hold a genotype"),
        ("'list.json#x'", "no entry|has no entry"),
        ("other.json", "methods.p.genotype"),
    ],
)
def test_a_genotype_that_cannot_be_used_is_a_fault_of_the_recipe(recipe: Path, source: str, text: str):
    (recipe.parent / "broken.json").write_text("{")
    (recipe.parent / "broken.py").write_text("\nX = Genotype(f())")
    (recipe.parent / "two.py").write_text("A = Genotype([], [1])\nB = Genotype([], [2])\n")
    (recipe.parent / "large.py").write_text("#" * 250_001)
    (recipe.parent / "deep.json").write_text("[" * 100_000)
    (recipe.parent / "two.json").write_text('{"s": {"a": {"x": 1}}, "t": {"a": {"x": 2}}}')
    (recipe.parent / "list.json").write_text("[1]")
    (recipe.parent / "other.json").write_text('{"width": 4}')
    with pytest.raises(RecipeError, match=text):
        plan(recipe, f"methods.p={{genotype: {source}}}")


def test_files_of_a_base_lie_beside_it(recipe: Path):
    base = recipe.parent / "sub" / "base.yaml"
    base.parent.mkdir()
    base.write_text(RECIPE.replace("darts: {}", "p: {genotype: g.json}"))
    (base.parent / "g.json").write_text(
        json.dumps(plan(recipe, "methods.p={genotype: DARTS_V2}").methods["p"].genotype)
    )
    recipe.write_text("extends: sub/base.yaml\n")
    assert plan(recipe).methods["p"].genotype is not None
    with pytest.raises(RecipeError, match=r"^--set methods.p.genotype=g.json: methods.p.genotype: found 'g.json'"):
        plan(recipe, "methods.p.genotype=g.json")


def test_a_wrong_genotype_is_reported_with_its_place_and_a_suggestion(recipe: Path):
    recipe.write_text(RECIPE + "# more\n")
    text = recipe.read_text().replace("  darts: {}", "  darts: {}\n  p: {genotype: DARTS_V3}")
    recipe.write_text(text)
    line = text.splitlines().index("  p: {genotype: DARTS_V3}") + 1
    with pytest.raises(RecipeError) as fault:
        plan(recipe)
    assert str(fault.value).startswith(f"{recipe}:{line}:17: methods.p.genotype: found 'DARTS_V3'")
    assert "did you mean 'DARTS_V" in str(fault.value)


BENCH = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|skip_connect~0|none~1|avg_pool_3x3~2|"


def of_bench(recipe: Path, genotype: str) -> MethodPlan:
    space = "search_space={name: nas-bench-201, cells: 1, channels: 2, network_cells: 1, network_channels: 2}"
    return plan(recipe, space, f"methods.p={{genotype: {genotype}}}").methods["p"]


def test_a_cell_of_nas_bench_201_is_the_same_in_every_form(recipe: Path):
    index = ordered().index(BENCH)
    (recipe.parent / "cell.txt").write_text(f"{BENCH}\n")
    (recipe.parent / "cell.json").write_text(json.dumps({"cell": BENCH}))
    (recipe.parent / "several.json").write_text(json.dumps({"good": BENCH, "bad": "|a~0|"}))
    short = BENCH.replace("none~0|", "").replace("none~1|", "")
    ways = [f'"{BENCH}"', f'"{short}"', f'{{cell: "{short}"}}', f'"#{index}"', "cell.txt", "cell.json"]
    found = [of_bench(recipe, way) for way in (*ways, '"several.json#good"')]
    assert [method.genotype for method in found] == [{"cell": BENCH}] * len(found)
    assert [method.genotype_source for method in found] == [
        *["of the recipe"] * 3, f"#{index}", "cell.txt", "cell.json", "several.json#good"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("genotype", "said"),
    [
        ('"|a~0|"', "methods.p.genotype: cell has 1 edges; 6, of three nodes"),
        ('"|a~0|+"', "methods.p.genotype: cell: node 2 is"),
        (
            f'"{BENCH.replace("avg", "max")}"',
            "node 3 has 'max_pool_3x3' from state 2, which is no operation of this space",
        ),
        ('"#15625"', "found '#15625'; an index from #0 to #15624 would do"),
        ('"#best"', "found '#best'; an index"),
        ("ResNets", "did you mean 'ResNet'?"),
        ("{normal: [], reduce: []}", "found normal, reduce; a text of a cell would do"),
    ],
)
def test_what_is_no_cell_of_nas_bench_201_is_told(recipe: Path, genotype: str, said: str):
    with pytest.raises(RecipeError) as fault:
        of_bench(recipe, genotype)
    assert said in str(fault.value).replace("genotype: genotype: ", "genotype: ")


def test_a_cell_of_nas_bench_201_is_none_of_darts(recipe: Path):
    with pytest.raises(RecipeError, match="normal, normal_concat, reduce, reduce_concat missing; found cell"):
        plan(recipe, f'methods.p={{genotype: "{BENCH}"}}')


@pytest.mark.parametrize(
    "where", ["../outside", "search/../../outside", "/etc", "train/m-seed0-0", "search", "", 3, "search/a/b"]
)
def test_another_run_s_layout_leads_to_no_other_files(recipe: Path, tmp_path: Path, where: object):
    """A directory that somebody else made: its layout names folders of its own searches alone."""
    (tmp_path / "run").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "genotype.json").write_text("{}")
    layout = {"methods": {"m": {"0": {"search": where}}}}
    (tmp_path / "run" / "layout.json").write_text(json.dumps(layout))
    with pytest.raises(RecipeError, match=r"layout.json is damaged"):
        plan(recipe, f"methods.p={{genotype: {{run: {tmp_path / 'run'}, method: m}}}}")
