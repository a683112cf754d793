"""Upper bound of the network's Lipschitz constant (RACL), from the weights and the mixing weights alone.

    R = - log lambda      || f(x) - f(x') ||_p  <=  lambda || x - x' ||_p   for all x, x';  p the norm of the threat

lambda is composed as in the paper, where beta weighs the edges into a node and alpha the operations of an edge:

    cell    lambda of a node  =  sum over its edges i of  beta_i sum over operations o of  alpha_i,o lambda_o lambda_i
    layer   the operator norm of convolution and linear layer, with batch norm's scale in it; closed forms of the others

(`lipschitz_pass` has the rules).  Every rule is an upper bound, so lambda is one of the network that runs, batch
norm's statistics as the constants that they are here.  It depends on no image, and each is given the same number; on
an epsilon neither.  The logarithm is ours: products over cells differ by orders of magnitude.

Source: Dong et al. 2020 (RACL), arXiv:2009.00902; there is no released code.  The paper's layers have the largest
singular value that a power iteration finds, which is a lower bound, and batch norm is left out.  Left out here: alpha
and beta are drawn from a log-normal distribution there, of which mean and variance are searched, under the constraint
(by ADMM) that lambda stays below a given value with probability 0.9, and w also minimises the loss's gradient in the
image.  That is a search of its own over other parameters than alpha; here lambda is lowered at alpha itself.
"""

from __future__ import annotations

import torch
from attrs import frozen
from torch import Tensor, nn

from robustnas.threat import ThreatModel
from robustnas_plugins.metrics.lipschitz_pass import constant


@frozen
class Lipschitz:
    """Minus the log of a bound of the network's Lipschitz constant (RACL, Dong et al. 2020, arXiv:2009.00902)."""

    def score(self, network: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel) -> Tensor:
        """(N, C, H, W), (N,) -> (N,), one number for all: minus log of logits per pixel unit, in the threat's norm.

        Raises:
            UnsupportedOpError: the network uses a function without a rule.
        """
        found = constant(network, images[:1].detach(), threat.norm)
        score = -found.clamp_min(torch.finfo(found.dtype).tiny).log()
        return score.to(images.dtype).expand(len(images))
