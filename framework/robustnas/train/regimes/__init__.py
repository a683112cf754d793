"""What training minimises: cross-entropy on clean images, on PGD images, TRADES, or bounds; each an attrs class.

    standard      CE(f(x), y)
    adversarial   CE(f(x'), y),   x' by PGD on CE                            Madry et al. 2018, arXiv:1706.06083
    trades        CE(f(x), y) + beta KL(f(x) || f(x')),  x' by PGD on KL     Zhang et al. 2019, arXiv:1901.08573
    certified     CE(f(x), y) mixed with CE of bounds                        Zhang et al. 2020, arXiv:1906.06316

They are plugins (entry points `robustnas.regimes`).  Perturbed images are made in eval mode (no batch norm statistics
move) and without drop-path.  The auxiliary head sees the images that the first cross-entropy sees.
"""

from typing import TYPE_CHECKING

from robustnas.runtime.facade import facade

if TYPE_CHECKING:
    from robustnas.train.regimes.adversarial import Adversarial
    from robustnas.train.regimes.certified import Certified
    from robustnas.train.regimes.defaults import Defaults
    from robustnas.train.regimes.standard import Standard
    from robustnas.train.regimes.trades import Trades

__all__ = ["Adversarial", "Certified", "Defaults", "Standard", "Trades"]

__getattr__ = facade(
    __name__,
    Adversarial="adversarial",
    Certified="certified",
    Defaults="defaults",
    Standard="standard",
    Trades="trades",
)
