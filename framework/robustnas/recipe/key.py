"""A key of a section of a recipe, and a rule that two sections share."""

from __future__ import annotations

from typing import Any

from attrs import field
from attrs.validators import and_


def key(default: Any, help: str, *validators: Any, **metadata: Any) -> Any:
    """A field of a section: its default, its line of documentation, and its rules."""
    return field(
        default=default,
        validator=and_(*validators) if validators else None,
        metadata={"help": help, **metadata},
    )


def two_images_a_part(batch: int, accumulate: int) -> None:
    """Refuse parts of a batch in which batch norm has nothing to average."""
    if accumulate > 1 and batch < 2 * accumulate:
        raise ValueError(
            f"found {accumulate} parts of batch: {batch}, and batch norm needs two images a part; "
            f"at most {max(batch // 2, 1)} would do, or a larger batch"
        )
