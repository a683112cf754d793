"""Least margins of a tiny network, proved by Marabou, a complete verifier that shares no code with this package.

    python tests/evidence/golden/marabou.py MARABOU > tests/evidence/golden/marabou.json

MARABOU is the program of `pip install maraboupy==2.0.0`.  It is given the files that `robustnas.export` writes.  For
an image and an epsilon it is asked whether the margin of some admissible image is as small as a number.  Bisection
encloses the least margin: it was proved to be more than `above`; an image at or below `below` was found, and run
through torch.

Marabou 2.0.0 computes another function where a sum is followed by a convolution and a linear layer without a
nonlinearity between them: a bias is lost.  The network here has no such place, and every image found is asserted to
have the same logits in torch.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

UNIT = 16
"""Weights and pixels are whole multiples of 1 / UNIT: exact in every number format."""
EPSILONS = (1 / 16, 1 / 8)
WIDTH = 2.0**-8
"""At which the bisection of an offset ends, logits; a question that takes longer than SECONDS ends it too."""
SECONDS = 40
SLACK = 1e-5
"""Marabou counts a constraint as kept within 1e-6 or so, and prints six decimals: margins are this vague."""


class Tiny(nn.Module):
    """Two convolutions, the second one with a way round it, and a linear layer: 1x4x4 -> 3."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 2, 3, padding=1)
        self.second = nn.Conv2d(2, 2, 3, padding=1)
        self.classifier = nn.Linear(32, 3)

    def forward(self, images: Tensor) -> Tensor:
        state = torch.relu(self.first(images))
        state = torch.relu(self.second(state)) + state
        logits: Tensor = self.classifier(state.flatten(1))
        return logits


def network(golden: dict[str, Any], dtype: torch.dtype = torch.float32) -> Tiny:
    """The network of the golden file, in eval mode."""
    tiny = Tiny()
    with torch.no_grad():
        for name, parameter in tiny.named_parameters():
            parameter.copy_(torch.tensor(golden["weights"][name]).reshape(parameter.shape) / UNIT)
    return tiny.to(dtype).eval()


def images(golden: dict[str, Any], dtype: torch.dtype = torch.float32) -> Tensor:
    """Its images, (N, 1, 4, 4)."""
    return torch.tensor(golden["images"], dtype=dtype).reshape(-1, 1, 4, 4) / UNIT


def _drawn() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)

    def whole(low: int, high: int, *shape: int) -> list[int]:
        return torch.randint(low, high + 1, shape, generator=generator).flatten().tolist()

    return {
        "weights": {name: whole(-8, 8, *p.shape) for name, p in Tiny().named_parameters()},
        "images": [whole(0, UNIT, 16) for _ in range(6)],
    }


def _ask(program: str, folder: Path, tiny: Tiny, image: Tensor, label: int, epsilon: float) -> bool | None:
    """Whether Marabou proves that no admissible image has another logit at or above the label's; None: too hard.

    A counterexample counts when torch confirms it.
    """
    from robustnas.export import box, onnx_file, vnnlib

    (folder / "n.onnx").write_bytes(onnx_file.encode(tiny, image))
    (folder / "p.vnnlib").write_text(vnnlib.version_1(box.around(image, epsilon), label, 3))
    command = [program, str(folder / "n.onnx"), str(folder / "p.vnnlib"), "--timeout", str(SECONDS)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (verdict,) = re.findall(r"^(sat|unsat|TIMEOUT)$", told, re.MULTILINE)
    if verdict == "sat":
        point = torch.tensor([float(value) for value in re.findall(r"^\s*x\d+ = (\S+)$", told, re.MULTILINE)])
        logits = torch.tensor([float(value) for value in re.findall(r"^\s*y\d+ = (\S+)$", told, re.MULTILINE)])
        point = point.reshape(image.shape)
        assert float((point - image).abs().max()) <= epsilon + SLACK
        torch.testing.assert_close(tiny(point[None])[0], logits, atol=SLACK, rtol=0)
    return None if verdict == "TIMEOUT" else verdict == "unsat"


def _robust(program: str, folder: Path, tiny: Tiny, image: Tensor, label: int, epsilon: float, least: float) -> Any:
    """The same for a network whose logit of the label is lower by `least`: whether the least margin is above it."""
    before = tiny.classifier.bias.detach().clone()
    with torch.no_grad():
        tiny.classifier.bias[label] -= least
        try:
            return _ask(program, folder, tiny, image, label, epsilon)
        finally:
            tiny.classifier.bias.copy_(before)


def _enclosed(program: str, folder: Path, tiny: Tiny, image: Tensor, label: int, epsilon: float) -> tuple[float, float]:
    """Numbers around the least margin."""
    low, high = -4.0, 4.0
    assert _robust(program, folder, tiny, image, label, epsilon, low)
    assert _robust(program, folder, tiny, image, label, epsilon, high) is False
    while high - low > WIDTH:
        middle = (low + high) / 2
        robust = _robust(program, folder, tiny, image, label, epsilon, middle)
        if robust is None:
            break
        low, high = (middle, high) if robust else (low, middle)
    return low, high


def main(program: str) -> None:
    golden = _drawn()
    tiny, pixels = network(golden), images(golden)
    labels = tiny(pixels).argmax(dim=1).tolist()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for epsilon in EPSILONS:
            for index, (image, label) in enumerate(zip(pixels, labels, strict=True)):
                above, below = _enclosed(program, Path(folder), tiny, image, label, epsilon)
                robust = _robust(program, Path(folder), tiny, image, label, epsilon, 0.0)
                verdict = {True: "unsat", False: "sat", None: "unknown"}[robust]
                row = {"image": index, "label": label, "epsilon": epsilon, "property": verdict}
                rows.append({**row, "above": above, "below": below})
    provenance = {
        "program": "Marabou 2.0.0 (maraboupy 2.0.0, wheel for CPython 3.11 on Linux x86-64)",
        "command": "python tests/evidence/golden/marabou.py MARABOU, which runs: MARABOU network.onnx property.vnnlib",
        "network": "class Tiny of tests/evidence/golden/marabou.py, weights and pixels in units of 1/16",
        "slack": SLACK,
    }
    text = json.dumps({"provenance": provenance, **golden, "least_margins": rows}, indent=1)
    print(text)


if __name__ == "__main__":
    main(sys.argv[1])
