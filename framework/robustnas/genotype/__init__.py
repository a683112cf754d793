"""A discrete architecture of a cell space, how scripts of DARTS, NAS-Bench-201 and RobNet write it, and drawings."""

from robustnas.genotype.cell_genotype import MOST_NODES, Gene, Genotype

__all__ = ["MOST_NODES", "Gene", "Genotype"]
