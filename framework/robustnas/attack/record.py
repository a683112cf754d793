"""What an attack did, image by image, and what several attacks leave standing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import attrs
import torch
from torch import Tensor

from robustnas.threat import ThreatModel


@attrs.frozen(eq=False)
class AttackRecord:
    """What one attack did to every image at one radius; tensors are on the CPU, N images in the order given.

    `success` is `(clean == labels) & (perturbed != labels)`, always.

    Args:
        label: the attack's name in messages and seeds.
        threat: what was allowed.
        batch: images attacked at once.
        seed: the recipe's seed.
        labels: (N,) int64.
        clean: (N,) int64, predictions on the clean images.
        tried: (N,) int64, how many of the attack's parts the image was given to; 0 where it was not attacked, being
            wrong when clean or fooled already.
        perturbed: (N,) int64, predictions on the admissible images the attack ended with; those on the clean
            image where it was not attacked or no admissible image was found.
        success: (N,) bool, right when clean and wrong on the admissible image.
        by: (N,) int64, the place in `parts` of the part that fooled the image; -1 for none.
        distance: (N,) float32, size of that admissible perturbation in the threat's norm, pixel units; 0 for
            none.
        sizes: for each norm (N,) float64, size of the smallest perturbation that fooled the network, whether inside
            the ball or not (attacks that minimise it go beyond); infinite where the attack found none.  A perturbation
            that was admissible to rounding counts as at most epsilon in the threat's norm.
        answer: (N,) int64, the class the network saw on the image that `found` measures; the label where there is none.
        evaluations: images the attack put through the network, counted with repetition.
        parts: names of what the attack is made of, in the order in which they were tried.
        access: what each part knows of the network: `white-box`, `black-box`, `noise` or `corruption`.
        variant: which of several columns of one attack this is (a corruption and its severity, the network that
            transferred images were made on); empty for the only one.
        finder: (N,) int64, the place in `parts` of the part that found what `found` measures, inside the ball or not;
            -1 for none.
        left_out: names of parts that follow gradients and were not run, because the network has none.
    """

    label: str
    threat: ThreatModel
    batch: int
    seed: int
    labels: Tensor
    clean: Tensor
    tried: Tensor
    perturbed: Tensor
    success: Tensor
    by: Tensor
    distance: Tensor
    sizes: dict[str, Tensor]
    answer: Tensor
    evaluations: int
    parts: tuple[str, ...] = ("",)
    access: tuple[str, ...] = ("white-box",)
    variant: str = ""
    finder: Tensor = attrs.field(default=attrs.Factory(lambda self: self.by, takes_self=True))
    left_out: tuple[str, ...] = ()

    @property
    def correct(self) -> Tensor:
        """(N,) bool, right when clean."""
        return self.clean == self.labels

    @property
    def found(self) -> Tensor:
        """(N,) float64, `sizes` in the threat's norm."""
        return self.sizes[self.threat.norm]

    @property
    def evaluations_per_image(self) -> float:
        """Model evaluations an attacked image cost, on average; 0 where none was attacked."""
        return self.evaluations / max(int((self.tried > 0).sum()), 1)

    def at(self, threat: ThreatModel) -> Self:
        """The same perturbations judged at another radius of the same norm: what they prove there.

        Whole for an attack that minimises: run once, it serves every radius.  For another it is what follows at a
        larger radius.
        """
        success = self.correct & (self.found <= threat.epsilon)
        return attrs.evolve(
            self,
            threat=threat,
            perturbed=torch.where(success, self.answer, self.clean),
            success=success,
            by=torch.where(success, self.finder, -1),
            distance=torch.where(success, self.found, 0.0).float(),
        )


def robust(correct: Tensor, successes: Sequence[Tensor]) -> Tensor:
    """Worst case, image by image: right when clean and fooled by none of the attacks, (N,) bool.

    Args:
        correct: (N,) bool, right when clean.
        successes: (N,) bool for each attack; all on the same images and the same threat.
    """
    left = correct.clone()
    for success in successes:
        if success.shape != correct.shape:
            raise ValueError(f"an attack on {len(success)} images beside {len(correct)}: not the same images")
        left &= ~success
    return left
