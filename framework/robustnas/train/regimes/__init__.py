"""What training minimises: cross-entropy on clean, noisy or PGD images, TRADES, or bounds; each an attrs class.

    standard      CE(f(x), y)
    adversarial   CE(f(x'), y),   x' by PGD on CE                            Madry et al. 2018, arXiv:1706.06083
    trades        CE(f(x), y) + beta KL(f(x) || f(x')),  x' by PGD on KL     Zhang et al. 2019, arXiv:1901.08573
    certified     CE(f(x), y) mixed with CE of bounds                        Zhang et al. 2020, arXiv:1906.06316
    sabr          CE of bounds over small boxes around x'                    Mueller et al. 2023, arXiv:2210.04871
    mtl-ibp       CE(f(x'), y) mixed with CE of bounds                       De Palma et al. 2024, arXiv:2305.13991
    noise         CE(f(x + n), y),  n Gaussian, for smoothing                Cohen et al. 2019, arXiv:1902.02918

They are plugins (entry points `robustnas.regimes`).  Perturbed images are made in eval mode (no batch norm statistics
move) and without drop-path.  The auxiliary head sees the images that the first cross-entropy sees.
"""
