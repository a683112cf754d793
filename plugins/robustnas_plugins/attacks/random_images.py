"""Random images of a ball, from the draws of each image.

    inside     uniform in the ball          PGD (Madry et al. 2018, arXiv:1706.06083)
    far        far out in the ball          APGD (Croce and Hein 2020, arXiv:2003.01690, and 2021, arXiv:2103.01208)

Both are put into the box, which takes them nearer to the clean image where a pixel would leave it.
"""

from __future__ import annotations

from torch import Tensor

from robustnas.attack.per_image_random import PerImageRandom
from robustnas.attack.pgd import along, uniform_in_l1
from robustnas.threat import ThreatModel


def inside(clean: Tensor, threat: ThreatModel, draws: PerImageRandom) -> Tensor:
    """Images uniform in the ball, put into the box where they are outside: (N, C, H, W) -> the same shape.

    In l_2 it is a normal direction at a radius whose power d is uniform, d pixel values, because volume grows so.
    """
    shape, values = clean.shape[1:], clean[0].numel()
    if threat.norm == "linf":
        unit = 2 * draws.uniform(*shape) - 1
    elif threat.norm == "l2":
        radius = draws.of("radius").uniform(*[1] * len(shape)) ** (1.0 / values)
        unit = radius * along(draws.of("direction").normal(*shape))
    else:
        parts, signs = draws.of("parts").exponential(values + 1), draws.of("signs").signs(values)
        unit = uniform_in_l1(parts, signs).view(clean.shape)
    return threat.project(clean + threat.epsilon * unit.to(clean), clean)


def far(clean: Tensor, threat: ThreatModel, draws: PerImageRandom) -> Tensor:
    """Images far from the clean ones: (N, C, H, W) -> the same shape.

    On the border of the ball before the box is met: in l_inf uniform and scaled, in l_2 of normal direction; in l_1
    the point of ball and box that is nearest to a normal perturbation of deviation 1.
    """
    shape = clean.shape[1:]
    if threat.norm == "l1":
        return threat.project(clean + draws.normal(*shape).to(clean), clean)
    if threat.norm == "linf":
        noise = 2 * draws.uniform(*shape) - 1
        unit = noise / noise.flatten(1).abs().amax(dim=1).view(-1, *[1] * len(shape)).clamp_min(2.0**-24)
    else:
        unit = along(draws.normal(*shape))
    return threat.project(clean + threat.epsilon * unit.to(clean), clean)
