"""Builds the network of a genotype for training, and reads a trained one back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from torch import nn

from robustnas.contracts import Dataset, Genotype, Resizable, SearchSpace
from robustnas.errors import InputError, RunDirectoryError
from robustnas.nn.normalize import PixelNetwork
from robustnas.runtime.artifacts import damaged
from robustnas.runtime.strangers import first_line
from robustnas.train.capacity import matched

if TYPE_CHECKING:
    from robustnas.runtime.artifacts import StageFolder
    from robustnas.train.settings import Train


def build(space: SearchSpace, genotype: Genotype, dataset: Dataset, settings: Train) -> PixelNetwork:
    """Build the untrained network on the CPU, with weights from torch's global generator.

    Raises:
        InputError: `settings` asks for drop-path or an auxiliary head, and networks of the space have none.
    """
    network = space.network(genotype, dataset.shape, dataset.classes, auxiliary=settings.auxiliary > 0)
    check_drop_path(network, space, settings)
    return PixelNetwork(network, dataset.mean, dataset.std)


def check_drop_path(network: nn.Module, space: SearchSpace, settings: Train) -> None:
    """Refuse a network without the drop-path that training asks for.

    Raises:
        InputError: the network has none.
    """
    if settings.drop_path > 0 and not has_drop_path(network):
        raise InputError(
            f"networks of {type(space).__name__} have no drop-path, found train.drop_path: "
            f"{settings.drop_path:g}; drop_path: 0 would do"
        )


def has_drop_path(network: nn.Module) -> bool:
    """Whether a discrete network has drop-path."""
    return isinstance(getattr(network, "drop_path", None), float)


def load(
    folder: StageFolder, space: SearchSpace, genotype: Genotype, dataset: Dataset, settings: Train
) -> PixelNetwork:
    """Load the network that the train stage kept, in eval mode, on the CPU.

    Args:
        space: as a recipe has it; a network matched to a capacity has the size that was found then.

    Raises:
        RunDirectoryError: the file is missing, damaged, or of another network.
    """
    state: dict[str, Any] | None = folder.load_tensors("network.pt")
    if state is None:
        raise RunDirectoryError(damaged(folder.path / "network.pt", "it is missing although its stage is done"))
    network = build(_in_size(folder, space, genotype, dataset, settings), genotype, dataset, settings)
    try:
        network.load_state_dict(state)
    except RuntimeError as fault:
        why = f"it does not fit its genotype: {first_line(fault)}"
        raise RunDirectoryError(damaged(folder.path / "network.pt", why)) from fault
    return network.eval()


def _in_size(
    folder: StageFolder, space: SearchSpace, genotype: Genotype, dataset: Dataset, settings: Train
) -> SearchSpace:
    """The space with the trained network in its size: as the result says, or, where that is not written yet, found."""
    if settings.match is None:
        return space
    if not folder.done:
        return matched(space, genotype, dataset, settings.match).space
    try:
        size = folder.result()["size"]
        return cast("Resizable", space).sized(size["channels"], size["cells"])
    except (KeyError, TypeError, ValueError) as fault:
        raise RunDirectoryError(damaged(folder.result_file, "it does not hold the network's size")) from fault
