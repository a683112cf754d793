"""A network as an ONNX file, and the proof by numbers that it is the same network.

The file takes one image, (1, C, H, W) in [0, 1], float32: normalisation is in the graph, weights are in the file, batch
norm stays as it is unless torch's exporter folds it into the convolution before it.  Operator set 13 is what most
verifiers read.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from attrs import frozen
from torch import Tensor, nn

from robustnas.errors import InputError, RobustnasError, RunError
from robustnas.nn.read_only import read_only
from robustnas.runtime import seeding
from robustnas.runtime.interrupt import wanted
from robustnas.runtime.precision import full_precision
from robustnas.runtime.strangers import first_line

OPERATOR_SET = 13
INPUT, OUTPUT = "X", "Y"
TOLERANCE = 1e-4
"""Largest difference of a logit from torch's, relative to the image's largest logit, with which a file is written."""


@frozen
class Agreement:
    """How far the file's logits are from torch's.

    Args:
        by: the program that ran the file.
        images: how many were compared.
        largest_difference: of a logit.
        relative_to_largest_logit: the largest difference as a share of the image's largest logit.
    """

    by: str
    images: int
    largest_difference: float
    relative_to_largest_logit: float


def encode(network: nn.Module, image: Tensor) -> bytes:
    """The ONNX file of a network.

    Args:
        network: (1, C, H, W) in [0, 1] -> (1, K) logits; float32, on the CPU.
        image: (C, H, W) float32, an example.

    Raises:
        InputError: the package onnx is missing, the network is not float32, or it does something ONNX has no form for.
    """
    onnx = needed()
    other = {str(tensor.dtype) for tensor in network.state_dict().values() if tensor.is_floating_point()}
    if other - {"torch.float32"}:
        raise InputError(f"the network holds {', '.join(sorted(other))}; float32 would do")
    file = io.BytesIO()
    with read_only(network), torch.no_grad(), _silenced():
        try:
            torch.onnx.export(
                network,
                (image[None],),
                file,  # type: ignore[arg-type]
                dynamo=False,
                opset_version=OPERATOR_SET,
                input_names=[INPUT],
                output_names=[OUTPUT],
            )
        except RobustnasError:
            raise
        except BaseException as fault:  # a stranger's network in torch's exporter, which raises many kinds
            if wanted(fault):
                raise
            why = first_line(fault)
            raise InputError(f"the network cannot be written as ONNX: {why}") from fault
    data = file.getvalue()
    try:
        onnx.checker.check_model(onnx.load_from_string(data), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as fault:
        raise RunError(f"torch wrote a file that is no valid ONNX: {fault}") from fault
    return data


@contextmanager
def _silenced() -> Iterator[None]:
    """Torch's exporter without what it prints; what it raises, and what it warns of in the network, passes.

    Where a function has no form in ONNX it prints the whole graph before it raises: it takes its log for switched on,
    having looked at a function instead of calling it (torch 2.6 to 2.14), and switches it on.  The exporter that traces
    is deprecated from torch 2.9 on and says so several times over; the one in its place needs two more packages and
    writes an operator set that few verifiers read.
    """
    internals: Any = torch._C
    switch = internals._jit_set_onnx_log_enabled
    switch(False)
    internals._jit_set_onnx_log_enabled = lambda enabled: None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            # that it writes a function as one that is not in place: `compare` says whether that is the same
            warnings.filterwarnings("ignore", message="ONNX Preprocess")
            yield
    finally:
        internals._jit_set_onnx_log_enabled = switch


def compare(data: bytes, network: nn.Module, images: Tensor, epsilon: float) -> Agreement | None:
    """Run the file on images and on a random corner of each one's box, and compare with torch.

    Args:
        data: the file.
        network: what it was made from.
        images: (N, C, H, W) in [0, 1].
        epsilon: half width of the boxes, pixel units.

    Returns:
        None where onnxruntime is not installed.

    Raises:
        RunError: they differ by more than TOLERANCE.
    """
    try:
        runtime = import_module("onnxruntime")
    except ImportError:
        return None
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # its advice about graphs is of no use here
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    generator = seeding.generator(0, "export", "corners")
    signs = torch.randint(0, 2, images.shape, generator=generator) * 2 - 1
    compared = torch.cat([images, (images + epsilon * signs).clamp(0.0, 1.0)])
    absolute = relative = 0.0
    with read_only(network), full_precision(), torch.no_grad():
        for image in compared.split(1):
            ours = network(image)
            theirs = torch.from_numpy(session.run([OUTPUT], {INPUT: image.numpy()})[0])
            if theirs.shape != ours.shape or not bool(theirs.isfinite().all()):
                raise RunError(f"the ONNX file gives {theirs.tolist()} where torch gives {ours.tolist()}")
            difference = float((theirs - ours).abs().max())
            absolute = max(absolute, difference)
            relative = max(relative, difference / max(float(ours.abs().max()), 1e-30))
    if relative > TOLERANCE:
        raise RunError(
            f"the ONNX file is not the network: its logits differ from torch's by {relative:.1e} of the largest, more "
            f"than {TOLERANCE:g}; one of its operations means something else there, and nothing was written"
        )
    return Agreement(f"onnxruntime {runtime.__version__}", len(compared), absolute, relative)


def needed() -> ModuleType:
    """The package onnx, with its parts that check a file.

    Raises:
        InputError: it is missing.
    """
    try:
        import_module("onnx.checker")
        import_module("onnx.shape_inference")
        return import_module("onnx")
    except ImportError as fault:
        raise InputError(f"export needs the package onnx ({fault}): pip install 'robustnas[onnx]'") from fault
