"""`README.txt` of a bundle: what lies in the folder, what is claimed and how it is checked, for a reader without us."""

from __future__ import annotations

from typing import Any

TEXT = """\
A trained network, properties of its local robustness, and certificates that are claimed for them.

{files}

Threat: {norm} {epsilon!r}, pixels in [0, 1].
{meaning}

Claim: {claim}.
  {certified} of {images} images are certified, by {method} ({source}).
  margin: least certified difference between the logit of the label and another one, over all admissible images.
  What is certified was confirmed in float64 and lowered by a slack for rounding; it is not exact arithmetic.
An image that is not certified is not claimed to be broken.

To refute the claim: run a verifier on the instances.  The image of a `sat` is a counterexample if it is admissible and
the network, run on it, confirms it; for a certified image there is none.

Numbers in the properties are {decimals}.
{compared}
sha256 of {network}: {sha256}
Versions: {versions}
Written by: {command}
"""

EXACT = "A property is satisfiable exactly if some admissible image is not classified as the label."
ENCLOSING = """\
The properties are about the box around the ball, which is larger: `unsat` proves the ball robust, `sat` says nothing
about it."""


def readme(manifest: dict[str, Any]) -> str:
    """The text, from the manifest's figures."""
    network, properties, claims = manifest["network"], manifest["properties"], manifest["certificates"]
    first, *others = properties["vnnlib"]
    takes = f"X {network['input']} in [0, 1], Y {network['output']} logits"
    files = {
        network["file"]: f"ONNX, operator set {network['operator_set']}, float32; {takes}",
        **{f"vnnlib-{version}/": "a property an image" for version in properties["vnnlib"]},
        "instances.csv": f"onnx, vnnlib, timeout in seconds; VNN-LIB {first}",
        **{f"instances-{version}.csv": f"the same for VNN-LIB {version}" for version in others},
        "certificates.csv": "what is claimed of each image",
        "manifest.json": "what is said here, for programs",
    }
    return TEXT.format(
        files="\n".join(f"  {name:<20}{what}" for name, what in files.items()),
        norm=properties["threat"]["norm"],
        epsilon=properties["threat"]["epsilon"],
        meaning=EXACT if properties["exact"] else ENCLOSING,
        claim=manifest["claim"],
        certified=claims["certified"],
        images=properties["images"],
        method=claims["method"],
        source=claims["source"],
        decimals=properties["decimals"],
        compared=_compared(network["compared_with_torch"]),
        network=network["file"],
        sha256=network["sha256"],
        versions=", ".join(f"{name} {found or 'none'}" for name, found in manifest["versions"].items()),
        command=manifest["command"],
    )


def _compared(compared: dict[str, Any] | str) -> str:
    if isinstance(compared, str):
        return f"The logits of the file and of torch were {compared}."
    return (
        f"The logits of the file, by {compared['by']}, and of torch differ by at most "
        f"{compared['largest_difference']:.1e} on {compared['images']} images, "
        f"{compared['relative_to_largest_logit']:.1e} of the largest logit."
    )
