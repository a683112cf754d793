"""Runs plain passes through compiled code, as the recipe's key `search.compile` asks.

`torch.compile` fuses the passes over memory of a forward and a backward pass; on a CUDA device it also records each as
one CUDA graph, so that a step of hundreds of small kernels is launched at once.  Passes that are differentiated twice,
and those of metrics, are not compiled.

Compiling takes minutes for a deep supernet, and needs a C++ compiler on the CPU and Triton on CUDA.  Where it does not
work the search goes on without it, and says why.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from robustnas.nn.normalize import PixelSupernet
from robustnas.runtime import terminal
from robustnas.runtime.strangers import described

VARIANTS = 16
"""One forward pass may be compiled in so many versions: with batch norm's momentum on or off, with weights in place or
exchanged, for the smaller last batch of an epoch, with and without gradients of w and of alpha."""


class Compiled:
    """A supernet's forward pass, compiled; the uncompiled one from the first failure on.

    Args:
        supernet: what is compiled, when it is first called.
        backend: of torch.compile.

    Attributes:
        why_not: what went wrong; None while the compiled code is used.
    """

    def __init__(self, supernet: PixelSupernet, backend: str = "inductor"):
        import torch._dynamo

        self.supernet = supernet
        self.why_not: str | None = None
        graphs = next(supernet.parameters()).device.type == "cuda"
        self._graphs = graphs
        # hooks are set for some passes only, to note the running variance without its correction: compiled code must
        # be guarded against that
        self._settings = torch._dynamo.config.patch(  # type: ignore[attr-defined]
            skip_nnmodule_hook_guards=False, recompile_limit=VARIANTS, suppress_errors=False
        )
        mode = "reduce-overhead" if graphs and backend == "inductor" else None
        self._forward = torch.compile(supernet.forward, dynamic=False, mode=mode, backend=backend)

    def __call__(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, K) logits."""
        if self.why_not is None:
            try:
                return self._run(images)
            except Exception as fault:
                if not _of_the_compiler(fault):
                    raise
                self.why_not = described(fault)
                terminal.tell(f"robustnas: search.compile: going on without: {self.why_not}", error=True)
        logits: Tensor = self.supernet(images)
        return logits

    def _run(self, images: Tensor) -> Tensor:
        if self._graphs:
            # the logits of the pass before are no longer needed, so their memory may be overwritten
            torch.compiler.cudagraph_mark_step_begin()
        with self._settings:
            logits: Tensor = self._forward(images)
        return logits


def _of_the_compiler(fault: Exception) -> Any:
    """Whether the fault comes from compiling rather than from what is compiled."""
    return type(fault).__module__.startswith(("torch._dynamo", "torch._inductor", "torch._functorch"))
