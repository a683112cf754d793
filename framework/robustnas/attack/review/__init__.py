"""Warnings that a reviewer would raise about an evaluation: what they are, and when they are due.

A flag is no proof.  It says that a figure may be too high for a reason that has nothing to do with robustness, and
where to look.  What to look for: Athalye, Carlini and Wagner 2018, "Obfuscated gradients give a false sense of
security", arXiv:1802.00420; Carlini et al. 2019, "On evaluating adversarial robustness", arXiv:1902.06705; the
warnings of AutoAttack (Croce and Hein 2020, arXiv:2003.01690).
"""
