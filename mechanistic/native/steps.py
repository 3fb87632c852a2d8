"""Steps of a block of subjects as kernels: everything of a trial step that needs no decision."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from llvmlite import ir

from mechanistic.native.emit import DOUBLE, INDEX, Code, Kernels, vector
from mechanistic.native.lanes import LANES
from mechanistic.native.program import Program
from mechanistic.solve import rodas5p, tsit5

INFINITY = float("inf")

RESIDUAL, LEAST = 1e-3, 1e-13
"""Backward error of the linear systems of a step that is allowed, relative to the tolerance, and at least."""


@final
@dataclass(frozen=True, slots=True)
class Workspace:
    """Where a block keeps its numbers: name → index of its first element, all lanes beside each other.

    `time`, `size`, `ratio`, `below`, `culprit`, `stiffness`: one element each. `size` is the step; `ratio` its error
    over the tolerance; `below` is 1 where a state falls through its floor; `culprit` the state that limits the step.
    """

    places: Mapping[str, int]
    size: int

    @classmethod
    def of(cls, program: Program, factors: int) -> "Workspace":
        """The workspace of a model whose factors have so many entries."""
        n = program.states
        entries = len(program.rows) + len(program.timed)
        single = "time size ratio residual below culprit stiffness relative point diagonal"
        state = "x end error inputs scale weight absolute floor argument before right slope"
        sizes = dict.fromkeys(single.split(), 1) | dict.fromkeys(state.split(), n)
        sizes |= {"constants": program.constants, "held": program.held, "stages": 8 * n, "dense": 4 * n}
        sizes |= {"jacobian": entries, "factors": factors}
        places = {}
        total = 0
        for name, count in sizes.items():
            places[name] = total
            total += count
        return cls(places, total)


@final
@dataclass(frozen=True, slots=True)
class Block:
    """Code that works on the workspace of a block."""

    code: Code
    workspace: Workspace
    base: ir.Value
    states: int

    def array(self, name: str, element: int = 0) -> ir.Value:
        """The address of an array of the workspace."""
        return self.code.at(self.base, self.workspace.places[name] + element)

    def stage(self, number: int) -> ir.Value:
        return self.array("stages", number * self.states)

    def load(self, name: str, index: ir.Value | int = 0) -> ir.Value:
        return self.code.load(self.array(name), index)

    def rates(self, time: ir.Value, x: ir.Value, result: ir.Value) -> None:
        """Calls the right-hand side, without inputs."""
        self.code.call("rates", time, x, self.array("constants"), self.array("held"), result)

    def rates_at(self, node: float, argument: ir.Value, result: ir.Value) -> None:
        """The right-hand side at a node of the step, without inputs."""
        code = self.code
        point = code.add(self.load("time"), code.mul(vector(node), self.load("size")))
        code.store(point, self.array("point"))
        self.rates(self.array("point"), argument, result)


def emit_steps(kernels: Kernels, program: Program, workspace: Workspace) -> None:
    """Adds `slope`, `tsit5_step`, `tsit5_dense`, `rodas5p_step`, `rodas5p_dense`, all of the workspace alone."""
    for name, body in (
        ("slope", _slope), ("tsit5_step", _tsit5), ("tsit5_dense", _tsit5_dense), ("rodas5p_dense", _rodas5p_dense),
    ):  # fmt: skip
        with kernels.function(name, 1) as (code, (base,)):
            body(Block(code, workspace, base, program.states))
    with kernels.function("rodas5p_step", 1) as (code, (base,)):
        _rodas5p(Block(code, workspace, base, program.states), program)


def _slope(block: Block) -> None:
    """The right-hand side at the state, into the first stage and into `slope`."""
    code = block.code
    block.rates(block.array("time"), block.array("x"), block.array("slope"))
    with code.loop(block.states) as i:
        code.store(code.add(block.load("slope", i), block.load("inputs", i)), block.array("slope"), i)


def _tsit5(block: Block) -> None:
    """A step from the first stage, which is known; leaves all seven."""
    code, b = block.code, block.code.builder
    size = block.load("size")
    for stage, (node, row) in enumerate(zip(tsit5.C, tsit5.A, strict=True)):
        if stage == 0:
            continue
        target = block.array("end" if stage == 6 else "before" if stage == 5 else "argument")
        with code.loop(block.states) as i:
            total = code.combine(row, [code.load(block.stage(j), i) for j in range(stage)])
            code.store(code.add(block.load("x", i), code.mul(size, total)), target, i)
        block.rates_at(node, target, block.stage(stage))
        with code.loop(block.states) as i:
            code.store(code.add(code.load(block.stage(stage), i), block.load("inputs", i)), block.stage(stage), i)
    sums = [code.builder.alloca(ir.VectorType(DOUBLE, LANES)) for _ in range(2)]
    for place in sums:
        b.store(vector(0.0), place)
    with code.loop(block.states) as i:
        stages = [code.load(block.stage(j), i) for j in range(7)]
        code.store(code.mul(size, code.combine(tsit5.ERROR, stages)), block.array("error"), i)
        inverse = b.fdiv(vector(1.0), block.load("scale", i))
        moved = code.sub(block.load("end", i), block.load("before", i))
        for place, change in zip(sums, (code.sub(stages[6], stages[5]), moved), strict=True):
            part = code.mul(change, inverse)
            total = b.load(place, typ=ir.VectorType(DOUBLE, LANES))
            b.store(code.add(total, code.mul(part, part)), place)
    ends = [code.functions.apply(b, "sqrt", [b.load(place, typ=ir.VectorType(DOUBLE, LANES))]) for place in sums]
    length = code.functions.apply(b, "max", [ends[1], vector(1e-300)])
    code.store(b.fdiv(code.mul(size, ends[0]), length), block.array("stiffness"))
    _judge(block)


def _tsit5_dense(block: Block) -> None:
    """Coefficients of θ, θ², θ³, θ⁴ in `x(θ) - x`."""
    code = block.code
    size = block.load("size")
    with code.loop(block.states) as i:
        stages = [code.load(block.stage(j), i) for j in range(7)]
        for power in range(4):
            weights = [row[power] for row in tsit5.DENSE]
            place = block.array("dense", power * block.states)
            code.store(code.mul(size, code.combine(weights, stages)), place, i)


def _rodas5p(block: Block, program: Program) -> None:
    code, b, n = block.code, block.code.builder, block.states
    size = block.load("size")
    inverse = b.fdiv(vector(1.0), size)
    code.store(b.fdiv(vector(1.0), code.mul(vector(rodas5p.GAMMA), size)), block.array("diagonal"))
    code.call("linearise", block.array("time"), block.array("x"), block.array("constants"), block.array("held"),
              block.array("right"), block.array("jacobian"))  # fmt: skip
    code.call("factor", block.array("jacobian"), block.array("diagonal"), block.array("factors"))
    with code.loop(n) as i:
        slope = code.add(block.load("right", i), block.load("inputs", i))
        code.store(slope, block.array("slope"), i)
        code.store(slope, block.array("right"), i)
    for stage, (node, row, links) in enumerate(zip(rodas5p.C, rodas5p.A, rodas5p.COUPLING, strict=True)):
        if stage > 0:
            with code.loop(n) as i:
                total = code.combine(row, [code.load(block.stage(j), i) for j in range(stage)])
                code.store(code.add(block.load("x", i), total), block.array("argument"), i)
            block.rates_at(node, block.array("argument"), block.array("right"))
            with code.loop(n) as i:
                linked = code.mul(inverse, code.combine(links, [code.load(block.stage(j), i) for j in range(stage)]))
                driven = code.add(block.load("right", i), block.load("inputs", i))
                code.store(code.add(driven, linked), block.array("right"), i)
        _add_time_derivative(block, program, rodas5p.D[stage])
        code.call("solve", block.array("factors"), block.array("right"), block.stage(stage))
        if stage == 0:
            code.call("residual", block.array("jacobian"), block.array("diagonal"), block.array("right"),
                      block.stage(0), block.array("weight"), block.array("residual"))  # fmt: skip
    with code.loop(n) as i:
        last = code.load(block.stage(7), i)
        code.store(code.add(block.load("argument", i), last), block.array("end"), i)
        code.store(last, block.array("error"), i)
    code.store(vector(0.0), block.array("stiffness"))
    _judge(block)
    # Factors without pivoting may be far off. Then the step is rejected, and a shorter one makes the diagonal dominant.
    allowed = code.functions.apply(b, "max", [code.mul(vector(RESIDUAL), block.load("relative")), vector(LEAST)])
    solved = b.fcmp_ordered("<", block.load("residual"), allowed)
    code.store(b.select(solved, block.load("ratio"), vector(INFINITY)), block.array("ratio"))


def _add_time_derivative(block: Block, program: Program, weight: float) -> None:
    if weight == 0:
        return
    code = block.code
    scaled = code.mul(vector(weight), block.load("size"))
    for entry, state in enumerate(program.timed, start=len(program.rows)):
        change = code.mul(scaled, block.load("jacobian", entry))
        code.store(code.add(block.load("right", state), change), block.array("right"), state)


def _rodas5p_dense(block: Block) -> None:
    """x + θ ((end - x) + (1 - θ) (first + θ (second + θ third))), multiplied out."""
    code, n = block.code, block.states
    with code.loop(n) as i:
        stages = [code.load(block.stage(j), i) for j in range(8)]
        first, second, third = (code.combine(row, stages) for row in rodas5p.DENSE)
        change = code.sub(block.load("end", i), block.load("x", i))
        powers = (code.add(change, first), code.sub(second, first), code.sub(third, second), code.builder.fneg(third))
        for power, value in enumerate(powers):
            code.store(value, block.array("dense", power * n), i)


def _judge(block: Block) -> None:
    """Error over tolerance in the maximum norm, its state, and whether a state falls through its floor."""
    code, b = block.code, block.code.builder
    kind = ir.VectorType(DOUBLE, LANES)
    ratio, culprit, below = (b.alloca(kind) for _ in range(3))
    for place, start in ((ratio, -1.0), (culprit, 0.0), (below, 0.0)):
        b.store(vector(start), place)

    def call(name: str, *arguments: ir.Value) -> ir.Value:
        return code.functions.apply(b, name, list(arguments))

    with code.loop(block.states) as i:
        x, end, floor = (block.load(name, i) for name in ("x", "end", "floor"))
        larger = call("max", call("abs", x), call("abs", end))
        allowed = code.add(block.load("absolute", i), code.mul(block.load("relative"), larger))
        share = b.fdiv(call("abs", block.load("error", i)), allowed)
        # What is not a number, or not finite, is as wrong as can be.
        finite = b.and_(b.fcmp_ordered("<", call("abs", end), vector(INFINITY)), b.fcmp_ordered("ord", share, share))
        share = b.select(finite, share, vector(INFINITY))
        before = b.load(ratio, typ=kind)
        worse = b.fcmp_ordered(">", share, before)
        b.store(b.select(worse, share, before), ratio)
        state = b.insert_element(ir.Constant(kind, ir.Undefined), b.sitofp(i, DOUBLE), ir.Constant(INDEX, 0))
        spread = b.shuffle_vector(state, state, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES))
        b.store(b.select(worse, spread, b.load(culprit, typ=kind)), culprit)
        falls = b.and_(b.fcmp_ordered("<", end, floor), b.fcmp_ordered(">=", x, floor))
        b.store(b.select(falls, vector(1.0), b.load(below, typ=kind)), below)
    for place, name in ((ratio, "ratio"), (culprit, "culprit"), (below, "below")):
        code.store(b.load(place, typ=kind), block.array(name))
