"""Programs with networks, and their kernels: tapes around dense layers, with the signatures of programs without.

Three numbers stand after the held values, each an address in the first lane: of the weights, of the next frame to be
kept, 0 where none is, and of the sums that are the gradient of the weights. Frames form a stack: `rates` and
`linearise` put one on it, and their pullbacks, called in reverse order, take it off.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Final, final

from llvmlite import ir

from mechanistic.compile.coupled import Coupled
from mechanistic.compile.forward import slopes
from mechanistic.compile.reverse import pullback
from mechanistic.compile.tape import Tape, TapeBuilder
from mechanistic.native.dense import scratch
from mechanistic.native.emit import INDEX, MASK, Code, Kernels, places, vector
from mechanistic.native.lanes import LANES
from mechanistic.native.network import (
    Frame,
    emit_network,
    emit_network_back,
    emit_slopes,
    emit_slopes_back,
    sums_of,
)
from mechanistic.native.program import Program, replayed, split, written_out

WEIGHTS, TOP, SUMS = range(3)
"""Addresses, in the order in which they stand after the held values."""

BYTES: Final = 8 * LANES


def program_of(description: Coupled) -> Program:
    """The program of a smooth mechanism with networks.

    The inputs of its tapes are those of other programs, then the outputs of the networks, then the derivatives of each
    network's outputs by its inputs, output by output; `rates` and `seen` leave the latter out.
    """
    known, n, k = description.known, description.states, description.parameters
    held = 0 if known.discrete is None else known.discrete.modes
    outputs = sum(network.outputs for network in description.networks)
    derivatives = sum(network.outputs * network.inputs for network in description.networks)
    b = TapeBuilder(1 + n + k + held + outputs + derivatives)
    given, modes = range(1 + n + k), range(1 + n + k, 1 + n + k + held)
    found = range(modes.stop, modes.stop + outputs)
    seen = replayed(b, description.seen, given)
    parameters = replayed(b, description.driven, [*given, *found])
    count = len(known.state_names)
    alone, _, inner = written_out(known, count, len(known.parameter_names), held)
    rates = replayed(b, inner.finish(alone), [*range(1 + count), *parameters, *modes])
    rates += [b.constant(0.0)] * (n - count)
    learned = replayed(b, description.learned, [*given, *found])
    rates = [b.apply("add", rate, added) for rate, added in zip(rates, learned, strict=True)]
    jacobian = _jacobian(b, description, rates, seen, found)
    entries = sorted(key for key in jacobian if key[1] < n)
    timed = sorted(row for row, column in jacobian if column == n)
    slopes_of = [*(jacobian[key] for key in entries), *(jacobian[row, n] for row in timed)]
    prepare, moving = split(b, [*rates, *slopes_of, *seen], n, k, held + outputs + derivatives)
    size = n + len(slopes_of)
    return Program(
        n, k, len(prepare.outputs), held, prepare,
        moving.only(moving.outputs[:n]), moving.only(moving.outputs[:size]),
        tuple(row for row, _ in entries), tuple(column for _, column in entries), tuple(timed),
        description.networks, moving.only(moving.outputs[size:]),
    )  # fmt: skip


def _jacobian(
    b: TapeBuilder, description: Coupled, rates: Sequence[int], seen: Sequence[int], found: range
) -> dict[tuple[int, int], int]:
    """Registers of the derivatives of the rates at (state, state or the number of states for the time)."""
    n = description.states
    columns = {0: n} | {1 + i: i for i in range(n)}
    through: dict[int, dict[int, int]] = {}
    slope, first, output = found.stop, 0, found.start
    by_seen = slopes(b, seen, columns)
    for network in description.networks:
        for _ in range(network.outputs):
            terms: dict[int, list[int]] = {}
            for i in range(network.inputs):
                for slot, inner in by_seen[first + i].items():
                    terms.setdefault(columns[slot], []).append(b.apply("mul", slope + i, inner))
            through[output] = {column: b.total(parts) for column, parts in terms.items()}
            slope, output = slope + network.inputs, output + 1
        first += network.inputs
    result: dict[tuple[int, int], int] = {}
    for row, by_input in enumerate(slopes(b, rates, [*columns, *found])):
        terms = {columns[slot]: [inner] for slot, inner in by_input.items() if slot in columns}
        for slot, inner in by_input.items():
            for column, further in through.get(slot, {}).items():
                terms.setdefault(column, []).append(b.apply("mul", inner, further))
        result |= {(row, column): b.total(parts) for column, parts in terms.items()}
    return {key: register for key, register in result.items() if b.number(register) != 0}


@final
@dataclass(frozen=True, slots=True)
class Stack:
    """What `rates` or `linearise` of a program keep: a frame of each network, their outputs, and derivatives of these.

    Attributes:
        order: of the derivatives of activations in frames.
        sloped: whether there are derivatives of outputs by inputs.
    """

    program: Program
    order: int
    sloped: bool

    @property
    def frames(self) -> list[Frame]:
        return [Frame(network, self.order) for network in self.program.networks]

    @property
    def starts(self) -> list[int]:
        """Where the frames start, in vectors, and where the last one ends."""
        return list(accumulate((frame.size for frame in self.frames), initial=0))

    @property
    def outputs(self) -> int:
        return sum(network.outputs for network in self.program.networks)

    @property
    def slopes(self) -> int:
        return sum(network.outputs * network.inputs for network in self.program.networks) if self.sloped else 0

    @property
    def size(self) -> int:
        """Vectors in all."""
        return self.starts[-1] + self.outputs + self.slopes


def stack_of_rates(program: Program) -> Stack:
    return Stack(program, 1, sloped=False)


def stack_of_linearise(program: Program) -> Stack:
    return Stack(program, 2, sloped=True)


def stack_size(program: Program) -> int:
    """Vectors that a step backward keeps at most."""
    return stack_of_linearise(program).size + 7 * stack_of_rates(program).size


def gradient_size(program: Program) -> int:
    """Numbers that the gradient of the weights takes while it is added up."""
    return sum(sums_of(network) for network in program.networks)


def emit_rates(kernels: Kernels, program: Program) -> None:
    """Adds `rates`."""
    _emit(kernels, "rates", program.rates, stack_of_rates(program), [program.states])


def emit_linearise(kernels: Kernels, program: Program) -> None:
    """Adds `linearise`."""
    _emit(kernels, "linearise", program.linearise, stack_of_linearise(program), [program.states, program.entries])


def emit_rates_pullback(kernels: Kernels, program: Program) -> None:
    """Adds `rates_pullback`; see `mechanistic.native.backward`."""
    _emit_pullback(kernels, "rates_pullback", program.rates, stack_of_rates(program))


def emit_linearise_pullback(kernels: Kernels, program: Program) -> None:
    """Adds `linearise_pullback`; see `mechanistic.native.backward`."""
    _emit_pullback(kernels, "linearise_pullback", program.linearise, stack_of_linearise(program))


def _emit(kernels: Kernels, name: str, tape: Tape, stack: Stack, sizes: Sequence[int]) -> None:
    """Arrays are those of the inputs, then those of outputs, of `sizes`."""
    program = stack.program
    given = [1, program.states, program.constants, program.held]
    orders = {0: stack.order - 1, 1: stack.order}
    for i, frame in enumerate(stack.frames):
        for order in orders.values():
            emit_network(kernels, f"{name}_network{i}_{order}", frame, order)
        if stack.sloped:
            emit_slopes(kernels, f"{name}_slopes{i}", frame)
    inputs = [*given, stack.outputs, tape.slots - sum(given) - stack.outputs]
    joined = f"{name}_joined"
    kernels.declare(joined, len(inputs) + len(sizes)).linkage = "internal"
    kernels.tape(joined, tape, inputs, sizes)
    with kernels.function(name, len(given) + len(sizes)) as (code, arrays):
        b, handles = code.builder, _Handles(code, arrays[3], program.held)
        top = handles.load(TOP)
        kept = b.icmp_unsigned("!=", top, ir.Constant(INDEX, 0))
        own = b.select(kept, b.inttoptr(top, arrays[0].type), scratch(code, stack.size))
        for start, seen in zip(stack.starts, _outputs_of_seen(program), strict=False):
            code.run(seen, places(arrays, given), [(code.at(own, start), i) for i in range(len(seen.outputs))])
        parts = _Parts(code, own, stack)
        for i, weights in enumerate(handles.weights(program)):
            with b.if_else(kept) as branches:
                for branch, order in zip(branches, (1, 0), strict=True):
                    with branch:
                        network = f"{name}_network{i}_{orders[order]}"
                        code.call(network, weights, parts.outputs(i), parts.frame(i))
            if stack.sloped:
                code.call(f"{name}_slopes{i}", weights, parts.frame(i), parts.slopes(i))
        results = arrays[len(given) :]
        code.call(joined, *arrays[: len(given)], parts.outputs(0), parts.slopes(0), *results)
        with b.if_then(kept):
            handles.store(TOP, b.add(top, ir.Constant(INDEX, stack.size * BYTES)))


def _emit_pullback(kernels: Kernels, name: str, tape: Tape, stack: Stack) -> None:
    program = stack.program
    given = {"time": 1, "x": program.states, "constants": program.constants, "held": program.held}
    for i, frame in enumerate(stack.frames):
        (emit_slopes_back if stack.sloped else emit_network_back)(kernels, f"{name}_network{i}", frame)
    with kernels.function(name, 8) as (code, arrays):
        b, handles = code.builder, _Handles(code, arrays[3], program.held)
        top = b.sub(handles.load(TOP), ir.Constant(INDEX, stack.size * BYTES))
        handles.store(TOP, top)
        parts = _Parts(code, b.inttoptr(top, arrays[0].type), stack)
        cotangent = arrays[4]
        live = _clean(code, cotangent, len(tape.outputs), parts)
        found = scratch(code, stack.outputs + stack.slopes)
        whole = given | {"outputs": stack.outputs, "slopes": stack.slopes}
        inputs = [*arrays[:4], parts.outputs(0), parts.slopes(0), cotangent]
        targets = dict(zip(("x", "constants", "time"), arrays[5:], strict=True))
        more = {"outputs": found, "slopes": code.at(found, stack.outputs)}
        _pull(code, tape, inputs, whole, targets, more)
        with code.loop(stack.outputs + stack.slopes) as j:
            code.store(b.select(live, code.load(found, j), vector(0.0)), found, j)
        asked = scratch(code, sum(network.inputs for network in program.networks))
        first = output = slope = sums = 0
        for i, (network, weights) in enumerate(zip(program.networks, handles.weights(program), strict=True)):
            by_slopes = [code.at(more["slopes"], slope)] if stack.sloped else []
            code.call(f"{name}_network{i}", weights, parts.frame(i), code.at(found, output), *by_slopes,
                      code.at(asked, first), code.number_at(handles.pointer(SUMS), sums))  # fmt: skip
            first, output = first + network.inputs, output + network.outputs
            slope, sums = slope + network.outputs * network.inputs, sums + sums_of(network)
        assert program.seen is not None
        _pull(code, program.seen, [*arrays[:4], asked], given, targets, {})


@final
@dataclass(frozen=True, slots=True)
class _Handles:
    """The addresses after the held values."""

    code: Code
    held: ir.Value
    modes: int

    def load(self, which: int) -> ir.Value:
        return self.code.builder.load(self.code.at(self.held, self.modes + which), typ=INDEX, align=8)

    def store(self, which: int, address: ir.Value) -> None:
        self.code.builder.store(address, self.code.at(self.held, self.modes + which), align=8)

    def pointer(self, which: int) -> ir.Value:
        return self.code.builder.inttoptr(self.load(which), self.held.type)

    def weights(self, program: Program) -> Iterator[ir.Value]:
        """Where those of each network start."""
        first = self.pointer(WEIGHTS)
        for start in accumulate((network.weights for network in program.networks[:-1]), initial=0):
            yield self.code.number_at(first, start)


@final
@dataclass(frozen=True, slots=True)
class _Parts:
    """Where the parts of what is kept are."""

    code: Code
    base: ir.Value
    stack: Stack

    def frame(self, network: int) -> ir.Value:
        return self.code.at(self.base, self.stack.starts[network])

    def outputs(self, network: int) -> ir.Value:
        before = sum(each.outputs for each in self.stack.program.networks[:network])
        return self.code.at(self.base, self.stack.starts[-1] + before)

    def slopes(self, network: int) -> ir.Value:
        before = sum(each.outputs * each.inputs for each in self.stack.program.networks[:network])
        return self.code.at(self.base, self.stack.starts[-1] + self.stack.outputs + before)


def _outputs_of_seen(program: Program) -> list[Tape]:
    """What each network sees, as a tape of its own."""
    assert program.seen is not None
    edges = list(accumulate((network.inputs for network in program.networks), initial=0))
    outputs = program.seen.outputs
    return [program.seen.only(outputs[a:b]) for a, b in pairwise(edges)]


def _clean(code: Code, cotangent: ir.Value, outputs: int, parts: _Parts) -> ir.Value:
    """Which lanes ask for anything; what others computed becomes 0, for it may be no number, and lanes are summed."""
    b = code.builder
    live: ir.Value = ir.Constant(MASK, [ir.Constant(ir.IntType(1), 0)] * LANES)
    for i in range(outputs):
        live = b.or_(live, b.fcmp_ordered("!=", code.load(cotangent, i), vector(0.0)))
    bits = b.bitcast(live, ir.IntType(LANES))
    dead = b.icmp_unsigned("!=", bits, ir.Constant(ir.IntType(LANES), 2**LANES - 1))
    with b.if_then(dead), code.loop(parts.stack.size) as j:
        code.store(b.select(live, code.load(parts.base, j), vector(0.0)), parts.base, j)
    return live


def _pull(
    code: Code, tape: Tape, arrays: Sequence[ir.Value], sizes: Mapping[str, int],
    added: Mapping[str, ir.Value], stored: Mapping[str, ir.Value],
) -> None:  # fmt: skip
    """Back through a tape: cotangents of some inputs are added to what is there, others are stored."""
    starts = dict(zip(sizes, accumulate(sizes.values(), initial=0), strict=False))
    wanted = [(label, i) for label in (*added, *stored) for i in range(sizes[label])]
    back = pullback(tape, [starts[label] + i for label, i in wanted])
    kept = [(output, key) for output, key in zip(back.outputs, wanted, strict=True)
            if key[0] in stored or back.number(output) != 0]  # fmt: skip
    targets = {**added, **stored}

    def write(value: ir.Value, array: ir.Value, index: int) -> None:
        total = value if any(array is each for each in stored.values()) else code.add(code.load(array, index), value)
        code.store(total, array, index)

    total = sum(sizes.values())
    given = places(arrays, [*sizes.values()])
    seeds = [(arrays[len(sizes)], i) for i in range(len(tape.outputs))]
    inputs = [*given, *[given[0]] * (tape.slots - total), *seeds]
    code.run(back.only([output for output, _ in kept]), inputs, [(targets[label], i) for _, (label, i) in kept], write)
