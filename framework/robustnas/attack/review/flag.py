"""One warning about an evaluation, and the names of all there are."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from attrs import Attribute, field, frozen

from robustnas.errors import InputError

NAMES: Mapping[str, str] = MappingProxyType(
    {
        "weak-steps": "the steps of an iterative attack cannot cross the ball, or are longer than it is wide",
        "black-box-beats-white-box": "images survived the attacks with gradients and fell to one without, or to noise",
        "zero-gradients": "the loss has no usable gradient at some images",
        "randomised-output": "the same images get other logits each time",
        "probabilities-for-logits": "the network returns probabilities, in which losses saturate",
        "optimisation-in-forward": "the network computes gradients during its forward pass",
        "does-not-reach-zero": "images survive where every image is allowed",
        "robust-above-clean": "more images are right under an attack than without",
        "noise-beats-fgsm": "one step along the gradient breaks fewer images than noise of its size",
        "constant-answer": "every image gets the same answer",
        "chance-level": "no more images are right than one answer for all would have",
    }
)
"""Every flag by name, with one line of explanation."""

BLIND = frozenset({"constant-answer", "chance-level"})
"""Flags of a classifier that ignores its images: it withstands every attack, so it must not be marked as the best."""

SMOOTHED = "smoothing"
"""The `attack` of a flag that concerns the smoothed classifier."""


@frozen
class Flag:
    """A warning that belongs beside a figure.

    Args:
        name: one of `NAMES`.
        text: one line with the finding, its numbers, and what to do about it.
        attack: the label of the attack it is about, or `SMOOTHED`; None where it is about the network or all attacks.
    """

    name: str = field()
    text: str
    attack: str | None = None

    @name.validator
    def _known(self, attribute: Attribute[str], name: str) -> None:
        if name not in NAMES:
            raise ValueError(f"{name!r} is no flag; {', '.join(NAMES)} would do")

    def plain(self) -> dict[str, str | None]:
        """Give the flag as plain data, which `of` reads back."""
        return {"name": self.name, "text": self.text, "attack": self.attack}

    @staticmethod
    def of(plain: Mapping[str, Any]) -> Flag:
        """Read the flag that `plain` wrote.

        Raises:
            InputError: the data is not a flag.
        """
        name, text, attack = plain.get("name"), plain.get("text"), plain.get("attack")
        known = isinstance(name, str) and name in NAMES
        if set(plain) - {"name", "text", "attack"} or not known or not isinstance(text, str):
            raise InputError(f"no flag: {dict(plain)!r}; a name of {', '.join(NAMES)} and a text would do")
        if not isinstance(attack, str | None):
            raise InputError(f"a flag's attack is a label or null, found {attack!r}")
        return Flag(str(name), text, attack)
