"""The page of a run: it loads nothing, says what the run holds, and shows other people's texts as they are."""

from __future__ import annotations

import json
import re
import shutil
import sys
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

import robustnas
from robustnas.attack import examples
from robustnas.cli import main
from robustnas.run.directory import RunDirectory
from robustnas.runtime.artifacts import digests
from robustnas.table.report import page, sections
from robustnas.table.report.contents import Contents
from robustnas.table.several import joined
from robustnas_plugins.datasets.digits import Digits

VOID = {"meta", "path", "rect", "image", "circle", "br"}


class Reader(HTMLParser):
    """Reads a page, and notes its elements; every one of them is closed."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.found if name == tag]


def written(run: Path, out: Path | None = None) -> str:
    """The page of a run, as the command writes it."""
    assert main(["report", str(run), *(["--out", str(out)] if out else [])]) == 0
    return ((out or run / "report") / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def text(finished_run: Path) -> str:
    return page.page([Contents.of(robustnas.open(finished_run / "run"))])


def test_the_page_loads_nothing_and_runs_nothing(text):
    read = Reader(text)
    assert not {"script", "link", "iframe", "img", "object", "video", "base", "form"} & {tag for tag, _ in read.found}
    targets = [
        value for _, attrs in read.found for name, value in attrs.items() if name in ("href", "src", "xlink:href")
    ]
    assert len(targets) > 8
    assert all(target.startswith(("#", "data:image/png;base64,")) for target in targets)
    assert "url(" not in text
    assert "@import" not in text
    assert {"http-equiv": "Content-Security-Policy", "content": page.POLICY} in read.all("meta")


def test_links_lead_somewhere_and_identifiers_are_unique(text):
    read = Reader(text)
    identifiers = [attrs["id"] for _, attrs in read.found if "id" in attrs]
    assert len(set(identifiers)) == len(identifiers) > 20
    assert {attrs["href"][1:] for attrs in read.all("a")} <= set(identifiers)


def test_every_drawing_has_a_text_alternative(text):
    drawings = re.findall(r"<svg .*?</svg>", text, re.DOTALL)
    assert len(drawings) > 15
    for drawn in drawings:
        assert 'role="img"' in drawn
        assert re.search(r"<title[^>]*>[^<]+</title>", drawn)
        assert re.search(r"<desc[^>]*>[^<]+</desc>", drawn)


def test_it_shows_what_the_run_holds(finished_run, text):
    run = robustnas.open(finished_run / "run")
    table = run.table
    for line in table.body:
        for cell, _ in line:
            assert cell.split()[0] in unescape(text)
    for note in table.notes:
        assert f"<li>{note}</li>" in unescape(text), note
    assert unescape(text).count((run.path / "recipe.yaml").read_text()) == 1
    titles = ("Robust accuracy over epsilon", "Certified accuracy over epsilon", "Clean against robust accuracy",
              "Loss of the inner level", "Loss of the outer level", "Entropy of alpha", "Score: jacobian",
              "Gradient balance: jacobian", "Mixing weights of jac: normal")  # fmt: skip
    for title in titles:
        assert f"<figcaption>{title}</figcaption>" in text
    assert "max_pool_3x3" in text  # the names of operations, on the maps of alpha
    assert text.count("<figcaption>normal</figcaption>") == text.count("<figcaption>reduction</figcaption>") == 2
    assert f"robustnas run {run.path / 'recipe.yaml'} --out {run.path}-again" in text
    assert f'<th scope="row">torch</th><td>{torch.__version__}</td>' in text


def test_it_shows_what_made_the_run(finished_run, text):
    entry = json.loads((finished_run / "run" / "provenance.json").read_text())[0]
    rows = dict(re.findall(r'<tr><th scope="row">(\w+)</th><td>([^<]*)</td></tr>', text))
    assert {key: unescape(rows[key]) for key in ("command", "processor", "python")} == {
        key: entry[key] for key in ("command", "processor", "python")
    }
    assert rows["scipy"] == entry["packages"]["scipy"]
    assert "packages" not in rows


def test_the_curve_has_the_figures_of_the_table(finished_run):
    contents = Contents.of(robustnas.open(finished_run / "run"))
    data = json.loads((finished_run / "run" / "table.json").read_text())
    robust, certified, *_, trade = contents.accuracy
    for row, series, at in zip(data["rows"], robust.series, certified.series, strict=True):
        assert series.name == row["method"]
        assert series.points == [(0.0, 100 * row["clean"]["mean"]), (0.02, 100 * row["robust"]["mean"])]
        for epsilon, figure in row["certified_at"].items():
            *_, (_, up) = [point for point in at.points if point[0] < float(epsilon)]
            assert up == pytest.approx(100 * figure["mean"])
    assert [series.name for series in trade.series if not series.joined] == [row["method"] for row in data["rows"]]


def test_examples_are_the_first_images_that_the_attack_broke(finished_run):
    run = robustnas.open(finished_run / "run")
    test, looked = Digits().split("test"), 0
    for method in run.methods:
        for label, epsilon in (("fgsm", 0.02), ("pgd-3", 0.02)):
            (folder,) = (run.path / "attack").glob(f"{method}-seed0-{label}-*")
            found = run.records(method, attack=label)
            broken = found["index"][found["success"] & (found["epsilon"] == epsilon)]
            kept = examples.load(run.directory.at(f"attack/{folder.name}"))
            assert [one.index for one in kept] == sorted(broken.tolist())[: examples.MOST]
            for one in kept:
                row = int((found["index"] == one.index).argmax())
                assert (one.label, one.answer) == (found["label"][row], found["prediction"][row])
                assert (one.clean == test.take(torch.tensor([one.index]))[0].numpy()).all()
                assert 0 < abs(one.perturbed - one.clean).max() <= epsilon + 1e-6
                looked += 1
    assert looked > 0


def test_the_same_run_gives_the_same_page(finished_copy):
    first = written(finished_copy / "run")
    assert written(finished_copy / "run") == first  # a report in the run directory is no part of the run


def test_texts_of_other_people_are_shown_and_do_nothing(finished_copy):
    run = RunDirectory(finished_copy / "run")
    evil = "<script>alert(1)</script>\u202e"
    layout = run.read_json("layout.json")
    layout["notes"].append(evil)
    layout["attacks"][0]["label"] = evil
    for seeds in layout["methods"].values():
        for stages in seeds.values():
            stages["attacks"] = {
                evil if label == "fgsm" else label: where for label, where in stages["attacks"].items()
            }
    run.write_json("layout.json", layout)
    recipe = (run.path / "recipe.yaml").read_text()
    run.write_text("recipe.yaml", f"# </pre>{evil}\n{recipe}")
    shown = written(run.path)
    assert not Reader(shown).all("script")
    assert shown.count("&lt;script&gt;alert(1)&lt;/script&gt;\\u202e") > 3


def test_a_run_half_finished_shows_what_is_there(finished_copy):
    run = finished_copy / "run"
    shutil.rmtree(run / "attack")
    (clean,) = (run / "clean").glob("jac-*")
    shutil.rmtree(clean)
    shown = written(run)
    assert "without a result, as they failed or have not run" in shown
    assert shown.count("No attack of this method is done yet.") == 2
    assert "Certified accuracy over epsilon" in shown
    for kind in ("search", "train", "certify", "clean", "probe"):
        shutil.rmtree(run / kind)
    shown = written(run)
    assert shown.count("No search of this method is done yet.") == 2
    assert shown.count("Nothing of this was measured yet.") == 2
    assert "No search of this run has moved alpha yet." in shown


def test_an_attack_of_an_older_version_kept_no_images(finished_copy):
    for folder in (finished_copy / "run" / "attack").iterdir():
        (folder / "examples.npz").unlink()
        register = folder / "digests.json"
        kept = digests.read(register)
        digests.write(register, digests.Digests(kept.of, {k: v for k, v in kept.files.items() if k != "examples.npz"}))
    assert written(finished_copy / "run").count("was run by a version that kept no images") == 2


def test_damage_ends_as_the_table_does(finished_copy, capsys):
    run = finished_copy / "run"
    (file,) = (run / "certify").glob("jac-*/result.json")
    file.write_text(file.read_text().replace("true", "false", 1))
    answers = []
    for command in ("report", "table"):
        assert main([command, str(run)]) == 2
        answers.append(capsys.readouterr().err)
    assert answers[0] == answers[1]
    assert "is not what was written" in answers[0]
    assert not (run / "report").exists()


def test_a_folder_that_cannot_be_written_names_the_option(finished_copy, capsys):
    run = finished_copy / "run"
    (run / "report").write_text("a file")
    assert main(["report", str(run)]) == 2
    assert "cannot be written" in (told := capsys.readouterr().err)
    assert "--out FOLDER" in told
    (run / "report").unlink()
    (run / "report").symlink_to(finished_copy)
    assert main(["report", str(run)]) == 2
    assert "nothing of a run directory is opened through a link" in capsys.readouterr().err
    assert not (finished_copy / "report.html").exists()
    assert "<h1>" in written(run, out=finished_copy / "new" / "folder")


def test_several_runs_have_a_table_together_and_sections_each(finished_copy, capsys):
    run = finished_copy / "run"
    other = Path(shutil.copytree(run, finished_copy / "other"))
    alike = sections.of_runs(joined(run, other)).body
    assert "several runs: each method is compared with those of all of them" in alike
    assert "<figcaption>Clean against robust accuracy</figcaption>" in alike
    assert "jac of other: " in alike
    text = (other / "recipe.yaml").read_text()
    RunDirectory(other).write_text("recipe.yaml", text.replace("images: 40", "images: 50"))
    asked = ["report", str(run), str(other), "--out", str(finished_copy / "both")]
    assert main(asked) == 2
    assert "evaluate.images: 40 in run; 50 in other" in capsys.readouterr().err
    assert main([*asked, "--force"]) == 0
    read = Reader(shown := (finished_copy / "both" / "report.html").read_text())
    identifiers = [attrs["id"] for _, attrs in read.found if "id" in attrs]
    assert len(set(identifiers)) == len(identifiers)
    assert {"runs", "run-1", "run-2", "table-1", "table-2"} <= set(identifiers)
    assert "several runs that differ: nothing is marked as best" in shown
    assert shown.count("<figcaption>Clean against robust accuracy</figcaption>") == 2  # of each run, not of both


def test_charts_as_files_need_the_extra(finished_copy, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["report", str(finished_copy / "run"), "--figures", "pdf"]) == 2
    assert "pip install 'robustnas[plots]'" in capsys.readouterr().err
    assert not (finished_copy / "run" / "report").exists()


def test_runs_that_are_none_are_refused(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert "is not a run directory" in capsys.readouterr().err
