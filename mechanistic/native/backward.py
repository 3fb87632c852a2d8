"""Steps of a block of subjects backward as kernels: from cotangents at the end of a step to those at its start.

A step is computed again from its start and then gone through in reverse, stage by stage. For Rodas5P, with stages
`k = W⁻¹ r` and `W = 1/(γh) - J`: `v = W⁻ᵀ k̄` is the cotangent of `r`, and `v kᵀ` that of `J`.
"""

from collections.abc import Mapping, Sequence

from llvmlite import ir

from mechanistic.compile.reverse import pullback
from mechanistic.compile.tape import Tape
from mechanistic.native.coupled import emit_linearise_pullback, emit_rates_pullback
from mechanistic.native.emit import VECTOR, Code, Kernels, vector
from mechanistic.native.program import Program
from mechanistic.native.steps import Block, Workspace
from mechanistic.solve import rodas5p, tsit5


def backward_workspace(program: Program, factors: int) -> Workspace:
    """Where a block that goes backward keeps its numbers; `factors` is how many the factors of a matrix are.

    `adjoint` is the cotangent of the state: at the end of the step before, at its start after. `shown` is the sum of
    the cotangents of the outputs inside the step, `powers` those times θ, θ², θ³, θ⁴. `constants_cotangent` and
    `inputs_cotangent` are added to; `time_cotangent` and `size_cotangent` are of this step.
    """
    n, entries = program.states, program.entries
    sizes = {
        "time": 1, "size": 1, "point": 1, "diagonal": 1, "time_cotangent": 1, "size_cotangent": 1, "moved": 1,
        "x": n, "inputs": n, "constants": program.constants, "held": program.held + program.handles,
        "adjoint": n, "shown": n, "powers": 4 * n, "constants_cotangent": program.constants, "inputs_cotangent": n,
        "slope": n, "right": n, "passed": n, "stages": 8 * n, "arguments": 8 * n, "back": 8 * n, "solved": 8 * n,
        "jacobian": entries, "factors": factors, "linear": n + entries,
    }  # fmt: skip
    return Workspace.in_order(sizes)


def emit_pullbacks(kernels: Kernels, program: Program) -> None:
    """Adds `rates_pullback` and `prepare_pullback`."""
    if program.networks:
        emit_rates_pullback(kernels, program)
    else:
        _emit_pullback(kernels, "rates_pullback", program.rates, _inputs(program), program.states)
    _emit_pullback(kernels, "prepare_pullback", program.prepare, {"x": program.parameters}, program.constants)


def emit_tsit5_back(kernels: Kernels, program: Program, workspace: Workspace) -> None:
    """Adds `tsit5_back`, which works on the workspace alone, `backward_workspace`."""
    with kernels.function("tsit5_back", 1) as (code, (base,)):
        _tsit5(_Back.of(code, workspace, base, program))


def emit_rodas5p_back(kernels: Kernels, program: Program, workspace: Workspace) -> None:
    """Adds `linearise_pullback`, and `rodas5p_back`, which works on the workspace alone, `backward_workspace`."""
    if program.networks:
        emit_linearise_pullback(kernels, program)
    else:
        outputs = program.states + program.entries
        _emit_pullback(kernels, "linearise_pullback", program.linearise, _inputs(program), outputs)
    with kernels.function("rodas5p_back", 1) as (code, (base,)):
        _rodas5p(_Back.of(code, workspace, base, program), program)


def _inputs(program: Program) -> dict[str, int]:
    return {"time": 1, "x": program.states, "constants": program.constants, "held": program.held}


def _emit_pullback(kernels: Kernels, name: str, tape: Tape, inputs: Mapping[str, int], outputs: int) -> None:
    """A function of the inputs, the cotangent of the outputs, and the cotangents of x, constants and time it adds to.

    That of the time, and those that a tape does not have, are left out where there are none.
    """
    slots = {}
    start = 0
    for label, count in inputs.items():
        slots[label] = range(start, start + count)
        start += count
    targets = [label for label in ("x", "constants", "time") if label in inputs]
    back = pullback(tape, [slot for label in targets for slot in slots[label]])
    kernels.tape(name, back, [*inputs.values(), outputs], [inputs[label] for label in targets], increase=True)


class _Back:
    """Code of a step backward: a block, and sums over its states."""

    def __init__(self, block: Block) -> None:
        self.block = block
        self.code = block.code
        self.states = block.states
        b = self.code.builder
        self.time, self.size = (b.alloca(VECTOR) for _ in range(2))
        for place in (self.time, self.size):
            b.store(vector(0.0), place)

    @classmethod
    def of(cls, code: Code, workspace: Workspace, base: ir.Value, program: Program) -> "_Back":
        return cls(Block(code, workspace, base, program.states))

    def element(self, name: str, number: int) -> ir.Value:
        """The address of one of several vectors of states in a row."""
        return self.block.array(name, number * self.states)

    def loads(self, name: str, numbers: Sequence[int], index: ir.Value) -> list[ir.Value]:
        return [self.code.load(self.element(name, j), index) for j in numbers]

    def increase(self, place: ir.Value, value: ir.Value) -> None:
        """Adds to a sum over states."""
        b = self.code.builder
        b.store(self.code.add(b.load(place, typ=VECTOR), value), place)

    def add_to(self, array: ir.Value, index: ir.Value, value: ir.Value) -> None:
        self.code.store(self.code.add(self.code.load(array, index), value), array, index)

    def pull(self, name: str, node: float, x: ir.Value, cotangent: ir.Value, result: ir.Value) -> None:
        """Adds what a cotangent of the rates at a node of the step asks of the state there, and of all else."""
        code, block = self.code, self.block
        point = code.add(block.load("time"), code.mul(vector(node), block.load("size")))
        code.store(point, block.array("point"))
        code.store(vector(0.0), block.array("moved"))
        code.call(name, block.array("point"), x, block.array("constants"), block.array("held"), cotangent,
                  result, block.array("constants_cotangent"), block.array("moved"))  # fmt: skip
        self.increase(self.time, block.load("moved"))
        if node:
            self.increase(self.size, code.mul(vector(node), block.load("moved")))

    def finish(self, driven: str, stages: int) -> None:
        """Adds up the cotangents of the inputs, which every rate has; writes those of the step itself."""
        code, b = self.code, self.code.builder
        with code.loop(self.states) as i:
            total = code.combine([1.0] * stages, self.loads(driven, range(stages), i))
            self.add_to(self.block.array("inputs_cotangent"), i, total)
        code.store(b.load(self.time, typ=VECTOR), self.block.array("time_cotangent"))
        code.store(b.load(self.size, typ=VECTOR), self.block.array("size_cotangent"))

    def output_times(self, i: ir.Value, coefficients: Sequence[ir.Value], size: ir.Value) -> None:
        """What outputs at fixed times ask of the time and size of a step, through θ = (time - t) / size."""
        code, b = self.code, self.code.builder
        powers = self.loads("powers", range(4), i)
        seeds = [self.block.load("shown", i), *powers]
        slope = code.combine([1.0] * 4, [code.mul(vector(p + 1.0), code.mul(c, seeds[p]))
                                         for p, c in enumerate(coefficients)])  # fmt: skip
        turn = code.combine([1.0] * 4, [code.mul(vector(p + 1.0), code.mul(c, powers[p]))
                                        for p, c in enumerate(coefficients)])  # fmt: skip
        self.increase(self.time, b.fneg(code.mul(slope, size)))
        self.increase(self.size, b.fneg(code.mul(turn, size)))


def _tsit5(back: _Back) -> None:
    code, block, n = back.code, back.block, back.states
    size = block.load("size")
    one = vector(1.0)
    _tsit5_stages(back, size)
    with code.loop(n) as i:
        powers, stages = back.loads("powers", range(4), i), back.loads("stages", range(7), i)
        for j in range(7):
            value = code.mul(size, code.combine(tsit5.DENSE[j], powers))
            code.store(value, back.element("back", j), i)
        per_size = [code.combine([row[p] for row in tsit5.DENSE], stages) for p in range(4)]
        back.output_times(i, per_size, one)
        back.increase(
            back.size, code.combine([1.0] * 4, [code.mul(c, d) for c, d in zip(per_size, powers, strict=True)])
        )
        code.store(block.load("adjoint", i), block.array("passed"), i)
        code.store(block.load("shown", i), block.array("adjoint"), i)
    for j in range(6, 0, -1):
        back.pull(
            "rates_pullback", tsit5.C[j], back.element("arguments", j), back.element("back", j), block.array("passed")
        )
        with code.loop(n) as i:
            passed = block.load("passed", i)
            back.add_to(block.array("adjoint"), i, passed)
            scaled = code.mul(size, passed)
            for earlier, weight in enumerate(tsit5.A[j]):
                back.add_to(back.element("back", earlier), i, code.mul(vector(weight), scaled))
            back.increase(back.size, code.mul(passed, code.combine(tsit5.A[j], back.loads("stages", range(j), i))))
            code.store(vector(0.0), block.array("passed"), i)
    back.pull("rates_pullback", 0.0, block.array("x"), back.element("back", 0), block.array("adjoint"))
    back.finish("back", 7)


def _tsit5_stages(back: _Back, size: ir.Value) -> None:
    code, block, n = back.code, back.block, back.states
    for j, (node, row) in enumerate(zip(tsit5.C, tsit5.A, strict=True)):
        target = back.element("arguments", j) if j else block.array("x")
        if j:
            with code.loop(n) as i:
                total = code.combine(row, back.loads("stages", range(j), i))
                code.store(code.add(block.load("x", i), code.mul(size, total)), target, i)
        block.rates_at(node, block.load("size"), target, block.stage(j))
        with code.loop(n) as i:
            value = code.add(code.load(block.stage(j), i), block.load("inputs", i))
            code.store(value, block.stage(j), i)
            if j == 0:
                code.store(value, block.array("slope"), i)


def _rodas5p(back: _Back, program: Program) -> None:
    code, block, n = back.code, back.block, back.states
    size = block.load("size")
    inverse = code.builder.fdiv(vector(1.0), size)
    _rodas5p_stages(back, program, size, inverse)
    _rodas5p_outputs(back, inverse)
    entries = len(program.rows)
    for e in range(len(program.timed)):
        code.store(vector(0.0), block.array("linear", n + entries + e))
    for j in range(7, -1, -1):
        code.call("solve_transposed", block.array("factors"), back.element("back", j), back.element("solved", j))
        _rodas5p_couplings(back, j, inverse)
        for e, state in enumerate(program.timed):
            weight, v = vector(rodas5p.D[j]), code.load(back.element("solved", j), state)
            slope = block.load("jacobian", entries + e)
            back.increase(back.size, code.mul(weight, code.mul(slope, v)))
            place = block.array("linear", n + entries + e)
            code.store(code.add(code.load(place), code.mul(code.mul(weight, size), v)), place)
        if j == 0:
            break
        back.pull("rates_pullback", rodas5p.C[j], back.element("arguments", j), back.element("solved", j),
                  block.array("passed"))  # fmt: skip
        with code.loop(n) as i:
            passed = block.load("passed", i)
            back.add_to(block.array("adjoint"), i, passed)
            for earlier, weight in enumerate(rodas5p.A[j]):
                back.add_to(back.element("back", earlier), i, code.mul(vector(weight), passed))
            code.store(vector(0.0), block.array("passed"), i)
    with code.loop(n) as i:
        code.store(code.load(back.element("solved", 0), i), block.array("linear"), i)
    _jacobian_cotangent(back, program)
    back.pull("linearise_pullback", 0.0, block.array("x"), block.array("linear"), block.array("adjoint"))
    back.finish("solved", 8)


def _rodas5p_stages(back: _Back, program: Program, size: ir.Value, inverse: ir.Value) -> None:
    code, block, n = back.code, back.block, back.states
    code.store(code.mul(vector(1 / rodas5p.GAMMA), inverse), block.array("diagonal"))
    code.call("linearise", block.array("time"), block.array("x"), block.array("constants"), block.array("held"),
              block.array("right"), block.array("jacobian"))  # fmt: skip
    code.call("factor", block.array("jacobian"), block.array("diagonal"), block.array("factors"))
    for j, (node, row, links) in enumerate(zip(rodas5p.C, rodas5p.A, rodas5p.COUPLING, strict=True)):
        if j:
            with code.loop(n) as i:
                total = code.combine(row, back.loads("stages", range(j), i))
                code.store(code.add(block.load("x", i), total), back.element("arguments", j), i)
            block.rates_at(node, block.load("size"), back.element("arguments", j), block.array("right"))
        with code.loop(n) as i:
            value = code.add(block.load("right", i), block.load("inputs", i))
            if j:
                value = code.add(value, code.mul(inverse, code.combine(links, back.loads("stages", range(j), i))))
            else:
                code.store(value, block.array("slope"), i)
            code.store(value, block.array("right"), i)
        for e, state in enumerate(program.timed):
            change = code.mul(code.mul(vector(rodas5p.D[j]), size), block.load("jacobian", len(program.rows) + e))
            code.store(code.add(block.load("right", state), change), block.array("right"), state)
        code.call("solve", block.array("factors"), block.array("right"), block.stage(j))


def _rodas5p_outputs(back: _Back, inverse: ir.Value) -> None:
    """From the end of the step and the outputs inside it to the stages; see `Rodas5P.interpolate`."""
    code, block, b = back.code, back.block, back.code.builder
    with code.loop(back.states) as i:
        stages, powers = back.loads("stages", range(8), i), back.loads("powers", range(4), i)
        end = code.add(code.load(back.element("arguments", 7), i), stages[7])
        first, second, third = (code.combine(row, stages) for row in rodas5p.DENSE)
        change = code.sub(end, block.load("x", i))
        terms = (code.add(change, first), code.sub(second, first), code.sub(third, second), b.fneg(third))
        back.output_times(i, terms, inverse)
        parts = [code.sub(powers[m], powers[m + 1]) for m in range(3)]
        for j in range(8):
            weights = [row[j] for row in rodas5p.DENSE]
            code.store(code.combine(weights, parts), back.element("back", j), i)
        reached = code.add(block.load("adjoint", i), powers[0])
        back.add_to(back.element("back", 7), i, reached)
        code.store(reached, block.array("passed"), i)
        code.store(code.sub(block.load("shown", i), powers[0]), block.array("adjoint"), i)


def _rodas5p_couplings(back: _Back, j: int, inverse: ir.Value) -> None:
    """Through the terms `C k / h` of the right-hand side of a stage, and through the diagonal `1/(γh)`."""
    code = back.code
    with code.loop(back.states) as i:
        v = code.load(back.element("solved", j), i)
        scaled = code.mul(inverse, v)
        own = code.mul(vector(1 / rodas5p.GAMMA), code.load(back.element("stages", j), i))
        links = rodas5p.COUPLING[j]
        if links:
            for earlier, weight in enumerate(links):
                back.add_to(back.element("back", earlier), i, code.mul(vector(weight), scaled))
            own = code.sub(own, code.combine(links, back.loads("stages", range(j), i)))
        back.increase(back.size, code.mul(code.mul(inverse, scaled), own))


def _jacobian_cotangent(back: _Back, program: Program) -> None:
    """The sum over stages of `v kᵀ`, where the Jacobian has entries."""
    code, block, n = back.code, back.block, back.states
    if not program.rows:
        return
    rows, columns = code.numbers("rows", program.rows), code.numbers("columns", program.columns)
    with code.loop(len(program.rows)) as e:
        row, column = (code.number(table, e) for table in (rows, columns))
        products = [code.mul(v, k) for v, k in zip(back.loads("solved", range(8), row),
                                                   back.loads("stages", range(8), column), strict=True)]  # fmt: skip
        code.store(code.combine([1.0] * 8, products), block.array("linear", n), e)
