"""Depthwise-separable layers with fixed batch norm: one linear map of a rectified state, for all operations and edges.

    mixed_e    =  sum over the operations that end here of  P_oe D_oe x_oe + b_oe
    beyond_oe  =  P_oe D_oe x_oe + b_oe                         of each of the others

`separable_stage` computes what a pass in training mode does, with the rectifier; here is what bounds and Jacobians are
made of.  Everything follows from one form in image x, depthwise weights D, pointwise weights P and a tensor y of the
outputs' shape, T(x, D, P, y) = < P D x, y >: the map is T's gradient in y and the transposed map T's gradient in x.
Whichever of the two is differentiated, what arrives stands where the result stood, and gradients are T's again:

    map          y from x      gradients in D, P from (x, what arrives),  in x the transposed map
    transposed   x from y      gradients in D, P from (what arrives, y),  in y the map

Each is one step of autograd.  Bounded values find their rule under the name of `separable`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce
from operator import add
from typing import Any

import torch
from attrs import field, frozen
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from robustnas.nn.fast import switch
from robustnas.nn.fast.convolution import conv2d, kernels
from robustnas.nn.fast.convolution.derivatives import wanted
from robustnas.nn.fast.convolution.geometry import Geometry
from robustnas.nn.fast.convolution.pointwise import DENSE, ROWS, correlate, image, pixels
from robustnas.nn.fast.rows import has_rows, of_rows
from robustnas.nn.fast.separable_stage import (
    StageShape,
    by_hand,
    depthwise_geometry,
    folded,
    joined_kernel,
    repeated,
    taken_apart,
)

Outputs = tuple[Tensor, ...]


def separable(
    form: Form,
    x: Tensor,
    depthwise: Sequence[Tensor],
    pointwise: Tensor,
    bias: Tensor | None = None,
) -> Outputs:
    """The outputs of M operations on a rectified image.

    Args:
        form: of the stage; the same one for all images that are seen with the same weights.
        x: one state (N, C, H, W) if it is shared, else (N, M * edges * C, H, W).
        depthwise: M weights (edges * C, 1, k, k).
        pointwise: (M * edges * C', C, 1, 1).
        bias: (M * edges * C',).

    Returns:
        The sum of those that end (N, edges * C', H', W'), and, where there are others, these, joined.
    """
    if has_torch_function((x,)):
        outputs: Outputs = handle_torch_function(separable, (x,), form, x, depthwise, pointwise, bias)
        return outputs
    if not switch.is_on("stages") or not by_hand(x, pointwise, *depthwise):
        return composed_of_convolutions(form, x, depthwise, pointwise, bias)
    if torch.is_grad_enabled():
        outputs = _Map.apply(form, bias, pointwise, x, *depthwise)  # type: ignore[no-untyped-call]
    else:
        outputs = form.mapped(form.inner(x, depthwise), pointwise, bias)
    return outputs


def composed_of_convolutions(
    form: Form, x: Tensor, depthwise: Sequence[Tensor], pointwise: Tensor, bias: Tensor | None
) -> Outputs:
    """`separable` by functions that every kind of tensor and every order of differentiation has."""
    shape, ending = form.shape, form.ending
    count, edges = len(depthwise), shape.edges
    seen = [torch.cat([x] * edges, dim=1)] * count if shape.shared else x.chunk(count, dim=1)
    biases = [None] * count if bias is None else bias.chunk(count)
    outputs = [
        conv2d(
            conv2d(one, weight, None, shape.stride, dilation * (weight.shape[2] // 2), dilation, len(weight)),
            matrix,
            own,
            groups=edges,
        )
        for one, weight, dilation, matrix, own in zip(
            seen, depthwise, shape.dilations, pointwise.chunk(count), biases, strict=True
        )
    ]
    mixed, beyond = reduce(add, outputs[:ending]), outputs[ending:]
    return (mixed, torch.cat(beyond, dim=1)) if beyond else (mixed,)


@frozen(eq=False)
class _Inner:
    """What the depthwise convolutions of a stage see and make: one of each operation, or one of all, joined.

    Args:
        geometries, weights: of each convolution.
        seen: what each convolves, (N, edges * C, H, W) or joined.
        made: its output.
        count: number of operations.
        edges: of each operation.
    """

    geometries: list[Geometry]
    weights: Sequence[Tensor]
    seen: list[Tensor]
    made: list[Tensor]
    count: int
    edges: int

    def rows(self, operation: int) -> Tensor:
        """What an operation's convolution made: (L, edges, C), a row for each pixel."""
        return _rows(self.made, operation, self.count, self.edges)


def _rows(tensors: Sequence[Tensor], operation: int, count: int, edges: int) -> Tensor:
    """The rows of one operation, of a tensor for each or of all joined."""
    if len(tensors) == count:
        return pixels(tensors[operation], edges)
    return pixels(tensors[0], count * edges)[:, operation * edges : (operation + 1) * edges]


@frozen(eq=False)
class Form:
    """The form T of a stage: its maps and gradients, on tensors without a graph.

    What it makes of weights it keeps, so it is made anew where these have changed.

    Args:
        shape: of the stage.
        ending: how many operations, the first ones and 1 or more, are added up.
    """

    shape: StageShape
    ending: int
    _made: dict[Any, Any] = field(init=False, factory=dict)

    @property
    def count(self) -> int:
        """The number of operations."""
        return len(self.shape.dilations)

    def convolutions(self, size: Any, depthwise: Sequence[Tensor]) -> tuple[list[Geometry], Sequence[Tensor]]:
        """Geometry and weight of each depthwise convolution of images of this size (N, C, H, W)."""
        key = (*size, *map(id, depthwise))
        if key not in self._made:
            joint = joined_kernel(self.shape, depthwise, size)
            weights, dilations = ([joint], (1,)) if joint is not None else (depthwise, self.shape.dilations)
            geometries = [
                depthwise_geometry((len(weight), *size[2:]), weight, self.shape.stride, dilation)
                for weight, dilation in zip(weights, dilations, strict=True)
            ]
            # the weights themselves are kept, lest others be given their `id`
            self._made[key] = geometries, weights, depthwise
        geometries, weights, _ = self._made[key]
        return geometries, weights

    def product(self, pointwise: Tensor) -> Product:
        """What multiplies by an operation's pointwise weights."""
        if id(pointwise) not in self._made:
            matrices = pointwise.view(self.count, self.shape.edges, -1, pointwise.shape[1])
            self._made[id(pointwise)] = Product.of(matrices), pointwise
        product: Product = self._made[id(pointwise)][0]
        return product

    def seen(self, x: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
        """What each depthwise convolution convolves."""
        if self.shape.shared:
            return [repeated(x, self.shape.edges * (self.count // len(weights)))] * len(weights)
        return [x] if len(weights) == 1 else list(x.chunk(len(weights), dim=1))

    def inner(self, x: Tensor, depthwise: Sequence[Tensor]) -> _Inner:
        """The depthwise convolutions of x."""
        geometries, weights = self.convolutions(x.shape, depthwise)
        seen = self.seen(x, weights)
        made = [
            kernels.convolve(geometry, one, weight)
            for geometry, one, weight in zip(geometries, seen, weights, strict=True)
        ]
        return _Inner(geometries, weights, seen, made, self.count, self.shape.edges)

    def mapped(self, inner: _Inner, pointwise: Tensor, bias: Tensor | None) -> Outputs:
        """The map's outputs, given its depthwise convolutions."""
        count, edges, ending, like = self.count, self.shape.edges, self.ending, inner.made[0]
        product = self.product(pointwise)
        width = product.matrices.shape[2]
        first = inner.rows(0)
        mixed = first.new_empty(len(first), edges, width)
        beyond = first.new_empty(len(first), (count - ending) * edges, width)
        for operation in range(count):
            place = (operation - ending) * edges
            target = mixed if operation < ending else beyond[:, place : place + edges]
            product.write(target, inner.rows(operation), operation, adds=0 < operation < ending)
        outputs = [image(mixed, like)] + ([image(beyond, like)] if count > ending else [])
        if bias is not None:
            for output, own in zip(outputs, biases(bias, count, ending), strict=True):
                output.add_(own.view(1, -1, 1, 1))
        return tuple(outputs)

    def slopes(self, ys: Outputs, pointwise: Tensor, joined: bool) -> list[Tensor]:
        """P's transpose of tensors of the outputs' shape: what arrives at the depthwise convolutions."""
        count, edges = self.count, self.shape.edges
        product = self.product(pointwise)
        width = product.matrices.shape[3]
        first = pixels(ys[0], edges)
        together = first.new_empty(len(first), count * edges, width) if joined else None
        found = []
        for operation in range(count):
            if together is not None:
                target = together[:, operation * edges : (operation + 1) * edges]
            else:
                target = first.new_empty(len(first), edges, width)
                found.append(image(target, ys[0]))
            product.write(target, self.rows_of(ys, operation), operation, back=True)
        return found if together is None else [image(together, ys[0])]

    def rows_of(self, ys: Outputs, operation: int) -> Tensor:
        """The rows (L, edges, C') of what belongs to an operation's output."""
        if operation < self.ending:
            return pixels(ys[0], self.shape.edges)
        return _rows(ys[1:], operation - self.ending, self.count - self.ending, self.shape.edges)

    def transposed(self, geometries: list[Geometry], weights: Sequence[Tensor], slopes: list[Tensor]) -> Tensor:
        """D's transpose of what arrives at the depthwise convolutions: shaped as x."""
        parts = [
            kernels.image_gradient(geometry, weight, slope)
            for geometry, weight, slope in zip(geometries, weights, slopes, strict=True)
        ]
        if not self.shape.shared:
            return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        total = reduce(Tensor.add_, parts)
        return folded(total, self.shape.edges * (self.count // len(weights)))

    def by_pointwise(self, ys: Outputs, inner: _Inner, like: Tensor) -> Tensor:
        """T's gradient in P."""
        parts = [correlate(self.rows_of(ys, operation), inner.rows(operation)) for operation in range(self.count)]
        return torch.cat(parts).view_as(like)

    def by_depthwise(
        self, geometries: list[Geometry], seen: list[Tensor], slopes: list[Tensor], depthwise: Sequence[Tensor]
    ) -> list[Tensor]:
        """T's gradients in D."""
        found = [
            kernels.weight_gradient(geometry, one, slope)
            for geometry, one, slope in zip(geometries, seen, slopes, strict=True)
        ]
        return found if len(found) == len(depthwise) else taken_apart(self.shape, depthwise, found[0])


@frozen(eq=False)
class Product:
    """Products of rows with the matrices (M, E, C', C) of M operations.

    Args:
        matrices: as they are.
        dense: (M, E * C', E * C) block-diagonal ones: for few channels one product beats a product for each edge.
    """

    matrices: Tensor
    dense: Tensor | None

    @classmethod
    def of(cls, matrices: Tensor) -> Product:
        """The matrices, in both forms where both are of use."""
        count, edges, outs, ins = matrices.shape
        if edges == 1:
            return cls(matrices, matrices[:, 0])
        if max(ins, outs) > DENSE:
            return cls(matrices, None)
        dense = matrices.new_zeros(count, edges, outs, edges, ins)
        dense.diagonal(dim1=1, dim2=3).copy_(matrices.permute(0, 2, 3, 1))
        return cls(matrices, dense.view(count, edges * outs, edges * ins))

    def write(self, target: Tensor, rows: Tensor, operation: int, *, adds: bool = False, back: bool = False) -> None:
        """Write target[:, e] = matrix of the operation times rows[:, e], or add that to what is there.

        Args:
            target: (L, E, C').
            rows: (L, E, C); with `back`, (L, E, C') and the target (L, E, C), and the matrices are transposed.
        """
        beta = 1 if adds else 0
        if self.dense is not None:
            matrix = self.dense[operation]
            target.flatten(1).addmm_(rows.flatten(1), matrix if back else matrix.mT, beta=beta)
            return
        matrices = self.matrices[operation] if back else self.matrices[operation].mT
        for first in range(0, len(rows), ROWS):
            part = slice(first, first + ROWS)
            target[part].transpose(0, 1).baddbmm_(rows[part].transpose(0, 1), matrices, beta=beta)


def biases(bias: Tensor, count: int, ending: int) -> list[Tensor]:
    """What is added to each output, of the biases (M * edges * C',) of all operations."""
    width = len(bias) // count * ending
    mixed = bias[:width].view(ending, -1).sum(0)
    return [mixed, bias[width:]] if count > ending else [mixed]


class _Map(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, form: Form, bias: Tensor | None, pointwise: Tensor, x: Tensor, *depthwise: Tensor
    ) -> Outputs:
        inner = form.inner(x, depthwise)
        ctx.form, ctx.has_bias = form, bias is not None
        ctx.save_for_backward(pointwise, x, *depthwise, *(inner.made if ctx.needs_input_grad[2] else ()))
        return form.mapped(inner, pointwise, bias)

    @staticmethod
    def backward(ctx: Any, *ys: Tensor) -> tuple[Tensor | None, ...]:
        form = ctx.form
        count = form.count
        ys = tuple(map(kernels.in_rows, ys))
        pointwise, x, *rest = ctx.saved_tensors
        depthwise, made = rest[:count], rest[count:]
        needed = _needed(ctx)
        if torch.is_grad_enabled() or has_rows(*ys):
            if any(needed[:2]) or any(needed[3:]):
                return None, *_again(form, needed, ys, pointwise, x, depthwise)
            pull = partial(_pulled, form, len(ys), x.shape)
            pulled = (of_rows if has_rows(*ys) else _called)(pull, *ys, pointwise, *depthwise)
            return None, None, None, pulled, *[None] * count
        geometries, weights = form.convolutions(x.shape, depthwise)
        by_bias = by_pointwise = by_x = None
        by_depthwise: Sequence[Tensor | None] = [None] * count
        if needed[0]:
            parts = [pixels(y, 1).sum((0, 1)) for y in ys]
            by_bias = torch.cat([parts[0].repeat(form.ending), *parts[1:]])
        if needed[1]:
            inner = _Inner(geometries, weights, [], made, count, form.shape.edges)
            by_pointwise = form.by_pointwise(ys, inner, pointwise)
        if needed[2] or any(needed[3:]):
            slopes = form.slopes(ys, pointwise, len(weights) < count)
            by_x = form.transposed(geometries, weights, slopes) if needed[2] else None
            if any(needed[3:]):
                by_depthwise = form.by_depthwise(geometries, form.seen(x, weights), slopes, depthwise)
        return None, by_bias, by_pointwise, by_x, *by_depthwise


def _needed(ctx: Any) -> list[bool]:
    """Whether the pass under way uses the gradients in bias, pointwise weight, image and depthwise weights."""
    _, has_bias, *others = ctx.needs_input_grad
    first = int(ctx.has_bias)
    return [has_bias and wanted(ctx, 0), *(need and wanted(ctx, place) for place, need in enumerate(others, first))]


def _pulled(form: Form, outputs: int, size: Any, *tensors: Tensor) -> Tensor:
    """The transposed map of tensors of the outputs' shape, of which some may have rows (S, N, ...) in front."""
    ys, others = tensors[:outputs], tensors[outputs:]
    rows = next((y.shape[:2] for y in ys if y.dim() == 5), None)
    if rows is not None:
        whole = ((y if y.dim() == 5 else y.expand(rows[0], *y.shape)).flatten(0, 1) for y in ys)
        ys = tuple(map(kernels.in_rows, whole))
    pulled: Tensor = _Transposed.apply(form, outputs, size, *ys, *others)  # type: ignore[no-untyped-call]
    return pulled if rows is None else pulled.unflatten(0, rows)


def _called(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    return function(*tensors)


def _again(
    form: Form, needed: Sequence[bool], ys: Outputs, pointwise: Tensor, x: Tensor, depthwise: Sequence[Tensor]
) -> list[Tensor | None]:
    """The map's gradients with a graph, those in weights among them, which are differentiated more rarely."""
    bias = torch.zeros(len(pointwise), dtype=x.dtype, device=x.device, requires_grad=True)
    with torch.enable_grad():
        # an alias of each: the gradient is that of this place, also where two of them are one tensor
        places = [bias, *(tensor.view_as(tensor) for tensor in (pointwise, x, *depthwise))]
        outputs = composed_of_convolutions(form, places[2], places[3:], places[1], places[0])
        asked = [place for place, need in zip(places, needed, strict=True) if need]
        found = iter(torch.autograd.grad(outputs, asked, ys, create_graph=True))
    return [next(found) if need else None for need in needed]


def _transposed_again(
    form: Form, v: Tensor, ys: Outputs, pointwise: Tensor, depthwise: Sequence[Tensor]
) -> list[Tensor | None]:
    """The transposed map's gradients with a graph."""
    with torch.enable_grad():
        places = [tensor.view_as(tensor) for tensor in (*ys, pointwise, *depthwise)]
        ys, (pointwise, *depthwise) = tuple(places[: len(ys)]), places[len(ys) :]
        x = v.new_zeros(v.shape, requires_grad=True)
        outputs = composed_of_convolutions(form, x, depthwise, pointwise, None)
        (pulled,) = torch.autograd.grad(outputs, x, ys, create_graph=True)
        asked = [place for place in places if place.requires_grad]
        found = iter(torch.autograd.grad(pulled, asked, v, create_graph=True))
    return [next(found) if place.requires_grad else None for place in places]


class _Transposed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, form: Form, outputs: int, size: Any, *tensors: Tensor) -> Tensor:  # type: ignore[override]
        ys, (pointwise, *depthwise) = tensors[:outputs], tensors[outputs:]
        ctx.form, ctx.outputs = form, outputs
        ctx.save_for_backward(*tensors)
        geometries, weights = form.convolutions((len(ys[0]), *size[1:]), depthwise)
        return form.transposed(geometries, weights, form.slopes(ys, pointwise, len(weights) < form.count))

    @staticmethod
    def backward(ctx: Any, *arriving: Any) -> tuple[Tensor | None, ...]:
        (v,) = arriving
        form, outputs = ctx.form, ctx.outputs
        ys, (pointwise, *depthwise) = ctx.saved_tensors[:outputs], ctx.saved_tensors[outputs:]
        if torch.is_grad_enabled():
            return None, None, None, *_transposed_again(form, v, ys, pointwise, depthwise)
        needed = [
            ctx.needs_input_grad[3 + place] and wanted(ctx, place) for place in range(outputs + 1 + len(depthwise))
        ]
        inner = form.inner(v, depthwise)
        by_ys: Sequence[Tensor | None] = [None] * outputs
        by_pointwise, by_depthwise = None, [None] * len(depthwise)
        if any(needed[:outputs]):
            by_ys = form.mapped(inner, pointwise, None)
        if needed[outputs]:
            by_pointwise = form.by_pointwise(ys, inner, pointwise)
        if any(needed[outputs + 1 :]):
            slopes = form.slopes(ys, pointwise, len(inner.weights) < form.count)
            by_depthwise = form.by_depthwise(inner.geometries, inner.seen, slopes, depthwise)
        return None, None, None, *by_ys, by_pointwise, *by_depthwise
