"""The laboratory: whether a setting can tell architectures apart, and what predicts which of them will be robust.

ranking   reads a run directory: outcomes and scores of its architectures, their correlations, what noise leaves of them
forms     the ranking as JSON, Markdown and on the terminal
figure    ranks against ranks, as an SVG
"""

from robustnas.laboratory.forms import write
from robustnas.laboratory.ranking import check

__all__ = ["check", "write"]
