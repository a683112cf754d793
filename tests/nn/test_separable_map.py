"""Depthwise-separable layers with fixed batch norm: values and derivatives of three orders are plain torch's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from robustnas.nn.fast import Form, StageShape, plain, separable

CASES = {
    "all operations of a state": (StageShape(3, 1, (1, 1, 2, 2), True), 2, 2, (3, 5, 3, 5), 6),
    "operations that are joined": (StageShape(2, 1, (1, 1, 2), True), 1, 2, (3, 5, 3), 4),
    "of a stride": (StageShape(2, 2, (1, 2), True), 2, 3, (3, 3), 5),
    "of the next stage": (StageShape(2, 1, (1, 1), False), 1, 2, (3, 5), 8),
    "of many channels": (StageShape(2, 1, (1, 2), True), 1, 10, (3, 5), 6),
    "of one edge": (StageShape(1, 1, (1, 1), False), 2, 9, (3, 3), 7),
}


def arguments(name: str) -> tuple[Form, list[Tensor]]:
    """The form, and bias, pointwise weight, image and depthwise weights."""
    shape, ending, channels, kernels, size = CASES[name]
    draw = torch.Generator().manual_seed(1)
    count, edges = len(kernels), shape.edges

    def normal(*sizes: int) -> Tensor:
        return torch.randn(*sizes, dtype=torch.float64, generator=draw)

    x = normal(2, channels if shape.shared else count * edges * channels, size, size)
    tensors = [normal(count * edges * channels), normal(count * edges * channels, channels, 1, 1)]
    tensors += [x.to(memory_format=torch.channels_last)]
    tensors += [normal(edges * channels, 1, kernel, kernel) for kernel in kernels]
    return Form(shape, ending), [tensor.requires_grad_() for tensor in tensors]


def derivatives(name: str, places: slice) -> list[Tensor]:
    """Outputs and derivatives of three orders in the image and in the tensors at these places."""
    form, tensors = arguments(name)
    bias, pointwise, x, *depthwise = tensors
    chosen = [tensor for tensor in tensors[places] if tensor is not x]
    draw = torch.Generator().manual_seed(2)

    def weights(of: Tensor) -> Tensor:
        return torch.randn(of.shape, dtype=of.dtype, generator=draw)

    outputs = separable(form, x, depthwise, pointwise, bias)
    found = list(outputs)
    slopes = [weights(output).requires_grad_() for output in outputs]
    (pulled,) = torch.autograd.grad(outputs, x, slopes, create_graph=True)
    found += [pulled, *torch.autograd.grad(outputs, [x, *chosen], slopes, retain_graph=True)]
    function = (pulled * weights(pulled)).sum() + (outputs[0] * weights(outputs[0])).sum()
    second = [*slopes, *(tensor for tensor in chosen if tensor is not bias)]
    found += torch.autograd.grad(function, [x, *second], retain_graph=True, allow_unused=True, materialize_grads=True)
    rows = torch.stack([pulled, 2 * pulled]) * weights(torch.stack([pulled] * 2))
    graph = torch.autograd.grad(function, second, create_graph=True, allow_unused=True, materialize_grads=True)
    more = sum((gradient * weights(gradient)).sum() for gradient in graph)
    assert isinstance(more, Tensor)
    found += torch.autograd.grad(more, [x, *second], allow_unused=True, materialize_grads=True)
    return [*found, rows]


@pytest.mark.parametrize("places", [slice(0, 2), slice(0, 20)], ids=["pointwise", "all weights"])
@pytest.mark.parametrize("name", CASES)
def test_values_and_three_derivatives_are_torchs(name: str, places: slice):
    found = derivatives(name, places)
    with plain():
        expected = derivatives(name, places)
    assert len(found) > 8
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_several_rows_of_slopes_are_pulled_back_at_once(name: str):
    form, (bias, pointwise, x, *depthwise) = arguments(name)
    outputs = separable(form, x, depthwise, pointwise, bias)
    draw = torch.Generator().manual_seed(3)
    slopes = [torch.randn(3, *output.shape, dtype=x.dtype, generator=draw).requires_grad_() for output in outputs]

    def pull(*rows: Tensor) -> Tensor:
        return torch.autograd.grad(outputs, x, rows, retain_graph=True, create_graph=True)[0]

    together = torch.func.vmap(pull)(*slopes)
    alone = torch.stack([pull(*rows) for rows in zip(*slopes, strict=True)])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)
    inputs = [pointwise, *depthwise, *slopes]
    gradients = [torch.autograd.grad(one.square().sum(), inputs, retain_graph=True) for one in (together, alone)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-10)
    # the same where weights are asked for as well
    both = torch.func.vmap(lambda *rows: torch.autograd.grad(outputs, (x, pointwise), rows, retain_graph=True))(
        *(slope.detach() for slope in slopes)
    )
    torch.testing.assert_close(both[0], alone, rtol=1e-12, atol=1e-12)


def test_a_form_keeps_what_it_makes_of_weights_and_not_of_other_ones():
    form, (_, pointwise, x, *depthwise) = arguments("operations that are joined")
    first = separable(form, x, depthwise, pointwise)
    other = separable(form, x, [-weight for weight in depthwise], pointwise)
    torch.testing.assert_close(other[0], -first[0])
    torch.testing.assert_close(separable(form, x, depthwise, 2 * pointwise)[0], 2 * first[0])
