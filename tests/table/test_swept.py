"""What a sweep measured: a record a row and key, and the line of the method it is on."""

from __future__ import annotations

from pathlib import Path

from robustnas.run import layout
from robustnas.run.directory import RunDirectory
from robustnas.table import results
from robustnas.table.swept import swept
from support.finished_run import results as written
from support.finished_run import run, table


def test_a_record_has_a_key_its_value_and_the_line_it_is_on():
    made = {
        "a_gamma_0.1_epochs_2": {"of": "a", "search.gamma": 0.1, "train.epochs": 2},
        "a_epsilon_8-255": {"of": "a", "metric.epsilon": "8/255"},
        "b_gamma_balance-1": {"of": "b", "search.gamma": {"balance": 1}},
    }
    rows = [{"method": name, "clean": {"mean": 0.5}, "robust": None} for name in ("plain", *made)]
    found = [(one["method"], one["key"], one["value"], one["text"]) for one in swept(made, rows)]
    assert found == [
        ("a (train.epochs 2)", "search.gamma", 0.1, "0.1"),
        ("a (search.gamma 0.1)", "train.epochs", 2, "2"),
        ("a", "metric.epsilon", 8 / 255, "8/255"),
        ("b", "search.gamma", {"balance": 1}, "{balance: 1}"),
    ]
    assert all(
        (one["clean"], one["robust"], one["certified"]) == ({"mean": 0.5}, None, None) for one in swept(made, rows)
    )


def test_a_run_keeps_what_was_swept_and_shares_what_is_done(finished_copy: Path):
    before, done = table(finished_copy)["rows"], written(finished_copy)
    assert run(finished_copy, "--quiet", "--set", "sweep={methods: [jac], search.batch: [200]}") == 0
    assert written(finished_copy) == done, "a row with the recipe's own value is the recipe's own row"
    directory = RunDirectory(finished_copy / "run")
    made = layout.read(directory).swept
    assert made == {"jac_batch_200": {"of": "jac", "search.batch": 200}}
    (record,) = swept(made, results.comparison(directory).rows)
    assert (record["method"], record["value"]) == ("jac", 200)
    assert record["robust"] == before[1]["robust"]
    again = finished_copy / "run" / "recipe.yaml"
    assert "swept:" in again.read_text()
