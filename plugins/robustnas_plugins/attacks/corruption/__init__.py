"""Natural corruptions: what weather, optics, sensors and files do to an image, each a function of plain torch.

A family is a function `(images, severity, draws) -> images`: (N, C, H, W) in [0, 1], one or three channels, from 8x8
up; severity 1 to 5.  What it returns is clipped to [0, 1] by the attack that holds it.

    noise      gaussian-noise, shot-noise, impulse-noise, speckle-noise
    blur       defocus-blur, glass-blur, motion-blur, zoom-blur, gaussian-blur
    weather    snow, frost, fog, spatter
    digital    brightness, contrast, saturate, elastic, pixelate, jpeg
    fields     smooth random fields, kernels and warps that several families are made of
    apply      the families by name, as foolbox attacks

The families, and what each stands for, are those of Hendrycks and Dietterich 2019, arXiv:1903.12261, section 4.  The
procedures and the tables of severities are ours, so figures do not compare with ImageNet-C's to the digit.

Lengths (radii, shifts, motion) are for an image of 32 pixels; they are multiplied by max(shorter side, 16) / 32, so
that an image of any size is corrupted alike, and one under 16 pixels still visibly.
"""
