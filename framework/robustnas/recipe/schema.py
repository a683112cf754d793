"""The sections of a recipe as frozen attrs classes: their fields are the keys, their validators the rules.

`metadata["help"]` of a field is its documentation.  Values marked *ours* are defaults where the DSRNA paper is
silent.  Sources of the others: Hosseini et al. 2021 (DSRNA) and the settings of Liu et al. 2019 (DARTS).
"""

from __future__ import annotations

import math
from typing import Any, Literal

from attrs import Factory, field, frozen
from attrs.validators import and_, ge, gt, in_, le, lt, optional

from robustnas.threat import NORMS, ThreatModel


def key(default: Any, help: str, *validators: Any, **metadata: Any) -> Any:
    """A field of a section: its default, its line of documentation, and its rules."""
    return field(
        default=default,
        validator=and_(*validators) if validators else None,
        metadata={"help": help, **metadata},
    )


@frozen
class Use:
    """A plugin by name with its options as written: `{name: pgd, steps: 20, step_size: 2/255}` or just `fgsm`.

    `plugin` is the object the loader made of them: names are resolved once, while the recipe is checked.
    """

    name: str
    options: dict[str, Any] = Factory(dict)
    plugin: Any = field(default=None, eq=False, repr=False)


@frozen
class FirstOrder:
    """Order `first`: the weights as they are (Liu et al. 2019, arXiv:1806.09055, with xi = 0)."""


@frozen
class Unrolled:
    """Order `unrolled`: through one virtual step of w, by a finite difference (arXiv:1806.09055, eqs. 7 and 8)."""

    radius: float = key(0.01, "length of the finite difference's step in w, over all weights together", gt(0.0))


@frozen
class Exact:
    """Order `exact`: through the same virtual step, by differentiating twice."""


@frozen
class Neumann:
    """Order `neumann`: implicit, by a truncated Neumann series (Lorraine et al. 2020, arXiv:1911.02590)."""

    terms: int = key(3, "terms of the series after the first", ge(0))
    rate: float | None = key(
        None, "its step, below 2 over the largest curvature; default the present learning rate of w", optional(gt(0.0))
    )


@frozen
class ConjugateGradient:
    """Order `cg`: implicit, by conjugate gradient (Rajeswaran et al. 2019, arXiv:1909.04630)."""

    iterations: int = key(5, "iterations at most; it stops at directions of negative curvature", ge(1))
    damping: float = key(1.0, "added to the curvature in every direction, which need not be positive", ge(0.0))
    tolerance: float = key(1e-6, "residual, relative to the right-hand side, at which it stops", ge(0.0))


Order = FirstOrder | Unrolled | Exact | Neumann | ConjugateGradient
ORDERS: dict[str, type[Order]] = {
    "first": FirstOrder,
    "unrolled": Unrolled,
    "exact": Exact,
    "neumann": Neumann,
    "cg": ConjugateGradient,
}


@frozen
class Search:
    """Section `search`: the bilevel search of the genotype."""

    epochs: int = key(50, "epochs of the search", ge(1))
    warmup_epochs: int = key(0, "epochs at the start in which alpha does not move", ge(0))
    batch: int = key(64, "images in a batch, of each half", ge(2))
    accumulate: int = key(1, "parts a batch is computed in where it does not fit; batch norm sees a part", ge(1))

    @accumulate.validator
    def _leaves_two(self, attribute: object, accumulate: int) -> None:
        _two_images_a_part(self.batch, accumulate)

    order: Order = field(
        factory=FirstOrder,
        metadata={
            "help": "hypergradient: first, unrolled, exact, neumann or cg; with options as {name: cg, iterations: 5} "
            "(ours: first)"
        },
    )
    precision: Literal["float32", "tf32", "bfloat16"] = key(
        "float32", "of plain passes; scores, Hessian-vector products and norms stay float32"
    )
    compile: bool = key(
        False, "compile plain passes (torch.compile; CUDA graphs on CUDA); changes rounding alone", identity=False
    )
    recompute_cells: bool = key(
        False, "compute each cell again in the backward pass: less memory, more time", identity=False
    )

    @recompute_cells.validator
    def _one_of_the_two(self, attribute: object, recompute_cells: bool) -> None:
        if recompute_cells and self.compile:
            raise ValueError(
                "found true beside compile: true; compiled passes keep what they need, so one of the two would do"
            )

    gamma: float = key(0.01, "weight of the robustness metric in the outer level", ge(0.0))
    train_share: float = key(0.5, "share of the training images that move w; the others move alpha", gt(0.0), lt(1.0))
    w_lr: float = key(0.025, "learning rate of w at the start (SGD, cosine)", gt(0.0))
    w_lr_min: float = key(0.001, "learning rate of w at the end", ge(0.0))
    w_momentum: float = key(0.9, "momentum of w", ge(0.0), lt(1.0))
    w_decay: float = key(3e-4, "weight decay of w", ge(0.0))
    w_clip: float = key(5.0, "largest norm of w's gradient", gt(0.0))
    alpha_lr: float = key(3e-4, "learning rate of alpha (Adam, betas 0.5 and 0.999)", gt(0.0))
    alpha_decay: float = key(1e-3, "weight decay of alpha", ge(0.0))
    crop: int = key(0, "augmentation: random crop after padding by this many pixels", ge(0))
    flip: bool = key(False, "augmentation: random horizontal flip")
    cutout: int = key(0, "augmentation: side of the square blanked out, in pixels", ge(0))


@frozen
class Standard:
    """Regime `standard`: cross-entropy on the clean images."""


@frozen
class Adversarial:
    """Regime `adversarial`: cross-entropy on PGD images (Madry et al. 2018, arXiv:1706.06083)."""

    steps: int = key(7, "steps of PGD", ge(1))
    step_size: float | None = key(None, "size of a step in pixel units; default epsilon / 4", optional(gt(0.0)))


@frozen
class Trades:
    """Regime `trades`: cross-entropy plus beta times KL(clean || perturbed) (Zhang et al. 2019, arXiv:1901.08573)."""

    steps: int = key(10, "steps of the inner maximisation", ge(1))
    step_size: float | None = key(None, "size of a step in pixel units; default epsilon / 4", optional(gt(0.0)))
    beta: float = key(6.0, "weight of the KL term", gt(0.0))
    noise: float = key(0.001, "standard deviation of the Gaussian noise it starts from, in pixel units", gt(0.0))


@frozen
class Certified:
    """Regime `certified`: cross-entropy mixed with that of the worst bounded logits, IBP or CROWN-IBP.

    Sources: Gowal et al. 2018, arXiv:1810.12715; Zhang et al. 2020, arXiv:1906.06316.
    """

    epsilon: float | None = key(
        None, "radius at the end in pixel units; default the threat's (one a little larger is usual)", optional(gt(0.0))
    )
    warmup_epochs: float | None = key(
        None, "epochs at the start with epsilon 0, a fraction too; default a twentieth of all", optional(ge(0.0))
    )
    ramp_epochs: float | None = key(
        None, "epochs after these in which epsilon grows to its end; default half of all", optional(ge(0.0))
    )
    kappa_start: float = key(1.0, "weight of the clean loss as epsilon begins to grow", ge(0.0), le(1.0))
    kappa_end: float = key(0.5, "weight of the clean loss once epsilon has grown", ge(0.0), lt(1.0))
    beta_start: float = key(
        1.0, "share of CROWN-IBP in the bounds as epsilon begins to grow, the rest is IBP", ge(0.0), le(1.0)
    )
    beta_end: float = key(0.0, "share of CROWN-IBP once epsilon has grown", ge(0.0), le(1.0))

    def warmup(self, epochs: int) -> float:
        """Epochs with epsilon 0, of `epochs` in all."""
        return epochs / 20 if self.warmup_epochs is None else self.warmup_epochs

    def ramp(self, epochs: int) -> float:
        """Epochs in which epsilon grows, of `epochs` in all."""
        return epochs / 2 if self.ramp_epochs is None else self.ramp_epochs

    def end(self, epochs: int) -> float:
        """Epochs after which epsilon stays at its end, of `epochs` in all."""
        return self.warmup(epochs) + self.ramp(epochs)


Regime = Standard | Adversarial | Trades | Certified
REGIMES: dict[str, type[Regime]] = {
    "standard": Standard,
    "adversarial": Adversarial,
    "trades": Trades,
    "certified": Certified,
}


@frozen
class Train:
    """Section `train`: the discrete network, from scratch."""

    epochs: int = key(600, "epochs of training", ge(1))
    batch: int = key(96, "images in a batch", ge(2))
    accumulate: int = key(1, "parts a batch is computed in where it does not fit; batch norm sees a part", ge(1))

    @accumulate.validator
    def _leaves_two(self, attribute: object, accumulate: int) -> None:
        _two_images_a_part(self.batch, accumulate)

    precision: Literal["float32", "tf32", "bfloat16"] = key("float32", "of forward passes; weights stay float32")
    recompute_cells: bool = key(
        False, "compute each cell again in the backward pass: less memory, more time", identity=False
    )
    regime: Regime = field(
        factory=Standard,
        metadata={"help": "standard, adversarial, trades or certified; with options as {name: adversarial, steps: 7}"},
    )

    @regime.validator
    def _fits(self, attribute: object, regime: Regime) -> None:
        if isinstance(regime, Certified) and regime.end(self.epochs) > self.epochs:
            warmup, ramp = regime.warmup(self.epochs), regime.ramp(self.epochs)
            raise ValueError(
                f"found warmup_epochs {warmup:g} and ramp_epochs {ramp:g}, together more than epochs: {self.epochs}, "
                "so epsilon would never reach its end; smaller ones or more epochs would do"
            )

    lr: float = key(0.025, "learning rate at the start (SGD, cosine)", gt(0.0))
    lr_min: float = key(0.0, "learning rate at the end", ge(0.0))
    momentum: float = key(0.9, "momentum", ge(0.0), lt(1.0))
    decay: float = key(3e-4, "weight decay", ge(0.0))
    clip: float = key(5.0, "largest norm of the gradient", gt(0.0))
    drop_path: float = key(0.2, "probability of dropping a path at the last epoch, rising from 0", ge(0.0), lt(1.0))
    auxiliary: float = key(0.4, "weight of the auxiliary head's loss; 0 builds none", ge(0.0))
    label_smoothing: float = key(0.0, "label smoothing of the cross-entropy", ge(0.0), lt(1.0))
    crop: int = key(0, "augmentation: random crop after padding by this many pixels", ge(0))
    flip: bool = key(False, "augmentation: random horizontal flip")
    cutout: int = key(16, "augmentation: side of the square blanked out, in pixels", ge(0))
    random_resized_crop: list[float] | None = field(
        default=None,
        metadata={
            "help": "augmentation: crop of a random share of the area, from the first to the second number, resized",
            "identity": "if given",
        },
    )
    read_size: int | None = key(
        None,
        "side of the square that images are read as for random_resized_crop; default the dataset's size",
        optional(ge(1)),
        identity="if given",
    )
    colour_jitter: list[float] | None = field(
        default=None,
        metadata={
            "help": "augmentation: largest change of brightness, contrast, saturation and hue",
            "identity": "if given",
        },
    )

    @random_resized_crop.validator
    def _shares(self, attribute: object, shares: list[float] | None) -> None:
        if shares is None:
            return
        if len(shares) != 2 or not 0 < shares[0] <= shares[1] <= 1:
            raise ValueError(
                f"found {shares}; two shares of the area, ascending and within (0, 1], would do: [0.08, 1]"
            )
        if self.crop:
            raise ValueError(f"found {shares} beside crop: {self.crop}; one of the two ways to crop would do")

    @read_size.validator
    def _is_cropped(self, attribute: object, read_size: int | None) -> None:
        if read_size is not None and self.random_resized_crop is None:
            raise ValueError(
                f"found {read_size}, but nothing is cropped to the dataset's size; random_resized_crop: [0.08, 1] "
                "beside it would do"
            )

    @colour_jitter.validator
    def _strengths(self, attribute: object, strengths: list[float] | None) -> None:
        if strengths is not None and (len(strengths) != 4 or min(strengths) < 0 or strengths[3] > 0.5):
            raise ValueError(
                f"found {strengths}; four numbers from 0 on, the last (hue, in turns) at most 0.5, would do: "
                "[0.4, 0.4, 0.4, 0.2]"
            )

    checkpoint: Literal["last", "best"] = key(
        "last", "network kept: of the last epoch, or the best on training images held out (never test images)"
    )
    holdout: float | None = key(
        None,
        "share of the training images held out when checkpoint is best; default 0.1",
        optional(and_(gt(0.0), lt(1.0))),
    )

    @holdout.validator
    def _used(self, attribute: object, holdout: float | None) -> None:
        if holdout is not None and self.checkpoint != "best":
            raise ValueError(
                f"found {holdout:g}, but nothing is held out with checkpoint: last; checkpoint: best would do"
            )

    @property
    def held_out(self) -> float:
        """Share of the training images that do not train but choose the checkpoint."""
        if self.checkpoint == "last":
            return 0.0
        return 0.1 if self.holdout is None else self.holdout


@frozen
class Certify:
    """Section `certify`: certified margins at the recipe's threat, and certified radii."""

    method: Literal["ibp", "crown-ibp", "crown", "alpha-crown"] = key(
        "crown-ibp", "bound method: each tighter and dearer; the last two for small networks"
    )
    norms: list[str] = field(
        factory=lambda: ["linf", "l2"],
        metadata={"help": "norms of the certified radius, of linf, l2 and l1, or [] for none"},
    )
    radius_method: Literal["ibp", "crown-ibp", "crown", "alpha-crown"] | None = key(
        None, "bound method of the radii, which take about ten bounds an image; default method"
    )

    @radius_method.validator
    def _has_radii(self, attribute: object, radius_method: str | None) -> None:
        if radius_method is not None and not self.norms:
            raise ValueError(f"found {radius_method}, but norms: [] asks for no radius; norms: [linf] would do")

    images: int | None = key(None, "test images to certify, the first of those evaluated; default all", optional(ge(1)))
    batch: int = key(64, "images bounded at once", ge(1))

    @norms.validator
    def _known(self, attribute: object, norms: list[str]) -> None:
        for norm in norms:
            in_(NORMS)(self, attribute, norm)  # type: ignore[arg-type]


@frozen
class Smoothing:
    """Section `smoothing`: randomised smoothing as a second certificate (Cohen et al. 2019, arXiv:1902.02918).

    It certifies the smoothed classifier, which answers with the class the network gives most often under noise.
    """

    sigma: float = key(0.25, "standard deviation of the noise, in pixel units", gt(0.0))
    selection: int = key(100, "noisy copies of an image that choose the class", ge(1))
    samples: int = key(10_000, "further copies that bound how often the class is given", ge(1))

    @samples.validator
    def _enough(self, attribute: object, samples: int) -> None:
        if 0 < self.alpha < 1 and self.alpha ** (1 / max(samples, 1)) <= 0.5:
            least = math.floor(math.log2(1 / self.alpha)) + 1
            raise ValueError(
                f"found {samples}, which can certify no image at alpha {self.alpha:g}, not even if all are of one "
                f"class; at least {least} would do, and hundreds or more for radii of use"
            )

    alpha: float = key(0.001, "probability that a certificate is wrong", gt(0.0), lt(1.0))
    radii: list[float] = field(
        factory=lambda: [0.25, 0.5],
        metadata={"help": "l2 radii at which the certified accuracy of the smoothed classifier is shown"},
    )
    images: int | None = key(None, "test images to certify, the first of those evaluated; default all", optional(ge(1)))
    batch: int = key(1000, "noisy copies at once", ge(1))

    @radii.validator
    def _not_negative(self, attribute: object, radii: list[float]) -> None:
        _ascending(radii, "l2 radii")


@frozen
class Evaluate:
    """Section `evaluate`: which test images, how many at once, and which of them each attack is given."""

    images: int | None = key(None, "test images used; default all", optional(ge(1)))
    subset: Literal["balanced", "first"] = key(
        "balanced", "which, where not all: drawn with as many of each class as there can be, or the first of the split"
    )
    subset_seed: int = key(0, "seed of the draw; 100 images are among the 1000 of the same seed", ge(0))

    @subset_seed.validator
    def _drawn(self, attribute: object, subset_seed: int) -> None:
        if subset_seed and (self.images is None or self.subset == "first"):
            raise ValueError(
                f"found {subset_seed}, but nothing is drawn; images: 1000 beside it, with subset: balanced, would do"
            )

    batch: int = key(256, "images attacked at once", ge(1))
    attacked: Literal["survivors", "all"] = key(
        "survivors",
        "each attack is given the images that the attacks before it, from cheap to expensive, left standing; or all",
    )
    epsilons: list[float] = field(
        factory=list,
        metadata={"help": "further radii of a curve, in the threat's norm: attacks of the recipe's threat run at each"},
    )

    @epsilons.validator
    def _not_negative(self, attribute: object, epsilons: list[float]) -> None:
        _ascending(epsilons, "radii in pixel units")


def _two_images_a_part(batch: int, accumulate: int) -> None:
    """Refuse parts of a batch in which batch norm has nothing to average."""
    if accumulate > 1 and batch < 2 * accumulate:
        raise ValueError(
            f"found {accumulate} parts of batch: {batch}, and batch norm needs two images a part; "
            f"at most {max(batch // 2, 1)} would do, or a larger batch"
        )


def _ascending(radii: list[float], what: str) -> None:
    """Refuse radii that are not ascending or not above 0."""
    if any(not radius > 0 for radius in radii) or sorted(set(radii)) != list(radii):
        raise ValueError(f"found {radii}; {what} above 0, from small to large, would do")


@frozen
class Attack:
    """An entry of `attacks`: a plugin with its options, a threat of its own if it has one, and its column's name.

    Args:
        expectation: passes averaged in each evaluation that the attack sees (expectation over transformation), for
            networks whose output is random.
        runs: how often the attack is run, with new random draws, each time on the images that still stand.
    """

    use: Use
    threat: ThreatModel | None = None
    label: str | None = None
    expectation: int = 1
    runs: int = 1


@frozen
class Method:
    """An entry of `methods`: a way of searching.  The sections it holds override the recipe's keys for it alone.

    Args:
        network: `module:factory` of a network made elsewhere, which is neither searched nor trained here.
        weights: file of its weights.
        normalize: whether the data set's mean and deviation become its first layer.
    """

    metric: tuple[tuple[float, Use], ...] = ()
    genotype: str | None = None
    network: str | None = None
    weights: str | None = None
    normalize: bool = False
    search_space: Use | None = None
    threat: ThreatModel | None = None
    search: Search = field(factory=Search)
    train: Train = field(factory=Train)


@frozen
class Recipe:
    """A whole recipe, checked: one comparison of methods on one dataset under one threat.

    Args:
        search_space: None where no method searches or trains.
    """

    dataset: Use
    search_space: Use | None
    threat: ThreatModel
    methods: dict[str, Method]
    attacks: tuple[Attack, ...] = ()
    seeds: tuple[int, ...] = (0,)
    search: Search = field(factory=Search)
    train: Train = field(factory=Train)
    certify: Certify | None = field(factory=Certify)
    smoothing: Smoothing | None = None
    evaluate: Evaluate = field(factory=Evaluate)
