"""Holds curvature to the contract of its kind: a test for each promise."""

from robustnas.testing import parametrize

from robustnas_curvature.curvature import Curvature

test_promises = parametrize("metric", Curvature())
