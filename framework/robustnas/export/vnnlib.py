"""One image's property in VNN-LIB, both versions: there is an image in the box that is not classified as `label`.

    version 1.0     (declare-const X_0 Real)                      flat names, as VNN-COMP's first benchmarks have them
    version 2.0     (declare-input X float32 [1,1,28,28])         tensors; arXiv:2605.07451, www.vnnlib.org

The property is satisfiable exactly if the network is not robust there, so a verifier's `unsat` is a proof of
robustness and its `sat` is a counterexample.  A tie of two logits counts as one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product

from robustnas.export.box import Box


def version_1(box: Box, label: int, classes: int, comments: Sequence[str] = ()) -> str:
    """The property in VNN-LIB 1.0.

    Args:
        box: admissible images.
        label: the class that all of them should have.
        classes: number of logits.
        comments: lines for its head.
    """
    inputs, outputs = range(len(box.lower)), range(classes)
    lines = [
        *_head(comments),
        *(f"(declare-const X_{index} Real)" for index in inputs),
        *(f"(declare-const Y_{index} Real)" for index in outputs),
        "",
        *_bounds(box, [f"X_{index}" for index in inputs]),
        "(assert (or",
        *(f"    (and (>= Y_{other} Y_{label}))" for other in outputs if other != label),
        "))",
    ]
    return "\n".join(lines) + "\n"


def version_2(box: Box, label: int, classes: int, comments: Sequence[str] = ()) -> str:
    """The property in VNN-LIB 2.0; arguments as for `version_1`."""
    shape = ",".join(map(str, (1, *box.shape)))
    places = product((0,), *(range(size) for size in box.shape))
    lines = [
        *_head(comments),
        "(vnnlib-version <2.0>)",
        "(declare-network network",
        f"    (declare-input X float32 [{shape}])",
        f"    (declare-output Y float32 [1,{classes}])",
        ")",
        "",
        *_bounds(box, [f"X[{','.join(map(str, place))}]" for place in places]),
        "(assert (or",
        *(f"    (>= Y[0,{other}] Y[0,{label}])" for other in range(classes) if other != label),
        "))",
    ]
    return "\n".join(lines) + "\n"


def _head(comments: Sequence[str]) -> Iterator[str]:
    yield from (f"; {comment}" for comment in comments)
    yield ""


def _bounds(box: Box, names: Sequence[str]) -> Iterator[str]:
    for name, lower, upper in zip(names, box.lower, box.upper, strict=True):
        yield f"(assert (>= {name} {lower}))"
        yield f"(assert (<= {name} {upper}))"
    yield ""


WRITERS: Mapping[str, Callable[[Box, int, int, Sequence[str]], str]] = {"1.0": version_1, "2.0": version_2}
"""By version."""
