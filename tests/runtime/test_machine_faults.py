"""Faults of the machine are told from faults of the code, with what would do."""

from __future__ import annotations

import pytest
import torch

from robustnas.errors import RunError
from robustnas.plan import KINDS
from robustnas.runtime.interrupt import Interrupted
from robustnas.runtime.machine_faults import CHANGES, blaming, device_lost, explain, out_of_memory
from robustnas.search.settings import Search
from robustnas.train.settings import Train

CUDA_FULL = (
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.10 GiB of which 10.50 GiB is "
    "free. Including non-PyTorch memory, this process has 68.59 GiB memory in use."
)
FULL = [
    torch.OutOfMemoryError(CUDA_FULL),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried "
                 "to allocate 4096000000 bytes. Error code 12 (Cannot allocate memory)"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:80] data. DefaultCPUAllocator: not enough memory: you tried to "
                 "allocate 4096000000 bytes."),
    RuntimeError("MPS backend out of memory (MPS allocated: 9.00 GB, other allocations: 1.00 MB, max allowed: 9.07 GB)."
                 " Tried to allocate 256.00 MB on private pool."),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    MemoryError(),
]  # fmt: skip
LOST = [
    RuntimeError("CUDA error: unspecified launch failure\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("No CUDA GPUs are available"),
    RuntimeError("NCCL error in: ProcessGroupNCCL.cpp:3356, unhandled cuda error"),
    RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1234"),
]
OTHER = [
    ValueError("CUDA error: not one of torch's"),
    RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
    RuntimeError("CUDA error: device-side assert triggered"),
    RuntimeError("CUDA error: no kernel image is available for execution on the device"),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"),
    KeyError("memory"),
]
if hasattr(torch, "AcceleratorError"):
    LOST.append(torch.AcceleratorError("unspecified launch failure"))
    OTHER.append(torch.AcceleratorError("CUDA error: device-side assert triggered"))


@pytest.mark.parametrize("fault", FULL, ids=lambda fault: str(fault)[:40])
@pytest.mark.parametrize("kind", KINDS)
def test_too_little_memory_says_which_key(fault, kind):
    assert out_of_memory(fault)
    assert not device_lost(fault)
    told = explain(fault, kind)
    assert type(told) is RunError
    keys = {
        "search": "search.batch",
        "train": "train.batch",
        "candidate": "train.batch",
        "choose": "train.batch",
        "supernet": "search.batch",
        "score": "rank.batch",
        "probe": "evaluate.images",
        "certify": "certify.batch",
        "smooth": "smoothing.batch",
    }
    key = keys.get(kind, "evaluate.batch")
    assert str(told).startswith("out of memory")
    assert key in str(told)
    assert "intact" in str(told)
    assert "\n" not in str(told)
    for other in ("search.accumulate", "search.recompute_cells"):
        assert (other in str(told)) == (kind == "search")
    assert ("certify.method" in str(told)) == (kind == "certify")


def test_the_figures_of_the_message_are_kept():
    said = [str(explain(fault, "search")).split(":")[0] for fault in FULL[:4]]
    assert said == [
        "out of memory (20.00 GiB more were asked for, 10.50 GiB of 79.10 GiB were free)",
        "out of memory (4.1 GB more were asked for)",
        "out of memory (4.1 GB more were asked for)",
        "out of memory (256.00 MB more were asked for, 9.07 GB is all)",
    ]


def test_a_real_allocation_that_fails():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert "evaluate.batch" in str(explain(caught.value, "attack"))
    with pytest.raises(MemoryError) as plain:
        bytearray(2**60)
    assert "train.recompute_cells" in str(explain(plain.value, "train"))


@pytest.mark.parametrize("fault", LOST, ids=lambda fault: str(fault)[:40])
def test_a_device_that_is_gone_loses_nothing(fault):
    assert device_lost(fault)
    told = str(explain(fault, "search"))
    assert "was lost" in told
    assert str(fault).splitlines()[0] in told
    assert "run the same command again" in told
    assert "\n" not in told


@pytest.mark.parametrize("fault", OTHER, ids=lambda fault: str(fault)[:40])
def test_other_faults_are_left_alone(fault):
    assert explain(fault, "search") is None
    assert not out_of_memory(fault)
    assert not device_lost(fault)


def test_every_kind_of_stage_has_advice_in_keys_that_exist():
    assert set(CHANGES) == set(KINDS)
    for section, cls in (("search", Search), ("train", Train)):
        names = {field.name for field in cls.__attrs_attrs__}
        told = CHANGES[section]
        keys = {word.strip(",:.") for word in told.split() if word.startswith(f"{section}.")}
        assert len(keys) >= 3
        assert {key.partition(".")[2] for key in keys} <= names


def test_what_a_network_raises_is_its_own_and_the_machines_faults_pass():
    for fault in (FULL[0], LOST[0], Interrupted(), RunError("ours")):
        with pytest.raises(type(fault)) as passed, blaming("the network", "in its forward pass"):
            raise fault
        assert passed.value is fault
    with (
        pytest.raises(RunError, match=r"^the network raised KeyError in its forward pass: 'x'$"),
        blaming("the network", "in its forward pass"),
    ):
        raise KeyError("x")
    with pytest.raises(RunError, match=r"^attack a raised SystemExit on image 3$"), blaming("attack a", "on image 3"):
        raise SystemExit
