"""Multilayer perceptrons as kernels: values, derivatives by inputs, and both of these backward.

Weights lie in memory, so that they may change from one solve to the next. What a network computed is kept in a *frame*,
which going back through it reads: the inputs of the network, then the values, slopes and, for second derivatives,
curvatures of each hidden layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import final

from llvmlite import ir

from mechanistic.compile.coupled import Dense, activation
from mechanistic.native.dense import (
    add_outer,
    inside,
    multiply,
    multiply_transposed,
    padded,
    scratch,
)
from mechanistic.native.emit import INDEX, Code, Kernels, vector
from mechanistic.native.functions import Functions
from mechanistic.native.lanes import LANES


@final
@dataclass(frozen=True, slots=True)
class Layer:
    """One affine layer.

    Attributes:
        rows, columns: of its matrix.
        weights: where its matrix starts among the numbers of the network; the bias follows.
        sums: where its part of the gradient starts, in numbers; see `mechanistic.native.dense.add_outer`.
    """

    rows: int
    columns: int
    weights: int
    sums: int

    @property
    def width(self) -> int:
        """Numbers in a row of its part of the gradient."""
        return padded(self.columns) + LANES


def layers(network: Dense) -> list[Layer]:
    """The layers of a network, first to last."""
    shapes = [(after, before) for before, after in pairwise(network.widths)]
    weights = accumulate((rows * (columns + 1) for rows, columns in shapes), initial=0)
    sums = accumulate((rows * (padded(columns) + LANES) for rows, columns in shapes), initial=0)
    return [Layer(*shape, w, s) for shape, w, s in zip(shapes, weights, sums, strict=False)]


def sums_of(network: Dense) -> int:
    """Numbers that the gradient of a network takes while it is added up."""
    last = layers(network)[-1]
    return last.sums + last.rows * last.width


@final
@dataclass(frozen=True, slots=True)
class Frame:
    """Where a network keeps what it computed, in vectors.

    Attributes:
        order: up to which derivative of the activations.
    """

    network: Dense
    order: int

    @property
    def size(self) -> int:
        return self.network.inputs + (self.order + 1) * sum(self.network.widths[1:-1])

    def part(self, layer: int, order: int = 0) -> int:
        """Where a derivative of a layer starts; the values of layer 0 are the inputs."""
        if layer == 0:
            return 0
        widths = self.network.widths
        before = sum(widths[1:layer])
        return self.network.inputs + (self.order + 1) * before + order * widths[layer]


def emit_network(kernels: Kernels, name: str, frame: Frame, order: int) -> None:
    """Adds a function of `(weights, outputs, frame)`; the frame holds the inputs and is filled in up to an order."""
    network, own = frame.network, layers(frame.network)
    with inside(kernels, name, 3) as (code, (weights, outputs, kept)):
        before = scratch(code, max(network.widths[1:-1], default=1))
        for i, layer in enumerate(own):
            target = outputs if layer is own[-1] else before
            matrix = code.number_at(weights, layer.weights)
            code.call(multiply(kernels, layer.rows, layer.columns), matrix, code.at(kept, frame.part(i)), target)
            if layer is not own[-1]:
                parts = [code.at(kept, frame.part(i + 1, k)) for k in range(order + 1)]
                code.call(_activate(kernels, network.activation, layer.rows, order), before, *parts)


def emit_slopes(kernels: Kernels, name: str, frame: Frame) -> None:
    """Adds a function of `(weights, frame, slopes)`: derivatives of the outputs by the inputs, output by output."""
    network, own = frame.network, layers(frame.network)
    with inside(kernels, name, 3) as (code, (weights, kept, slopes)):
        width = max(network.widths)
        here, there = scratch(code, width), scratch(code, width)
        last = own[-1]
        for output in range(network.outputs):
            target = code.at(slopes, output * network.inputs)
            row = code.number_at(weights, last.weights + output * last.columns)
            hidden = len(own) - 1
            with code.loop(last.columns) as j:
                value = code.repeated(row, j)
                if hidden:
                    value = code.mul(value, code.load(code.at(kept, frame.part(hidden, 1)), j))
                code.store(value, here if hidden else target, j)
            for i in range(hidden - 1, -1, -1):
                matrix = code.number_at(weights, own[i].weights)
                result = there if i else target
                code.call(multiply_transposed(kernels, own[i].rows, own[i].columns), matrix, here, result)
                if i:
                    _scale(code, own[i].columns, there, code.at(kept, frame.part(i, 1)), here)


def emit_network_back(kernels: Kernels, name: str, frame: Frame) -> None:
    """Adds a function of `(weights, frame, cotangent, result, sums)`.

    From a cotangent of the outputs to that of the inputs; what it asks of the weights is added to the sums.
    """
    with inside(kernels, name, 5) as (code, (weights, kept, cotangent, result, sums)):
        _back(code, kernels, _Network(frame, weights, kept, sums), cotangent, result, None)


def emit_slopes_back(kernels: Kernels, name: str, frame: Frame) -> None:
    """Adds a function of `(weights, frame, cotangent, by slopes, result, sums)`.

    As `emit_network_back`, for cotangents of the outputs and of their derivatives by the inputs. For an output o, the
    latter are a direction v in which it is derived; both that derivative and the value are gone back through.
    """
    network, own = frame.network, layers(frame.network)
    with inside(kernels, name, 6) as (code, (weights, kept, cotangent, by_slopes, result, sums)):
        parts = _Network(frame, weights, kept, sums)
        bent = [scratch(code, width) for width in network.widths[1:-1]]
        for part, width in zip(bent, network.widths[1:-1], strict=True):
            with code.loop(width) as j:
                code.store(vector(0.0), part, j)
        moved = [scratch(code, width) for width in network.widths[1:-1]]
        speeds = [scratch(code, width) for width in network.widths[1:-1]]
        unit, other = scratch(code, max(network.widths)), scratch(code, max(network.widths))
        for output in range(network.outputs):
            direction = code.at(by_slopes, output * network.inputs)
            for i, layer in enumerate(own[:-1]):
                matrix, before = parts.matrix(code, layer), moved[i - 1] if i else direction
                code.call(multiply(kernels, layer.rows, layer.columns, biased=False), matrix, before, speeds[i])
                _scale(code, layer.rows, speeds[i], parts.at(code, i + 1, 1), moved[i])
            _direction_back(code, kernels, parts, output, [direction, *moved], speeds, bent, (unit, other))
        _back(code, kernels, parts, cotangent, result, bent)


@final
@dataclass(frozen=True, slots=True)
class _Network:
    """A network whose frame is gone back through."""

    frame: Frame
    weights: ir.Value
    kept: ir.Value
    sums: ir.Value

    def matrix(self, code: Code, layer: Layer) -> ir.Value:
        return code.number_at(self.weights, layer.weights)

    def at(self, code: Code, layer: int, order: int = 0) -> ir.Value:
        return code.at(self.kept, self.frame.part(layer, order))


def _back(
    code: Code, kernels: Kernels, parts: _Network, cotangent: ir.Value, result: ir.Value,
    bent: Sequence[ir.Value] | None,
) -> None:  # fmt: skip
    """From outputs to inputs; `bent` are cotangents of the sums of the hidden layers that come from elsewhere."""
    own = layers(parts.frame.network)
    width = max(parts.frame.network.widths)
    here, there = scratch(code, width), scratch(code, width)
    for i in range(len(own) - 1, -1, -1):
        layer, given = own[i], cotangent if i == len(own) - 1 else here
        sums = code.number_at(parts.sums, layer.sums)
        code.call(add_outer(kernels, layer.rows, layer.columns), sums, given, parts.at(code, i))
        target = there if i else result
        code.call(multiply_transposed(kernels, layer.rows, layer.columns), parts.matrix(code, layer), given, target)
        if i:
            _scale(code, layer.columns, there, parts.at(code, i, 1), here)
            if bent is not None:
                with code.loop(layer.columns) as j:
                    code.store(code.add(code.load(here, j), code.load(bent[i - 1], j)), here, j)


def _direction_back(
    code: Code, kernels: Kernels, parts: _Network, output: int, moved: Sequence[ir.Value],
    speeds: Sequence[ir.Value], bent: Sequence[ir.Value], room: tuple[ir.Value, ir.Value],
) -> None:  # fmt: skip
    """Back through the derivative of one output in a direction; adds to `bent` what it asks of the hidden layers."""
    own, (here, there) = layers(parts.frame.network), room
    last = own[-1]
    for i in range(last.rows):
        code.store(vector(float(i == output)), here, i)
    for i in range(len(own) - 1, -1, -1):
        layer = own[i]
        sums = code.number_at(parts.sums, layer.sums)
        code.call(_outer_without_bias(kernels, layer), sums, here, moved[i])
        if i == 0:
            break
        code.call(multiply_transposed(kernels, layer.rows, layer.columns), parts.matrix(code, layer), here, there)
        with code.loop(layer.columns) as j:
            back = code.load(there, j)
            bend = code.mul(code.load(parts.at(code, i, 2), j), code.load(speeds[i - 1], j))
            code.store(code.add(code.load(bent[i - 1], j), code.mul(bend, back)), bent[i - 1], j)
            code.store(code.mul(back, code.load(parts.at(code, i, 1), j)), here, j)


def _outer_without_bias(kernels: Kernels, layer: Layer) -> str:
    return add_outer(kernels, layer.rows, layer.columns, biased=False)


def _scale(code: Code, count: int, values: ir.Value, factors: ir.Value, result: ir.Value) -> None:
    with code.loop(count) as j:
        code.store(code.mul(code.load(values, j), code.load(factors, j)), result, j)


def _activate(kernels: Kernels, name: str, count: int, order: int) -> str:
    """The name of a function of `(sums, values, slopes …)` of the activation up to an order."""
    full = f"{name}_{order}_{count}"
    if full not in kernels.module.globals:
        tape = activation(name).only(order)
        with inside(kernels, full, order + 2) as (code, (sums, *results)):
            here = Code(code.builder, Functions(kernels.module, in_place=True))
            with here.loop(count // 2) as i:
                first = [here.at(array, here.builder.mul(i, ir.Constant(INDEX, 2))) for array in (sums, *results)]
                for j in range(2):
                    here.run(tape, [(first[0], j)], [(result, j) for result in first[1:]])
            for j in range(count - count % 2, count):
                here.run(tape, [(sums, j)], [(result, j) for result in results])
    return full
