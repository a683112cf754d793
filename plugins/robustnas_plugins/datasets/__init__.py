"""Datasets: pixels in [0, 1], a training split, and a test split that search and training never see."""
