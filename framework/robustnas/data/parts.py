"""The parts of a batch that is computed one part after the other, as sections of a recipe ask for them."""

from __future__ import annotations


def two_images_a_part(batch: int, accumulate: int) -> None:
    """Refuse parts of a batch in which batch norm has nothing to average.

    Args:
        batch: images in a batch.
        accumulate: parts it is computed in.

    Raises:
        ValueError: a part would have fewer than two images.
    """
    if accumulate > 1 and batch < 2 * accumulate:
        raise ValueError(
            f"found {accumulate} parts of batch: {batch}, and batch norm needs two images a part; "
            f"at most {max(batch // 2, 1)} would do, or a larger batch"
        )
