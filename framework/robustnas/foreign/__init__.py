"""Somebody's own network, from the module that makes it and the file with its weights.

load      the network, on the CPU in eval mode, known to answer images of a dataset with logits of its classes
digest    plain data that changes with the factory, its source and the weights
"""

from typing import TYPE_CHECKING

from robustnas.runtime.facade import facade

if TYPE_CHECKING:
    from robustnas.foreign.network import digest, load

__all__ = ["digest", "load"]

__getattr__ = facade(__name__, digest="network", load="network")
