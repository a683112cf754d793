"""The conformance kit: what a plugin promises in `robustnas.contracts`, checked by calling it.

A plugin author's test is one line per plugin::

    from robustnas.testing import check_metric

    def test_keeps_the_contract():
        check_metric(Curvature())

Each check takes a plugin object, or a class, which is then made with its default options.  A broken promise
raises `ConformanceError`, an AssertionError that names the plugin, the promise and what was found.  The kit
needs no test runner, downloads nothing, runs on the CPU, and leaves the global random generators alone.
"""

from robustnas.testing.attack import check_attack
from robustnas.testing.dataset import check_dataset
from robustnas.testing.metric import check_metric
from robustnas.testing.order import check_order
from robustnas.testing.promise import ConformanceError
from robustnas.testing.regime import check_regime
from robustnas.testing.search_space import check_search_space

__all__ = [
    "ConformanceError",
    "check_attack",
    "check_dataset",
    "check_metric",
    "check_order",
    "check_regime",
    "check_search_space",
]
