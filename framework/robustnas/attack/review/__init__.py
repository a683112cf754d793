"""Warnings that a reviewer would raise about an evaluation: what they are, and when they are due.

    flag       one warning, and the names of all
    probe      checks the network on a handful of images
    answers    warns of answers that are random, are probabilities, or ignore the image
    inner      warns of gradients that are computed during a forward pass
    gradients  warns of gradients that are zero, weaker than noise, or never reach accuracy 0
    records    warns of results that strong attacks cannot have
    evidence   tells how much is more than chance

A flag is no proof.  It says that a figure may be too high for a reason that has nothing to do with robustness, and
where to look.  What to look for: Athalye, Carlini and Wagner 2018, "Obfuscated gradients give a false sense of
security", arXiv:1802.00420; Carlini et al. 2019, "On evaluating adversarial robustness", arXiv:1902.06705; the
warnings of AutoAttack (Croce and Hein 2020, arXiv:2003.01690).
"""
