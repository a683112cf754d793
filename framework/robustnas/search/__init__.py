"""The bilevel search (Liu et al. 2019, arXiv:1806.09055): alpha on one half of the images, w on the other.

    outer   alpha <- Adam( grad_alpha [ L_val(w', alpha) - gamma * R(w', alpha) ] )      hypergradient/
    inner   w     <- SGD ( grad_w       L_train(w, alpha) )                              bilevel

`data` divides the images, `loop` repeats the two levels for every batch, keeps the history, and resumes; `objective`
is what each level minimises, `settings` is what a recipe or a caller may set. `strategies` has what finds a genotype:
this search is one. `candidates` says of how many the best is kept. `single_path` trains weights that all networks of
a space share, and `inheritance` reads a network out of them.
"""

from typing import TYPE_CHECKING

from robustnas.runtime.facade import facade

if TYPE_CHECKING:
    from robustnas.search.data import divided, notes
    from robustnas.search.draw import drawn
    from robustnas.search.inheritance import inherited
    from robustnas.search.inherited_network import InheritedNetwork
    from robustnas.search.loop import run
    from robustnas.search.single_path import SinglePathTask
    from robustnas.search.task import SearchTask

__all__ = ["InheritedNetwork", "SearchTask", "SinglePathTask", "divided", "drawn", "inherited", "notes", "run"]

__getattr__ = facade(
    __name__,
    InheritedNetwork="inherited_network",
    SearchTask="task",
    SinglePathTask="single_path",
    divided="data",
    drawn="draw",
    inherited="inheritance",
    notes="data",
    run="loop",
)
