"""Executors: which scheduler does the stages of a run."""
