"""Statistics of a comparison: what a few seeds and images say about methods, and what they cannot say.

estimate    a figure with an interval
nested      means, spreads and intervals over search seeds and the training seeds below them
intraclass  the share of variance that lies between architectures
paired      tests of pairs: the same images, or the same seeds, under two methods
ranking     rank correlations over architectures, with bootstrap intervals, and their noise ceiling

All of it is plain arithmetic on numbers: the caller says what they mean.
"""
