"""Robustness metrics: what a search maximises, or how it disturbs its own training."""
