"""Training a discrete network from scratch: standard, adversarial, TRADES or certified.

`regimes` are what is minimised, `data` is the images, `loop` the epochs, `network` builds and
reloads what was trained, and `settings` is what a recipe or a caller may set.
"""

from typing import TYPE_CHECKING

from robustnas.runtime.facade import facade

if TYPE_CHECKING:
    from robustnas.train.data import check_augmentation, divided, notes
    from robustnas.train.loop import TrainTask, run
    from robustnas.train.network import build, load

__all__ = ["TrainTask", "build", "check_augmentation", "divided", "load", "notes", "run"]

__getattr__ = facade(
    __name__,
    TrainTask="loop",
    build="network",
    check_augmentation="data",
    divided="data",
    load="network",
    notes="data",
    run="loop",
)
