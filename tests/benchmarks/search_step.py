"""One step of the search (outer and inner level), method by method, as a multiple of plain DARTS, first order.

    python tests/benchmarks/search_step.py                       the quickstart's supernet
    python tests/benchmarks/search_step.py --supernet pc-darts   the same size, of space pc-darts
    python tests/benchmarks/search_step.py --supernet digits     4 cells, 16 channels, 8x8x1
    python tests/benchmarks/search_step.py --supernet cifar10    8 cells, 16 channels, 32x32x3 (the paper's size)

Every method runs on the same supernet and the same batches, in turn, several rounds; the figure is the median over
rounds.  Times depend on the machine and what else it does; compare the multiples.  On a CUDA device add --device cuda,
and --precision bfloat16 or --compile for what these change.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from stepping import SIZES, Size, scorer, seconds, stepper

from robustnas.contracts import Order
from robustnas.search.hypergradient.conjugate_gradient import ConjugateGradient
from robustnas.search.hypergradient.exact import Exact
from robustnas.search.hypergradient.first_order import FirstOrder
from robustnas.search.hypergradient.neumann import Neumann
from robustnas.search.hypergradient.unrolled import Unrolled
from robustnas_plugins.metrics.adversarial_alpha import AdversarialAlpha
from robustnas_plugins.metrics.adversarial_training import AdversarialTraining
from robustnas_plugins.metrics.certified_bound import CertifiedBound
from robustnas_plugins.metrics.certified_radius import CertifiedRadius
from robustnas_plugins.metrics.croze import CRoZe
from robustnas_plugins.metrics.feature_distortion import FeatureDistortion
from robustnas_plugins.metrics.input_noise import InputNoise
from robustnas_plugins.metrics.jacobian import Jacobian
from robustnas_plugins.metrics.jacov import JacobianCovariance
from robustnas_plugins.metrics.lipschitz import Lipschitz
from robustnas_plugins.metrics.loss_curvature import LossCurvature
from robustnas_plugins.metrics.random_noise import RandomNoise
from robustnas_plugins.metrics.robust_ntk import RobustNTK
from robustnas_plugins.metrics.synflow import SynFlow

PLAIN = "darts, first order"

Metrics = tuple[tuple[float, Any], ...]


def methods(size: Size) -> dict[str, tuple[Order, Metrics]]:
    """Hypergradient and metrics of each method."""
    bound = CertifiedBound(epsilon=size.epsilon, scale="log")
    first = FirstOrder()
    return {
        PLAIN: (first, ()),
        "darts, unrolled": (Unrolled(), ()),
        "darts, exact": (Exact(), ()),
        "darts, neumann (3 terms)": (Neumann(), ()),
        "darts, cg (5 iterations)": (ConjugateGradient(), ()),
        "dsrna-jacobian, one row": (first, ((1.0, Jacobian(rows=1)),)),
        "dsrna-jacobian, all rows": (first, ((1.0, Jacobian()),)),
        "dsrna-cb, ibp": (first, ((1.0, CertifiedBound(method="ibp", epsilon=size.epsilon, scale="log")),)),
        "dsrna-cb, crown-ibp": (first, ((1.0, bound),)),
        "certified-radius, crown-ibp": (first, ((1.0, CertifiedRadius()),)),
        "dsrna-combined, one row": (first, ((1.0, bound), (1.0, Jacobian(rows=1)))),
        "sdarts-rs": (first, ((1.0, RandomNoise()),)),
        "sdarts-adv": (first, ((1.0, AdversarialAlpha()),)),
        "adversarial-training": (first, ((1.0, AdversarialTraining()),)),
        "r-nas (input-noise)": (first, ((1.0, InputNoise()),)),
        "advrush (loss-curvature)": (first, ((1.0, LossCurvature(warm_up=0)),)),
        "racl (lipschitz, l_inf)": (first, ((1.0, Lipschitz()),)),
        "feature-distortion": (first, ((1.0, FeatureDistortion()),)),
        "rnas (feature-distortion, adversarial-training)": (
            first,
            ((1.0, FeatureDistortion()), (1.0, AdversarialTraining())),
        ),
    }


ZERO_COST = {
    "score of croze": CRoZe(),
    "score of synflow": SynFlow(),
    "score of jacov": JacobianCovariance(),
    "score of robust-ntk": RobustNTK(),
}
"""One score of a batch: these take part in no step."""


def main() -> None:
    """Time every method and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--supernet", choices=sorted(SIZES), default="quickstart")
    parser.add_argument("--batch", type=int, help="images of each half in a step")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("float32", "tf32", "bfloat16"), default="float32")
    parser.add_argument("--compile", action="store_true", help="compile plain passes")
    parser.add_argument("--only", nargs="*", help="words; methods with one of them, beside plain DARTS")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    size, device = SIZES[arguments.supernet], torch.device(arguments.device)

    def chosen(name: str) -> bool:
        return name == PLAIN or arguments.only is None or any(word in name for word in arguments.only)

    steps = {
        name: stepper(size, arguments.batch, order, metrics, device, arguments.precision, compiled=arguments.compile)
        for name, (order, metrics) in methods(size).items()
        if chosen(name)
    }
    steps |= {name: scorer(size, arguments.batch, metric, device) for name, metric in ZERO_COST.items() if chosen(name)}
    found = seconds(steps, arguments.rounds, device)
    table = Table(
        title=f"one search step, {arguments.supernet} supernet, batch {arguments.batch or size.batch}, "
        f"{torch.get_num_threads()} thread(s), {device}, {arguments.precision}"
    )
    for title in ("method", "seconds", "x plain"):
        table.add_column(title, justify="left" if title == "method" else "right")
    for name, middle in found.items():
        table.add_row(name, f"{middle:.3f}", f"{middle / found[PLAIN]:.2f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
