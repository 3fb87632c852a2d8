"""The workspace of a block of subjects, and code that works on it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from typing import final

import numpy as np
from llvmlite import ir

from mechanistic.native.emit import DOUBLE, VECTOR, Code, places, vector
from mechanistic.native.lanes import LANES
from mechanistic.native.program import Program

INFINITY = float("inf")
SPACING = 16 * float(np.finfo(np.float64).eps)
EMPTY = 1e8 * float(np.finfo(np.float64).tiny)
"""Steps up to this size count as steps of no length."""

WRITTEN_OUT = 10
"""States up to which loops over them are written out: values then stay in registers from one stage to the next."""

IN_PLACE = 150
"""Instructions up to which the right-hand side of so small a model is written out at every stage."""

SINGLE = (
    "active", "time", "stop", "due", "size", "step", "usable", "finish", "ratio", "residual", "below", "culprit",
    "stiffness", "relative", "point", "diagonal", "previous", "following", "accepted", "arriving", "flag",
    "undershoots", "attempts", "budget", "nodes", "stiff", "rate", "shadowed", "fresh", "pausing", "output", "outputs",
    "times_at", "states_at", "share", "logarithm",
)  # fmt: skip
"""Numbers of a lane.

active: 1 where there is a subject. time, stop, due: where it stands, its next stop and its next output. size, step,
usable: of the next step, of the trial step, and in its place where that is nothing. finish: when the trial step ends.
ratio, residual: of its error, and of that of its linear systems, to what is allowed. below: 1 where a state falls
through its floor. culprit: the state that limits it. logarithm: of the ratio, at least that of `LEAST_BEFORE`.
previous: that of the step before. following: the size that is to follow. accepted, arriving: 1 where the step is
taken, and where it ends at a stop. flag: 1 where there are outputs within the step, 2 where more is wanted of the
driver. stiff, undershoots, attempts, nodes: counts. rate: of the fastest mode that was found. shadowed: 1 in all lanes
where the upper half are shadows of the lower half. fresh: 1 where a shadow is to be cast. pausing: 1 in all lanes where
the driver wants to see every step. output, outputs: number of the next output, and how many there are. times_at,
states_at: addresses of the output times of a subject and of its states there, as whole numbers. share: where in the
step is the next output.
"""

STATE = (
    "x", "end", "error", "inputs", "scale", "weight", "absolute", "floor", "argument", "before", "right", "slope",
    "direction", "shown", "linked",
)  # fmt: skip
"""Numbers of a state.

scale, weight: its typical size, and one over it. absolute, floor: error allowed, and least value. direction: in which
fast modes are looked for. shown: at the next output. linked: what
other stages add to a linear system.
"""


@final
@dataclass(frozen=True, slots=True)
class Workspace:
    """Where a block keeps its numbers: name → index of its first element, all lanes beside each other."""

    places: Mapping[str, int]
    size: int

    @classmethod
    def of(cls, program: Program, factors: int) -> "Workspace":
        """The workspace of a model whose factors have so many entries."""
        n = program.states
        sizes = dict.fromkeys(SINGLE, 1) | dict.fromkeys(STATE, n)
        sizes |= {"constants": program.constants, "held": program.held + program.handles}
        sizes |= {"stages": 8 * n, "dense": 4 * n, "jacobian": program.entries, "factors": factors}
        return cls.in_order(sizes)

    @classmethod
    def in_order(cls, sizes: Mapping[str, int], start: int = 0) -> "Workspace":
        """Arrays of these sizes one after the other, the first of them at an element."""
        edges = list(accumulate(sizes.values(), initial=start))
        return cls(dict(zip(sizes, edges, strict=False)), edges[-1])

    def extended(self, sizes: Mapping[str, int]) -> "Workspace":
        """The workspace with more arrays behind it."""
        more = Workspace.in_order(sizes, self.size)
        return Workspace({**self.places, **more.places}, more.size)


@final
@dataclass(frozen=True, slots=True)
class Block:
    """Code that works on the workspace of a block.

    Attributes:
        known: what was stored last at a place, so that it need not be loaded; see `forget`.
    """

    code: Code
    workspace: Workspace
    base: ir.Value
    states: int
    known: dict[tuple[str, int], ir.Value] = field(default_factory=dict)

    def array(self, name: str, element: int = 0) -> ir.Value:
        """The address of an array of the workspace."""
        return self.code.at(self.base, self.workspace.places[name] + element)

    def stage(self, number: int) -> ir.Value:
        return self.array("stages", number * self.states)

    def each(self) -> Iterator[ir.Value | int]:
        """Repeats what is appended for every state: written out, or as a loop where there are many."""
        if self.states <= WRITTEN_OUT:
            yield from range(self.states)
        else:
            with self.code.loop(self.states) as i:
                yield i

    def load(self, name: str, index: ir.Value | int = 0, row: int = 0) -> ir.Value:
        """An element of an array, or of a row of one that has as many columns as there are states."""
        start = row * self.states
        if isinstance(index, int) and (name, start + index) in self.known:
            return self.known[name, start + index]
        return self.code.load(self.array(name, start), index)

    def store(self, value: ir.Value, name: str, index: ir.Value | int = 0, row: int = 0) -> None:
        """See `load`."""
        start = row * self.states
        self.code.store(value, self.array(name, start), index)
        if isinstance(index, int):
            self.known[name, start + index] = value
        else:
            self.forget(name)

    def forget(self, *names: str) -> None:
        """Called where arrays may be changed by a kernel, or, without names, where the code may have branched."""
        for key in [key for key in self.known if not names or key[0] in names]:
            del self.known[key]

    def stages(self, count: int, index: ir.Value | int) -> list[ir.Value]:
        """The first stages of a state."""
        return [self.load("stages", index, row) for row in range(count)]

    def call(self, name: str, *arguments: ir.Value) -> ir.Value:
        """An elementary function."""
        return self.code.functions.apply(self.code.builder, name, list(arguments))

    def larger(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """The larger of two numbers; `b` where one of them is not a number."""
        return self.code.builder.select(self.code.builder.fcmp_ordered(">", a, b), a, b)

    def smaller(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """The smaller of two numbers; `b` where one of them is not a number."""
        return self.code.builder.select(self.code.builder.fcmp_ordered("<", a, b), a, b)

    def number(self, mask: ir.Value) -> ir.Value:
        """1 where it holds, else 0."""
        return self.code.builder.select(mask, vector(1.0), vector(0.0))

    def holds(self, name: str) -> ir.Value:
        """Where a number of the workspace is not 0."""
        return self.code.builder.fcmp_ordered("!=", self.load(name), vector(0.0))

    def anywhere(self, mask: ir.Value) -> ir.Value:
        """Whether something holds in one lane or more."""
        bits = self.code.builder.bitcast(mask, ir.IntType(LANES))
        return self.code.builder.icmp_unsigned("!=", bits, ir.Constant(ir.IntType(LANES), 0))

    def set(self, name: str) -> ir.Value:
        """Whether a number that is the same in all lanes is not 0."""
        b = self.code.builder
        first = b.load(self.array(name), typ=DOUBLE, align=8)
        return b.fcmp_ordered("!=", first, ir.Constant(DOUBLE, 0.0))

    def variable(self, start: float) -> ir.Value:
        """The address of a value that loops may change."""
        b = self.code.builder
        with b.goto_entry_block():
            place = b.alloca(VECTOR)
        b.store(vector(start), place)
        return place

    @contextmanager
    def shadowed(self) -> Iterator[None]:
        """What is appended inside is done where there are shadows."""
        self.forget()
        with self.code.builder.if_then(self.set("shadowed")):
            yield
        self.forget()

    def rates(self, time: ir.Value, x: ir.Value, result: ir.Value) -> None:
        """Calls the right-hand side, without inputs."""
        self.code.call("rates", time, x, self.array("constants"), self.array("held"), result)

    def rates_at(self, node: float, size: ir.Value, argument: ir.Value, result: ir.Value) -> None:
        """The right-hand side at a node of a step of some size, without inputs."""
        code = self.code
        self.store(code.add(self.load("time"), code.mul(vector(node), size)), "point")
        self.rates(self.array("point"), argument, result)

    def slopes(self, program: Program, time: ir.Value, argument: str, target: str, row: int = 0) -> None:
        """The right-hand side, without inputs, at a time and a state of the workspace, into a row of an array."""
        code, start = self.code, row * self.states
        if program.networks or self.states > WRITTEN_OUT or len(program.rates.instructions) > IN_PLACE:
            self.store(time, "point")
            self.rates(self.array("point"), self.array(argument), self.array(target, start))
            self.forget(target)
            return
        given = [time, *(self.load(argument, i) for i in range(self.states)),
                 *places([self.array("constants"), self.array("held")], [program.constants, program.held])]  # fmt: skip
        code.run(program.rates, given, [(self.base, i) for i in range(self.states)],
                 lambda value, _, i: self.store(value, target, i, row))  # fmt: skip
