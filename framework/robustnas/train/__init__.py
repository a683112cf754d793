"""Training a discrete network from scratch: standard, adversarial, TRADES or certified.

`regimes` and `certified` are what is minimised, `data` is the images, `loop` the epochs, and `network` builds and
reloads what was trained.
"""

from robustnas.train.data import check_augmentation, divided, notes
from robustnas.train.loop import TrainTask, run
from robustnas.train.network import build, load

__all__ = ["TrainTask", "build", "check_augmentation", "divided", "load", "notes", "run"]
