"""robustnas: search for robust neural architectures, attack them, certify them, compare them in one table.

    recipe -> plan -> search -> genotype -> train -> attack + certify -> table

`robustnas.pipeline` is the map of the flow; `robustnas.contracts` is what a plugin author reads first.
"""

__version__ = "0.1.0"
