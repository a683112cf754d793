"""Consistency of a network with one whose weights and images are perturbed (CRoZe), before training.

    R = sum_m Z_m P_m G_m            over the layers m with weights

    theta_r = theta + scale || theta_m || / || g_m || g_m            g = grad_theta L(theta, x), layer by layer
    x_r     = x + the steepest step of length epsilon that raises L(theta_r, .), in the ball and the box
    Z_m     = 1 + cos( features of m at theta, x ;  at theta_r, x_r )            mean over images
    P_m     = 1 + cos( theta_m - rate g_m ;  theta_r,m - rate g_r,m )            g_r = grad L(theta_r, x_r)
    G_m     = | cos( g_m ; g_r,m ) |

A zero-cost score: of untrained networks, of a whole batch, each image of which has the same number, without a
gradient.  Batch norm has the statistics of the batch that it is given, since those of the clean network mean nothing
at theta_r.  Features are what a layer puts out; where a supernet computes several operations together, these are one
layer.

Source: Ha et al. 2023 (CRoZe), arXiv:2306.05031.  The released code differs: its FGSM goes down the gradient, it
makes all weights positive first, compares the weights before the step, and features cell by cell; `scale` 2 and
epsilon 0.01 (here the threat's if not given) are its.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from attrs import evolve, frozen
from attrs.converters import optional as if_given
from attrs.validators import ge, gt, optional
from torch import Tensor, nn

from robustnas.attack.pgd import step
from robustnas.options import option
from robustnas.threat import ThreatModel, pixels
from robustnas_plugins.metrics.layers import batch_norm_of_batch, layer_of, outputs_noted, weights_of

Weights = dict[str, Tensor]


@frozen
class CRoZe:
    """Consistency of features, weights and gradients when both are perturbed (CRoZe, Ha et al. 2023, arXiv:2306.05031).

    A zero-cost score of a batch, without a gradient.
    """

    differentiable = False
    of_batch = True

    scale: float = option(
        2.0, "length of the weights' perturbation, over that of the weights", gt(0.0), converter=float
    )
    rate: float = option(0.001, "learning rate of the step after which weights are compared", ge(0.0), converter=float)
    epsilon: float | None = option(
        None,
        "radius of the images' perturbation in pixel units; the threat's if not given",
        optional(ge(0.0)),
        converter=if_given(pixels),
    )

    def score(self, network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel) -> Tensor:
        """(N, C, H, W), (N,) -> (N,), one number for all, from 0 to 4 a layer."""
        ball = threat if self.epsilon is None else evolve(threat, epsilon=self.epsilon)
        weights = {name: one.detach() for name, one in weights_of(network).items()}
        clean = _seen(network, weights, images, labels)
        robust = {name: one + self.scale * _along(clean.slopes[name], one) for name, one in weights.items()}
        uphill = _seen(network, robust, images, labels).image_slope
        worst = ball.project(step(images, uphill, ball.epsilon, ball.norm), images).detach()
        moved = _seen(network, robust, worst, labels)
        layers: dict[str, list[str]] = {}
        for name in weights:
            layers.setdefault(layer_of(network, name), []).append(name)
        terms = []
        for path, names in layers.items():
            if path not in clean.features:
                continue  # an auxiliary head, say, takes no part in a plain pass
            one, other = _side_by_side(clean.slopes, names), _side_by_side(moved.slopes, names)
            before, after = _side_by_side(weights, names), _side_by_side(robust, names)
            z = 1 + F.cosine_similarity(clean.features[path], moved.features[path]).mean()
            p = 1 + F.cosine_similarity(before - self.rate * one, after - self.rate * other, dim=0)
            terms.append(z * p * F.cosine_similarity(one, other, dim=0).abs())
        return torch.stack(terms).sum().to(images.dtype).expand(len(images))


@frozen(eq=False)
class _Seen:
    """What a pass over a batch shows: features by layer (N, F), gradients by weight, and the gradient in the images."""

    features: Weights
    slopes: Weights
    image_slope: Tensor


def _seen(network: nn.Module, weights: Weights, images: Tensor, labels: Tensor) -> _Seen:
    """Pass a batch through the network with these weights, there and back."""
    own = {name: one.detach().requires_grad_() for name, one in weights.items()}
    seen = images.detach().requires_grad_()
    with torch.enable_grad(), batch_norm_of_batch(network), outputs_noted(network, weights) as features:
        loss = F.cross_entropy(torch.func.functional_call(network, own, (seen,)), labels)
        inputs: list[Any] = [seen, *own.values()]
        image_slope, *slopes = torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True)
    noted = {path: one.detach() for path, one in features.items()}
    return _Seen(noted, dict(zip(own, slopes, strict=True)), image_slope)


def _along(direction: Tensor, like: Tensor) -> Tensor:
    """The direction with the length of `like`; nothing where there is no direction."""
    length = torch.linalg.vector_norm(direction).clamp_min(torch.finfo(direction.dtype).tiny)
    scaled: Tensor = direction * (torch.linalg.vector_norm(like) / length)
    return scaled


def _side_by_side(tensors: Weights, names: list[str]) -> Tensor:
    return torch.cat([tensors[name].flatten() for name in names])
