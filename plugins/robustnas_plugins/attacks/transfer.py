"""Transfer: images made on one network by MI-FGSM, tried on others.

The harness makes them on the networks of the other methods, of which the attacked one knows nothing; this file only
says how.  No image leaves when its own source is fooled: it goes on to the last step, because what fools a network by
little fools no other.

Source: Dong et al. 2018, arXiv:1710.06081; that momentum helps images to transfer is that paper's finding.
"""

from __future__ import annotations

from attrs import frozen

from robustnas_plugins.attacks.mi_fgsm import MomentumFGSM


@frozen
class Transfer(MomentumFGSM):
    """Images that fool another network, tried on this one; in l_inf or l_2."""

    name = "transfer"
    instead = "give it a threat of its own, threat: {norm: linf, epsilon: 8/255}"
    access = "black-box"
    transfers = True
    leaves = False
