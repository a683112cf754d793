"""The conformance kit: what a plugin promises in `robustnas.contracts`, checked by calling it.

A plugin author's test is one line per plugin::

    from robustnas.testing import check_metric

    def test_keeps_the_contract():
        check_metric(Curvature())

or, for a test a promise::

    from robustnas.testing import parametrize

    test_promises = parametrize("metric", Curvature())

Each check takes a plugin object, or a class, which is then made with its default options.  Broken promises
raise one `ConformanceError`, an AssertionError that lists them all, each with what was found and what that usually
means.  A promise that needs a broken one is not looked at.  The kit needs no test runner, downloads nothing, runs on
the CPU, and leaves the global random generators alone.
"""

from typing import TYPE_CHECKING

from robustnas.runtime.facade import facade

if TYPE_CHECKING:
    from robustnas.testing.attack import check_attack
    from robustnas.testing.dataset import check_dataset
    from robustnas.testing.executor import check_executor
    from robustnas.testing.metric import check_metric
    from robustnas.testing.order import check_order
    from robustnas.testing.per_promise import CHECKS, parametrize, promises
    from robustnas.testing.promise import ConformanceError
    from robustnas.testing.regime import check_regime
    from robustnas.testing.search_space import check_search_space
    from robustnas.testing.strategy import check_strategy
    from robustnas.testing.tracker import check_tracker

__all__ = [
    "CHECKS",
    "ConformanceError",
    "check_attack",
    "check_dataset",
    "check_executor",
    "check_metric",
    "check_order",
    "check_regime",
    "check_search_space",
    "check_strategy",
    "check_tracker",
    "parametrize",
    "promises",
]

__getattr__ = facade(
    __name__,
    CHECKS="per_promise",
    ConformanceError="promise",
    check_attack="attack",
    check_dataset="dataset",
    check_executor="executor",
    check_metric="metric",
    check_order="order",
    check_regime="regime",
    check_search_space="search_space",
    check_strategy="strategy",
    check_tracker="tracker",
    parametrize="per_promise",
    promises="per_promise",
)
