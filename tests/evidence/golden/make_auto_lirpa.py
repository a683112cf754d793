"""Writes auto_lirpa.yaml: bounds of the networks of `soundness/formula_networks.py` by auto_LiRPA.

    python -m venv reference && reference/bin/pip install torch numpy pyyaml appdirs packaging tqdm graphviz
    reference/bin/pip install --no-deps auto-lirpa==0.3
    cd tests && ../reference/bin/python evidence/golden/make_auto_lirpa.py

auto_LiRPA 0.3 was written for torch below 1.13 and numpy below 2. What it needs of them and newer ones spell
differently is put back before it is imported; none of it takes part in the arithmetic.

Source: Xu et al. 2020, arXiv:2002.12920; Xu et al. 2021 (alpha-CROWN), arXiv:2011.13824.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import torch
import torch.onnx.symbolic_helper
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from evidence.soundness.formula_networks import CLASSES, EPSILONS, LABELS, NETWORKS, images, network
from support.their_bounds import ORDERS, THEIRS, differences

DENSE = dict.fromkeys(
    (
        "sparse_intermediate_bounds",
        "sparse_conv_intermediate_bounds",
        "sparse_intermediate_bounds_with_ibp",
        "sparse_features_alpha",
        "sparse_spec_alpha",
    ),
    False,
)
"""Bounds of all neurons: the shortcuts change no bound, and fail an assertion of 0.3 on fully connected layers."""


def restore() -> None:
    """Names that auto_LiRPA 0.3 imports and newer libraries keep elsewhere."""
    from torch.onnx._internal.torchscript_exporter._globals import GLOBALS

    sets = types.ModuleType("numpy.lib.arraysetops")
    sets.isin = np.isin
    sys.modules["numpy.lib.arraysetops"] = sets
    torch.onnx.symbolic_helper._set_opset_version = lambda version: setattr(
        GLOBALS, "export_onnx_opset_version", version
    )
    torch._C.Node.__getitem__ = lambda node, key: getattr(node, node.kindOf(key))(key)
    if not hasattr(torch.onnx, "OperatorExportTypes"):
        torch.onnx.OperatorExportTypes = torch._C._onnx.OperatorExportTypes

    from auto_LiRPA import BoundedModule

    members = BoundedModule._named_members
    BoundedModule._named_members = lambda self, *args, remove_duplicate=True, **options: members(self, *args, **options)


def bounds(name: str, norm: str, epsilon: float) -> dict[str, list[list[float]]]:
    from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm

    found = {}
    for ours, theirs in THEIRS.items():
        options = {
            "relu": "adaptive",
            "conv_mode": "matrix",
            **DENSE,
            "optimize_bound_args": {"iteration": 50, "lr_alpha": 0.1},
        }
        bounded = BoundedModule(network(name), images(name), bound_opts=options, device="cpu")
        given = BoundedTensor(images(name), PerturbationLpNorm(norm=ORDERS[norm], eps=epsilon))
        lower, _ = bounded.compute_bounds(
            x=(given,), C=differences(LABELS, CLASSES, torch.float64), method=theirs, bound_upper=False
        )
        found[ours] = [[round(value, 9) for value in row] for row in lower.detach().tolist()]
    return found


def main() -> None:
    warnings.simplefilter("ignore")
    restore()
    cases = [
        {"network": name, "norm": norm, "epsilon": epsilon, "lower": bounds(name, norm, epsilon)}
        for name in NETWORKS
        for norm, epsilons in EPSILONS.items()
        for epsilon in epsilons
    ]
    made = {
        "program": f"auto-lirpa {importlib.metadata.version('auto-lirpa')}",
        "torch": torch.__version__.split("+")[0],
        "numpy": np.__version__,
        "command": "cd tests && python evidence/golden/make_auto_lirpa.py",
        "networks": "soundness/formula_networks.py",
        "relaxation": "ReLU: slope below 1 if upper > -lower, else 0 (option adaptive); alpha-crown: 50 steps of 0.1",
        "date": datetime.date.today().isoformat(),
        "tolerance": 1e-4,
    }
    text = yaml.safe_dump({"made": made, "cases": cases}, sort_keys=False, width=120)
    Path(__file__).with_name("auto_lirpa.yaml").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
