"""Drawn cells: every edge is there with its operation, nothing overlaps, and what cannot be drawn is refused."""

from __future__ import annotations

import random
import re
import xml.etree.ElementTree as ET
from collections import Counter
from itertools import combinations
from typing import Any

import pytest

from robustnas.errors import InputError
from robustnas.genotype import Genotype, drawing
from robustnas.genotype.cell_graph import graphs
from robustnas_plugins.search_spaces.published import cells as published

RESNET = "|nor_conv_3x3~0|+|none~0|nor_conv_3x3~1|+|skip_connect~0|none~1|skip_connect~2|"
OPS = ("sep_conv_3x3", "skip_connect", "max_pool_3x3", "dil_conv_5x5", "none")
SVG = "{http://www.w3.org/2000/svg}"


def drawn_at_random(seed: int) -> dict[str, Any]:
    """A genotype of up to seven nodes, where an operation may be absent and a node may read one state twice."""
    draw = random.Random(seed)

    def cell(nodes: int) -> tuple[list[list[Any]], list[int]]:
        genes = [[draw.choice(OPS), draw.randrange(index // 2 + 2)] for index in range(2 * nodes)]
        return genes, draw.sample(range(2, nodes + 2), draw.randint(1, nodes))

    (normal, normal_concat), (reduce, reduce_concat) = cell(draw.randint(1, 7)), cell(draw.randint(1, 7))
    return {"normal": normal, "normal_concat": normal_concat, "reduce": reduce, "reduce_concat": reduce_concat}


CODES = {"codes": [["11", "00", "01", "10", "11"], ["01"] * 14]}
MANY = [*list(published().values())[::4], RESNET, CODES, *map(drawn_at_random, range(4)), "|none~0|", "|a~0|+|b~0|c~1|"]


def boxes(element: ET.Element) -> list[tuple[float, float, float, float]]:
    """Left, top, right and bottom of every box."""
    found = [[float(one.attrib[key]) for key in ("x", "y", "width", "height")] for one in element.iter(f"{SVG}rect")]
    return [(x, y, x + width, y + height) for x, y, width, height in found]


def pieces(path: str) -> list[tuple[bool, float, float, float]]:
    """The pieces of a line: whether it is level, where it begins and ends, and at which height it begins."""
    found, x, y = [], 0.0, 0.0
    for kind, numbers in re.findall("([MHC])([^MHC]*)", path):
        values = [float(number) for number in numbers.split()]
        if kind != "M":
            found.append((kind == "H", x, values[-2] if kind == "C" else values[0], y))
        x, y = (values[0], y) if kind == "H" else (values[-2], values[-1])
    return found


def test_nothing_overlaps():
    walked = 0
    for genotype in MANY:
        for cell in drawing.cells(genotype):
            element = ET.fromstring(drawing.svg(genotype, cell))
            there = boxes(element)
            for (left, top, right, bottom), (left2, top2, right2, bottom2) in combinations(there, 2):
                assert right <= left2 or right2 <= left or bottom <= top2 or bottom2 <= top
            width, height = [float(element.attrib[key]) - 2 * drawing.MARGIN for key in ("width", "height")]
            assert [box for box in there if min(box) < 0 or box[2] > width + 0.6 or box[3] > height + 0.6] == []
            for line in element.iter(f"{SVG}path"):
                for level, begins, ends, y in pieces(line.attrib["d"]) if "stroke" in line.attrib else ():
                    for left, top, right, bottom in there:
                        beside = ends <= left + 0.1 or right - 0.1 <= begins
                        assert beside or (level and not top < y < bottom)
                        walked += 1
    assert walked > 3_000


def test_every_edge_has_its_operation_as_a_label():
    for genotype in MANY:
        for cell, graph in graphs(genotype).items():
            element = ET.fromstring(drawing.svg(genotype, cell))
            words = Counter("".join(one.itertext()) for one in element.iter(f"{SVG}text"))
            states = Counter(re.sub("[_{}]", "", name) for name in graph.states)
            assert words == Counter(op for _, _, op in graph.edges if op) + states


def test_the_text_alternative_says_what_is_drawn():
    element = ET.fromstring(drawing.svg(published()["DARTS_V2"], "reduction"))
    assert element.attrib["role"] == "img"
    assert [one.tag for one in element][:2] == [f"{SVG}title", f"{SVG}desc"]
    assert element[0].text == "reduction cell"
    assert "3 = skip_connect(2) + max_pool_3x3(c_{k-1})" in str(element[1].text)
    assert "c_{k} = concatenation(2, 3, 4, 5)" in str(element[1].text)
    resnet = ET.fromstring(drawing.svg(RESNET))
    assert str(resnet[1].text).endswith(
        "output = skip_connect(input) + skip_connect(2); 2 edges have no operation (none)"
    )


def test_what_stands_in_a_page_takes_its_colours_and_changes_nothing_of_it():
    inline = drawing.svg(published()["DARTS_V1"])
    assert not re.search(r"<style|\bid=|<script|href", inline)
    assert [one.text for one in ET.fromstring(inline).findall(f"{SVG}text")] == ["normal cell", "reduction cell"]
    lines = [one for one in ET.fromstring(inline).iter(f"{SVG}path") if "stroke" in one.attrib]
    assert {one.attrib["stroke"] for one in lines} == {"currentColor"}


def test_a_file_has_all_cells_below_their_names_on_light_and_dark():
    file = drawing.svg_file({"<first>": published()["DARTS_V1"], "second": RESNET})
    assert "prefers-color-scheme: dark" in file
    element = ET.fromstring(file)
    assert element[0].text == "Cells of <first>, second"
    heads = ["<first>: normal cell", "<first>: reduction cell", "second: cell"]
    assert [one.text for one in element.findall(f"{SVG}text")] == heads
    tops = [float(one.attrib["y"]) for one in element.findall(f"{SVG}svg")]
    ends = [top + float(one.attrib["height"]) for top, one in zip(tops, element.findall(f"{SVG}svg"), strict=True)]
    assert all(end <= top for end, top in zip(ends, [*tops[1:], float(element.attrib["height"])], strict=True))


def test_operations_with_the_names_of_strangers_are_text():
    genotype = f"|<script>&\"'~0|+|\x1b[31m~0|{'long' * 50}~1|"
    drawn = drawing.svg(genotype)
    words = ["".join(one.itertext()) for one in ET.fromstring(drawn).iter(f"{SVG}text")]
    assert "<script>&\"'" in words
    assert "\\x1b[31m" in words
    assert max(map(len, words)) == drawing.LONGEST
    assert "long" * 50 in drawn
    assert "\x1b" not in drawing.text(genotype) + drawn


def test_lines_of_a_terminal_lead_from_state_to_state():
    for genotype in MANY:
        for graph, part in zip(graphs(genotype).values(), drawing.text(genotype).split("\n\n"), strict=True):
            names, *lines = part.rstrip("\n").split("\n")[1:]
            starts = {match.start() + len(match[0]) // 2: match[0] for match in re.finditer(r"\S+", names)}
            found = []
            for line in lines:
                if "●" in line:
                    op, source, target = line.split()[0], line.index("●"), line.index("▶") + 1
                    found.append((graph.states.index(starts[source]), graph.states.index(starts[target]), op))
                    assert set(line[source + 1 : target - 1]) <= set("─┼")
            assert found == [edge for edge in graph.edges if edge[2]]
            assert max(map(len, [names, *lines])) <= drawing.COLUMNS


def test_a_terminal_without_these_characters_gets_others():
    plain = drawing.text(RESNET, plain=True)
    assert plain.isascii()
    assert "nor_conv_3x3    o--->|\n" in plain


def test_a_cell_too_wide_for_the_terminal_is_formulas():
    genes = [["sep_conv_3x3", index // 2] for index in range(40)]
    wide = {"normal": genes, "normal_concat": [21], "reduce": genes[:2], "reduce_concat": [2]}
    normal, reduction = drawing.text(wide).split("\n\n")
    assert "  21 = sep_conv_3x3(19) + sep_conv_3x3(19)\n" in normal
    assert "●" not in normal
    assert "●" in reduction


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(InputError, match="the genotype has no cell 'cell'; it has normal, reduction"):
        drawing.svg(published()["DARTS_V1"], "cell")
    with pytest.raises(InputError, match="found blocks, which cannot be drawn; cells of the DARTS family"):
        drawing.text({"blocks": [{"kernel": 3}]})
    for other in ({"layers": [3, 5]}, "", {"cell": "conv"}):
        with pytest.raises(InputError, match="genotype: "):
            drawing.cells(other)
    assert drawing.cells(Genotype.from_data(published()["DARTS_V1"])) == ("normal", "reduction")
