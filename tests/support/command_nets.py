"""Networks made elsewhere, their weights, and commands that evaluate them: what each left in a run directory."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from contextlib import chdir, contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import nn

from robustnas.cli import main
from support.evaluated_digits import SOURCE, trained, weights

MODULE = "command_nets"

TWO_CLASSES = """

def two():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
"""

EVALUATE = [
    "evaluate", "--network", f"{MODULE}:make", "--weights", "weights.pt", "--dataset", "digits", "--epsilon", "0.06",
    "--attack", "fgsm", "--attack", "{name: pgd, steps: 5, step_size: 0.02}", "--images", "64",
    "--certify", "crown-ibp", "--device", "cpu", "--out", "run",
]  # fmt: skip

COMPARED = f"""\
dataset: digits
search_space: {{name: darts, cells: 1, channels: 2, network_cells: 1, network_channels: 4}}
threat: {{norm: linf, epsilon: 0.02}}
methods:
  theirs: {{network: "{MODULE}:make", weights: weights.pt}}
  likely: {{network: "{MODULE}:likely", weights: soft.pt}}
  ours: {{genotype: DARTS_V2}}
train: {{epochs: 4, batch: 100, lr: 0.1, cutout: 0, auxiliary: 0, drop_path: 0}}
attacks:
  - {{name: autoattack, steps: 5, queries: 20, label: autoattack}}
  - {{name: transfer, steps: 4, step_size: 0.03, label: transfer}}
  - fgsm
evaluate: {{images: 33}}
certify: {{method: ibp, norms: [linf]}}
smoothing: {{sigma: 0.1, selection: 10, samples: 100, alpha: 0.01, radii: [0.1, 0.2], images: 20}}
"""


@contextmanager
def home(folder: Path) -> Iterator[Path]:
    """The folder as working directory, with their module and weights; afterwards the module is forgotten."""
    (folder / f"{MODULE}.py").write_text(SOURCE + TWO_CLASSES)
    torch.save(weights(), folder / "weights.pt")
    torch.save(nn.Sequential(*trained(), nn.Softmax(1)).state_dict(), folder / "soft.pt")
    torch.save(nn.Linear(3, 3).state_dict(), folder / "other.pt")
    with chdir(folder):
        yield folder
    sys.modules.pop(MODULE, None)


def told(arguments: list[str], status: int = 0) -> str:
    """What a command prints that ends with an exit status."""
    out = io.StringIO()
    with redirect_stdout(out):
        assert main(arguments) == status
    return out.getvalue()


def table(run: str) -> dict[str, dict[str, Any]]:
    """The rows of a run's table by method."""
    return {row["method"]: row for row in json.loads(Path(run, "table.json").read_text())["rows"]}


def contents(run: str) -> dict[str, bytes]:
    """Every file of a run directory, byte by byte, but for who is at work."""
    files = [file for file in Path(run).rglob("*") if file.is_file() and ".work" not in file.parts]
    return {str(file.relative_to(run)): file.read_bytes() for file in files}


def stages(run: str) -> dict[str, int]:
    """When each stage of a run directory was finished."""
    return {str(file.relative_to(run)): file.stat().st_mtime_ns for file in Path(run).glob("*/*/result.json")}


def result(run: str, kind: str, method: str) -> dict[str, Any]:
    """What the one stage of a kind and method wrote."""
    (file,) = Path(run).glob(f"{kind}/{method}-seed0-*/result.json")
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def mean(figure: dict[str, Any]) -> float:
    return float(figure["mean"])
