"""Where a run directory keeps what executors need: the plan for other machines, and the scheduler's names of jobs."""

from __future__ import annotations

CLUSTER = "cluster"
"""The folder."""

JOBS = "jobs.json"
"""The file in it with the names, by keys of stages, for whoever cancels them from elsewhere."""
