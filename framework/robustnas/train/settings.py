"""Settings of training: section `train` of a recipe."""

from __future__ import annotations

from typing import Literal

from attrs import field, frozen
from attrs.validators import and_, ge, gt, lt, optional

from robustnas.contracts import Regime
from robustnas.data.parts import two_images_a_part
from robustnas.options import option
from robustnas.train.regimes.defaults import member
from robustnas.train.regimes.standard import Standard


@frozen
class Match:
    """Option `match` of section `train`: the capacity that discrete networks are to have.

    Channels, and cells out of a list, are chosen for every genotype so that its network comes closest.
    """

    parameters: int | None = option(None, "trainable weights, without the auxiliary head", optional(ge(1)))
    multiply_adds: int | None = option(None, "multiply-adds for one image, as the literature counts", optional(ge(1)))
    cells: list[int] | None = option(None, "numbers of cells to choose from; default the space's own")

    @cells.validator
    def _numbers(self, attribute: object, cells: list[int] | None) -> None:
        if cells is not None and (not cells or min(cells) < 1 or len({*cells}) < len(cells)):
            raise ValueError(f"found {cells}; numbers of cells, each once, would do: [2, 3]")

    def __attrs_post_init__(self) -> None:
        if (self.parameters is None) == (self.multiply_adds is None):
            found = "neither parameters nor" if self.parameters is None else "both parameters and"
            raise ValueError(f"found {found} multiply_adds; one of the two would do: {{parameters: 5000}}")

    @property
    def target(self) -> tuple[str, int]:
        """What is matched, `parameters` or `multiply_adds`, and how many of them."""
        if self.parameters is not None:
            return "parameters", self.parameters
        assert self.multiply_adds is not None
        return "multiply_adds", self.multiply_adds


@frozen
class Train:
    """Section `train`: the discrete network, from scratch."""

    epochs: int = option(600, "epochs of training", ge(1))
    batch: int = option(96, "images in a batch", ge(2))
    accumulate: int = option(1, "parts a batch is computed in where it does not fit; batch norm sees a part", ge(1))

    @accumulate.validator
    def _leaves_two(self, attribute: object, accumulate: int) -> None:
        two_images_a_part(self.batch, accumulate)

    precision: Literal["float32", "tf32", "bfloat16"] = option("float32", "of forward passes; weights stay float32")
    recompute_cells: bool = option(
        False, "compute each cell again in the backward pass: less memory, more time", identity=False
    )
    regime: Regime = field(
        factory=Standard,
        metadata={
            "help": "standard, adversarial, trades, certified, sabr, mtl-ibp or noise; "
            "with options as {name: adversarial, steps: 7}",
            "plugin": "regime",
        },
    )

    @regime.validator
    def _fits(self, attribute: object, regime: Regime) -> None:
        if not callable(getattr(regime, "loss", None)):
            raise ValueError(f"found {regime!r}; a regime with its options, such as Standard(), would do")
        member(regime, "check")(self.epochs, None)

    lr: float = option(0.025, "learning rate at the start (SGD, cosine)", gt(0.0))
    lr_min: float = option(0.0, "learning rate at the end", ge(0.0))
    momentum: float = option(0.9, "momentum", ge(0.0), lt(1.0))
    decay: float = option(3e-4, "weight decay", ge(0.0))
    clip: float = option(5.0, "largest norm of the gradient", gt(0.0))
    drop_path: float = option(0.2, "probability of dropping a path at the last epoch, rising from 0", ge(0.0), lt(1.0))
    auxiliary: float = option(0.4, "weight of the auxiliary head's loss; 0 builds none", ge(0.0))
    label_smoothing: float = option(0.0, "label smoothing of the cross-entropy", ge(0.0), lt(1.0))
    crop: int = option(0, "augmentation: random crop after padding by this many pixels", ge(0))
    flip: bool = option(False, "augmentation: random horizontal flip")
    cutout: int | None = option(
        None,
        "augmentation: side of the square blanked out, in pixels; default 16, at most half the image's side",
        optional(ge(0)),
    )
    random_resized_crop: list[float] | None = field(
        default=None,
        metadata={
            "help": "augmentation: crop of a random share of the area, from the first to the second number, resized",
            "identity": "if given",
        },
    )
    read_size: int | None = option(
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

    match: Match | None = option(
        None,
        "capacity that sizes the network: {parameters: 5000} or {multiply_adds: 100000}; with cells: [2, 3], of these",
        identity="if given",
    )
    checkpoint: Literal["last", "best"] = option(
        "last", "network kept: of the last epoch, or the best on training images held out (never test images)"
    )
    holdout: float | None = option(
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
    def division(self) -> tuple[float, int, int]:
        """The settings that, with the seed, decide which training images are held out."""
        return self.held_out, self.batch, self.accumulate

    def blanked(self, shape: tuple[int, int, int]) -> int:
        """Side of the square blanked out of images of this shape, in pixels."""
        return min(16, min(shape[1:]) // 2) if self.cutout is None else self.cutout

    @property
    def held_out(self) -> float:
        """Share of the training images that do not train but choose the checkpoint."""
        if self.checkpoint == "last":
            return 0.0
        return 0.1 if self.holdout is None else self.holdout
