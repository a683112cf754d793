"""The genotype: its plain form, and what it refuses."""

import json
import time
from collections import namedtuple

import pytest
from attrs.exceptions import FrozenInstanceError

from robustnas.errors import InputError
from robustnas.genotype import Genotype, cell_string
from robustnas.genotype.darts_notation import read

CELL = [["sep_conv_3x3", 0], ["skip_connect", 1], ["max_pool_3x3", 2], ["sep_conv_3x3", 0]]
DATA = {"normal": CELL, "normal_concat": [2, 3], "reduce": CELL[::-1][2:], "reduce_concat": [2]}


def changed(**keys):
    return {**DATA, **keys}


def test_plain_data_survives_json_and_back():
    genotype = Genotype.from_data(json.loads(json.dumps(DATA)))
    assert json.loads(json.dumps(genotype.to_data())) == DATA
    assert Genotype.from_data(genotype.to_data()) == genotype
    assert hash(genotype) == hash(Genotype.from_data(DATA))


def test_facts_about_a_cell_are_not_part_of_it():
    assert Genotype.from_data(changed(source={"repo": "somewhere"})).to_data() == DATA


def test_the_reduction_cell_may_be_called_reduction():
    other = {key.replace("reduce", "reduction"): value for key, value in DATA.items()}
    assert "reduction_concat" in other
    assert Genotype.from_data(other).to_data() == DATA


def test_a_cell_that_keeps_every_edge_is_not_taken_for_a_larger_one():
    """CRoZe's form: 14 edges of 4 nodes, whose states would do for 7 nodes of two edges."""
    every = [["sep_conv_3x3", state] for node in range(2, 6) for state in range(node)]
    assert len(every) == 14
    with pytest.raises(InputError, match=r"has all 14 edges of a cell of 4 nodes; two .* would do, or edges: all$"):
        Genotype.from_data(changed(normal=every, normal_concat=[4, 5, 3, 4]))
    seven = Genotype.from_data(changed(normal=every, normal_concat=[6, 7, 8]))
    assert len(seven.normal) == 14
    one = Genotype.from_data(changed(normal=CELL[:2], normal_concat=[2]))
    assert len(one.normal) == 2


def test_all_edges_of_four_nodes_are_a_cell_where_it_says_so():
    every = [["sep_conv_3x3", state] for node in range(2, 6) for state in range(node)]
    data = {"edges": "all", **dict.fromkeys(("normal", "reduce"), every)}
    data |= {"normal_concat": [4, 5, 3, 4], "reduce_concat": [5, 5]}
    dense = Genotype.from_data(data)
    assert dense.to_data() == data
    assert dense.entered(reduction=True) == (2, 2, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 5)
    assert Genotype.from_data(DATA).entered(reduction=False) == (2, 2, 3, 3)
    with pytest.raises(InputError, match="reduce has edges from the states"):
        Genotype.from_data({**data, "reduce": CELL})
    with pytest.raises(InputError, match="edges is 'two'; all would do"):
        Genotype.from_data({**data, "edges": "two"})
    with pytest.raises(InputError, match="normal_concat holds 6; the nodes of this cell are 2 to 5"):
        Genotype.from_data({**data, "normal_concat": [6]})


def test_cell_gives_edges_and_output():
    genotype = Genotype.from_data(DATA)
    assert genotype.cell(reduction=False) == (tuple(map(tuple, CELL)), (2, 3))
    assert genotype.cell(reduction=True) == ((("skip_connect", 1), ("sep_conv_3x3", 0)), (2,))


def test_a_genotype_does_not_change():
    with pytest.raises(FrozenInstanceError):
        Genotype.from_data(DATA).normal = ()  # type: ignore[misc]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (None, "found NoneType; a mapping"),
        ([], "found list; a mapping"),
        ({}, "normal, normal_concat, reduce, reduce_concat missing; found nothing"),
        ({k: v for k, v in DATA.items() if k != "reduce"}, "reduce missing; found normal"),
        (changed(normal="DARTS_V2"), "normal:1:1: found 'DARTS_V2'; lists, pairs"),
        (changed(normal="z" * 10**6), "normal has 1000000 characters; a genotype in at most 250000"),
        (changed(normal=7), "normal is 7; a list of"),
        ({"k" * 10**6: 1}, "missing; found k{30}$"),
        (changed(normal=[]), "normal has 0 edges; two a node"),
        (changed(normal=CELL[:3]), "normal has 3 edges; two a node"),
        (changed(normal=[["a", 0], ["b"]]), r"normal\[1\] is \['b'\]; a pair"),
        (changed(normal=[["a", 0], "b1"]), r"normal\[1\] is 'b1'; a pair"),
        (changed(normal=[[3, 0], ["b", 1]]), r"normal\[0\]: the operation is 3; the name"),
        (
            changed(normal=[["a", 0], ["b", 2]]),
            r"normal\[1\]: node 2 reads state 2; a whole number from 0 to 1",
        ),
        (changed(reduce=[["a", 0], ["b", -1]]), r"reduce\[1\]: node 2 reads state -1"),
        (changed(reduce=[["a", 0], ["b", 1.0]]), r"reduce\[1\]: node 2 reads state 1.0"),
        (changed(reduce=[["a", 0], ["b", True]]), r"reduce\[1\]: node 2 reads state True"),
        (changed(normal_concat=[]), r"normal_concat is \[\]; a list of nodes, 2 to 3"),
        (changed(normal_concat=2), "normal_concat is 2; a list of nodes"),
        (changed(normal_concat=[1, 2]), "normal_concat holds 1; the nodes of this cell are 2 to 3"),
        (changed(reduce_concat=[2, 3]), "reduce_concat holds 3; the nodes of this cell are 2 to 2"),
        (changed(reduce_concat=["2"]), "reduce_concat holds '2'"),
    ],
)
def test_what_is_no_genotype_is_refused(data, said):
    with pytest.raises(InputError, match=said):
        Genotype.from_data(data)


def test_construction_checks_as_well():
    good = Genotype.from_data(DATA)
    with pytest.raises(InputError, match="reads state 5"):
        Genotype((("a", 0), ("b", 5)), (2,), good.reduce, good.reduce_concat)
    with pytest.raises(InputError, match="normal_concat holds 4"):
        Genotype(good.normal, (4,), good.reduce, good.reduce_concat)
    with pytest.raises(InputError, match="reduce_concat holds 4"):
        Genotype(good.normal, good.normal_concat, good.reduce, (4,))


# --- DARTS's notation -------------------------------------------------------------------------------------------------

PAIRS = {name: [tuple(gene) for gene in DATA[name]] for name in ("normal", "reduce")}
Darts = namedtuple("Genotype", ["normal", "normal_concat", "reduce", "reduce_concat"])
PRINTED = str(Darts(PAIRS["normal"], range(2, 4), PAIRS["reduce"], [2]))


@pytest.mark.parametrize(
    "written",
    [
        PRINTED,
        f"  X = genotypes.{PRINTED}\n",
        PRINTED.replace("range(2, 4)", "list(range(2, 4))"),
        PRINTED.replace("range(2, 4)", "range(4)[2:]").replace("range(4)[2:]", "(2, 3)"),
        PRINTED.replace(", ", ",\n  # of node\n  "),
        f"Genotype({PAIRS['normal']}, range(2, 4), {PAIRS['reduce']}, reduce_concat=[2])",
        str({**PAIRS, "normal_concat": [2, 3], "reduce_concat": (2,)}),
        Darts(PAIRS["normal"], range(2, 4), PAIRS["reduce"], [2]),
        {**PAIRS, "normal_concat": range(2, 4), "reduce_concat": "range(2, 3)"},
        {
            "normal": str(PAIRS["normal"]),
            "normal_concat": "[2, 3]",
            "reduction": CELL[::-1][2:],
            "reduction_concat": [2],
        },
    ],
)
def test_a_cell_is_the_same_in_every_notation(written):
    assert Genotype.from_data(written).to_data() == DATA


def test_a_script_of_several_has_them_by_name():
    script = f"""
from collections import namedtuple
Genotype = namedtuple('Genotype', 'normal normal_concat reduce reduce_concat')
PRIMITIVES = ['none', 'skip_connect']
ONE = {PRINTED}
TWO: Genotype = {PRINTED.replace("sep_conv_3x3", "dil_conv_3x3")}
LAST = ONE
print(open('somewhere'))
"""
    found = read(script, "s.py")
    assert list(found) == ["ONE", "TWO", "LAST"]
    assert Genotype.from_data(found["LAST"]).to_data() == DATA
    with pytest.raises(InputError, match="genotype holds several genotypes: ONE, TWO, LAST; genotype#LAST would do"):
        Genotype.from_data(script)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("", "genotype holds no genotype"),
        ("Genotype(normal=[('a', 0), ('b', 1)]", r"genotype:1:9: '\(' was never closed"),
        ("Genotype(\n  normal=__import__('os').system('true'))", r"genotype:2:10: found 'system\(\.\.\.\)'; lists"),
        ("Genotype(normal=[x for x in y])", r"genotype:1:17: found \"Python's ListComp\""),
        ("Genotype(normal=range(2, 10**9))", "genotype:1:26: found .*BinOp"),
        ("Genotype(normal=range(2, 1000000000))", r"genotype:1:17: found 'range\(\.\.\.\)'; a range of at most 10000"),
        ("Genotype(normal=range(0, 9, 0))", "a range of at most"),
        ("Genotype(normal=range(True))", "found True; a whole number"),
        ("Genotype(1, 2, 3, 4, 5)", "genotype:1:22: found 5; normal, normal_concat, reduce, reduce_concat are all"),
        ("Genotype(1, normal=2)", "genotype:1:20: found 2; each of normal,"),
        ("Genotype(normal=[])", "normal_concat, reduce, reduce_concat missing"),
        ("Genotype(normal=" + "(" * 1000 + ")", "too many nested parentheses"),
        ("Genotype(normal=" + "-" * 100_000 + "1)", "cannot be read as Python"),
        ("Genotype(normal=" + "9" * 5000 + ")", "genotype:1:1: Exceeds the limit$"),
        ("Genotype(normal='\0')", "null bytes"),
        (Darts(PAIRS["normal"], range(2, 10**9), PAIRS["reduce"], [2]), "normal_concat has 999999998 nodes; at most"),
    ],
)
def test_what_the_notation_does_not_have_is_refused_in_its_place(written, said):
    started = time.process_time()
    with pytest.raises(InputError, match=said):
        Genotype.from_data(written)
    assert time.process_time() - started < 1


class TestCellString:
    TEXT = "|a~0|+|none~0|b~1|+|a~0|none~1|none~2|"

    def test_it_is_read_and_written(self):
        assert cell_string.read(self.TEXT) == ("a", "none", "b", "a", "none", "none")
        assert cell_string.write(cell_string.read(self.TEXT)) == self.TEXT

    @pytest.mark.parametrize("text", ["|a~0|+|b~1|+|a~0|", " |a~0| +\n|b~1|none~0|+ |none~2|a~0|\n"])
    def test_one_cell_has_one_form(self, text):
        expected = {"cell": self.TEXT, "source": "here"}
        assert cell_string.plain(text) == {"cell": self.TEXT}
        assert cell_string.plain({"cell": text, "source": "here"}) == expected
        assert cell_string.is_cell(text)

    @pytest.mark.parametrize("data", ["DARTS_V2", "a|b", "genotypes.json#a~0", {"cell": 3}, {"normal": []}, 5, None])
    def test_anything_else_is_left_as_it_is(self, data):
        assert cell_string.plain(data) == data

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("", "node 1 is ''; edges like"),
            ("||", "node 1 is '..'; edges"),
            ("|a~0|+", "node 2 is ''"),
            ("|a~0", "node 1 is '.a~0'"),
            ("|a~0|b~0|", "node 1 has two edges from state 0; one would do"),
            ("|a~1|", "node 1 has the edge 'a~1'; operation~state, the states 0 to 0, would do"),
            ("|a~0|+|~1|", "node 2 has the edge '~1'"),
            ("|a~0|+|a~²|", "node 2 has the edge"),
            ("|a~0|+|a|", "node 2 has the edge 'a'"),
            ("|a~0|" * 1000, "5000 characters; at most 1000 would do"),
        ],
    )
    def test_what_the_notation_does_not_have_is_refused_in_its_place(self, text, said):
        with pytest.raises(InputError, match=f"genotype: cell.*{said}"):
            cell_string.read(text)
