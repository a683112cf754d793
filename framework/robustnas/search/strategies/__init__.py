"""Strategies: how a genotype is found.  One a file, registered as anybody's (`robustnas.strategies`).

    bilevel          alpha and w are searched together: DARTS and all that descends from it
    projection       bilevel, and then the operations stay whose removal hurts most (DARTS-PT)
    random           the genotype is drawn uniformly from the space
    random-search    the best of several drawn genotypes, each trained
    evolution        one decision of a good genotype is changed; the oldest of the population goes
    multi-objective  genotypes of which none is better in every objective (NSGA-II)
    one-shot         the best of many genotypes on weights that all of them share (RobNet)

`judging` has the options that those share which have candidates judged.
"""
