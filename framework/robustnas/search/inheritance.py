"""The networks that a trained supernet holds: a genotype's, with the weights that all of them share."""

from __future__ import annotations

from collections.abc import Callable

from robustnas.contracts import Dataset, Genotype, SearchSpace, path_of
from robustnas.errors import InputError, RunDirectoryError
from robustnas.nn.cells import SinglePath
from robustnas.nn.normalize import PixelSupernet
from robustnas.runtime.artifacts import StageFolder, damaged
from robustnas.runtime.strangers import first_line
from robustnas.search.inherited_network import InheritedNetwork
from robustnas.search.single_path import FILE


def inherited(folder: StageFolder, space: SearchSpace, dataset: Dataset) -> Callable[[Genotype], InheritedNetwork]:
    """Load the supernet that `single_path.run` left, once, on the CPU.

    Returns:
        Genotype -> its network, in eval mode.  All networks share the supernet's weights and mode: where one moves,
        all do.  It raises InputError where the genotype is none of the supernet's.

    Raises:
        InputError: the space does not know the paths of its genotypes.
        RunDirectoryError: the file is missing, damaged, or of another supernet.
    """
    path = path_of(space)
    if path is None:
        raise InputError(f"{type(space).__name__} has no `path`, so none of its networks can be inherited")
    place, state = folder.path / FILE, folder.load_tensors(FILE)
    if state is None:
        raise RunDirectoryError(damaged(place, "it is missing although its stage is done"))
    supernet = PixelSupernet.of(space, dataset)
    try:
        supernet.load_state_dict(state)
    except RuntimeError as fault:
        raise RunDirectoryError(damaged(place, f"it does not fit its space: {first_line(fault)}")) from fault
    supernet.eval()
    return lambda genotype: InheritedNetwork(supernet, SinglePath(path(genotype))).eval()
