"""FGSM: one step of the size of the ball along the gradient of the cross-entropy.

    l_inf   x + epsilon * sign(gradient)          l_2   x + epsilon * gradient / ||gradient||_2
    l_1     pixels of largest |gradient| to the side of the box, one after another, until epsilon is used up

Source: Goodfellow et al. 2015, arXiv:1412.6572; the other two are ours: like the first, they end where the loss, made
linear at the image, is highest in the ball (in l_1 in ball and box).
"""

from __future__ import annotations

from attrs import frozen
from attrs.validators import instance_of

from robustnas.options import option
from robustnas_plugins.attacks.gradient_steps import GradientSteps


@frozen
class FGSM(GradientSteps):
    """Fast gradient sign method (l_inf), fast gradient method (l_2), and what they are in l_1."""

    random_start: bool = option(
        False, "start at a random image of the ball instead of the clean one", instance_of(bool)
    )
