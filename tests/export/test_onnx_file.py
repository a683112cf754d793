"""The ONNX file is the network, or it is not written."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch
from torch import Tensor, nn

from robustnas.errors import InputError, RunError
from robustnas.export import onnx_file
from robustnas.nn.normalize import PixelNetwork
from robustnas_plugins.search_spaces.darts import Darts

needs_onnx = pytest.mark.skipif(
    find_spec("onnx") is None or find_spec("onnxruntime") is None,
    reason="needs onnx and onnxruntime: pip install 'robustnas[onnx]'",
)


class Layers(nn.Module):
    """A convolution, batch norm, something, and pooling to `size` x `size`."""

    def __init__(self, something: nn.Module, size: int = 1):
        super().__init__()
        self.size = size
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), something)
        self.classifier = nn.Linear(4 * size * size, 5)

    def forward(self, images: Tensor) -> Tensor:
        state = nn.functional.adaptive_avg_pool2d(self.layers(images), self.size)
        logits: Tensor = self.classifier(nn.functional.dropout(state.flatten(1), 0.5, self.training))
        return logits


def layers(something: nn.Module, size: int = 1) -> Layers:
    torch.manual_seed(0)
    network = Layers(something, size)
    norm = network.layers[1]
    assert isinstance(norm, nn.BatchNorm2d)
    assert isinstance(norm.running_mean, Tensor)
    assert isinstance(norm.running_var, Tensor)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2.0)
    return network.eval()


def disagreement(network: nn.Module, images: Tensor) -> float:
    """How far the logits of the file are from the network's, as a share of the largest."""
    agreement = onnx_file.compare(onnx_file.encode(network, images[0]), network, images, 0.1)
    assert agreement is not None
    assert agreement.images == 2 * len(images)
    return agreement.relative_to_largest_logit


SOMETHING: dict[str, nn.Module] = {
    "nothing": nn.Identity(),
    "max pool, overlapping": nn.MaxPool2d(3, 2, 1),
    "max pool, ceil": nn.MaxPool2d(2, 2, ceil_mode=True),
    "average pool, padding not counted": nn.AvgPool2d(3, 1, 1, count_include_pad=False),
    "average pool, ceil, padding not counted": nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
    "average pool, ceil, padding counted": nn.AvgPool2d(3, 2, 1, ceil_mode=True),
    "silu": nn.SiLU(),
    "gelu": nn.GELU(),
    "hard-swish": nn.Hardswish(),
}


@needs_onnx
@pytest.mark.parametrize("name", SOMETHING)
def test_the_file_is_the_network(name: str) -> None:
    network, images = layers(SOMETHING[name]), torch.rand(3, 3, 7, 7)
    network.train()  # the file is of the network in eval mode, whatever mode it is in
    assert disagreement(network, images) < 1e-5
    assert network.training


@needs_onnx
@pytest.mark.parametrize("genotype", ["DARTS_V1", "DARTS_V2", "NASNet-A", "PC_DARTS_CIFAR"])
def test_networks_of_the_darts_space_survive(genotype: str) -> None:
    """With both kinds of cells and a reduction before a normal cell: every way of halving is there."""
    space = Darts(network_cells=4, network_channels=2)
    torch.manual_seed(0)
    network = PixelNetwork(space.network(space.published[genotype], (3, 9, 9), 4), (0.5,) * 3, (0.2, 0.3, 0.4))
    images = torch.rand(2, 3, 9, 9)
    with torch.no_grad():
        for _ in range(3):
            network.train()(torch.rand(16, 3, 9, 9))  # running statistics worth the name
    assert disagreement(network, images) < 1e-4


@needs_onnx
def test_weights_in_another_layout_and_adaptive_pooling_survive() -> None:
    network = layers(nn.ReLU(), size=2).to(memory_format=torch.channels_last)
    assert disagreement(network, torch.rand(2, 3, 8, 8).to(memory_format=torch.channels_last)) < 1e-5


@needs_onnx
def test_a_file_that_computes_something_else_is_refused() -> None:
    """The exporter drops `divisor_override` without a word; a file of other weights would be the same fault."""
    network, images = layers(nn.AvgPool2d(3, 1, 1, divisor_override=4)), torch.rand(2, 3, 7, 7)
    data = onnx_file.encode(network, images[0])
    with pytest.raises(RunError, match="is not the network"):
        onnx_file.compare(data, network, images, 0.1)


@needs_onnx
def test_what_has_no_form_in_onnx_is_refused_in_a_line(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match=r"cannot be written as ONNX: .*adaptive_avg_pool2d"):
        onnx_file.encode(layers(nn.Identity(), size=3), torch.rand(3, 8, 8))
    assert capfd.readouterr() == ("", ""), "the exporter prints the whole graph"
    with pytest.raises(InputError, match=r"cannot be written as ONNX: .*channels"):
        onnx_file.encode(layers(nn.Identity()), torch.rand(4, 8, 8))
    with pytest.raises(InputError, match=r"float64; float32 would do"):
        onnx_file.encode(layers(nn.Identity()).double(), torch.rand(3, 8, 8, dtype=torch.float64))
