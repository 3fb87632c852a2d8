"""What all directions of a step share, as kernels: laid out for eight steps side by side, then step by step."""

from dataclasses import dataclass
from typing import Final, final

from llvmlite import ir

from mechanistic.native.derivatives import Derivatives
from mechanistic.native.emit import INDEX, NUMBER, Code, Kernels, vector
from mechanistic.native.lanes import LANES
from mechanistic.native.program import Program
from mechanistic.native.steps import Block, Workspace, rodas5p_terms
from mechanistic.solve import rodas5p, tsit5

STAGES: Final = {"tsit5": 7, "rodas5p": 8}


@final
@dataclass(frozen=True, slots=True)
class Layout:
    """Where numbers are kept.

    Attributes:
        method: `tsit5` or `rodas5p`.
        laying: workspace of eight steps; its last part has the places of `laid`, all lanes of each beside each other.
        laid: numbers of one step, those of a step beside each other. `slopes` and `stages` are one list a stage.
        own: what eight directions keep from step to step. `moved` are the tangents of time and size of the step.
        scratch: what they need within one.
    """

    method: str
    laying: Workspace
    laid: Workspace
    own: Workspace
    scratch: Workspace

    @classmethod
    def of(cls, program: Program, derivatives: Derivatives, factors: int, method: str) -> "Layout":
        """The places for one method; `factors` is how many the factors of a matrix are."""
        n, stages, entries = program.states, STAGES[method], program.entries
        implicit = method == "rodas5p"
        laid = Workspace.in_order({
            "size": 1, "slope": n, "stages": stages * n, "slopes": stages * len(derivatives.slopes.outputs[n:]),
            "factors": implicit * factors, "bends": implicit * len(derivatives.bends.outputs),
            "dense": 4 * n, "turn": implicit * stages * n,
        })  # fmt: skip
        laid = Workspace(laid.places, -(-laid.size // LANES) * LANES)
        laying = Workspace.in_order({
            "time": 1, "point": 1, "diagonal": 1, "x": n, "inputs": n, "constants": program.constants,
            "held": program.held, "argument": n, "right": n, "laid": laid.size,
        })  # fmt: skip
        start = laying.places["laid"]
        laying = Workspace({**laying.places, **{k: start + v for k, v in laid.places.items()}}, laying.size)
        own = Workspace.in_order({"x": n, "inputs": n, "moved": 2, "constants": program.constants})
        scratch = Workspace.in_order({"start": n, "argument": n, "right": n, "stages": stages * n, "bends": entries,
                             "dense": 4 * n})  # fmt: skip
        return cls(method, laying, laid, own, scratch)


def emit_lay(kernels: Kernels, program: Program, derivatives: Derivatives, layout: Layout) -> None:
    """Adds `lay(laying)`, from time, size, x, inputs, constants and held to all the rest, and `spread(laying,
    rows)`, which gives the numbers laid out for each lane, `(lane, number)`.

    They call `slopes`, and for `rodas5p` also `bends`, `factor` and `solve`.
    """
    lay = {"tsit5": _lay_tsit5, "rodas5p": _lay_rodas5p}[layout.method]
    with kernels.function("lay", 1) as (code, (base,)):
        lay(Block(code, layout.laying, base, program.states), program, derivatives)
    with kernels.function("spread", 2) as (code, (base, rows)):
        _spread(code, code.at(base, layout.laying.places["laid"]), rows, layout.laid.size)


def _lay_tsit5(block: Block, program: Program, derivatives: Derivatives) -> None:
    code, n = block.code, block.states
    size = block.load("size")
    for j, (node, row) in enumerate(zip(tsit5.C, tsit5.A, strict=True)):
        if j:
            with code.loop(n) as i:
                total = code.combine(row, _stages(block, j, i))
                block.store(code.add(block.load("x", i), code.mul(size, total)), "argument", i)
        _slopes_at(block, derivatives, j, node)
        with code.loop(n) as i:
            value = code.add(block.load("right", i), block.load("inputs", i))
            code.store(value, block.stage(j), i)
            if j == 0:
                block.store(value, "slope", i)
    with code.loop(n) as i:
        for power in range(4):
            weights = [row[power] for row in tsit5.DENSE]
            value = code.mul(size, code.combine(weights, _stages(block, 7, i)))
            code.store(value, block.array("dense", power * n), i)


def _lay_rodas5p(block: Block, program: Program, derivatives: Derivatives) -> None:
    code, b, n = block.code, block.code.builder, block.states
    size = block.load("size")
    inverse = b.fdiv(vector(1.0), size)
    block.store(code.mul(vector(1 / rodas5p.GAMMA), inverse), "diagonal")
    code.call("bends", block.array("time"), block.array("x"), block.array("constants"), block.array("held"),
              block.array("bends"))  # fmt: skip
    for j, (node, row, links) in enumerate(zip(rodas5p.C, rodas5p.A, rodas5p.COUPLING, strict=True)):
        if j:
            with code.loop(n) as i:
                block.store(code.add(block.load("x", i), code.combine(row, _stages(block, j, i))), "argument", i)
        _slopes_at(block, derivatives, j, node)
        if j == 0:
            code.call("factor", block.array("slopes"), block.array("diagonal"), block.array("factors"))
        with code.loop(n) as i:
            value = code.add(block.load("right", i), block.load("inputs", i))
            if j:
                value = code.add(value, code.mul(inverse, code.combine(links, _stages(block, j, i))))
            else:
                block.store(value, "slope", i)
            block.store(value, "right", i)
        for e, state in enumerate(program.timed, start=len(program.rows)):
            change = code.mul(code.mul(vector(rodas5p.D[j]), size), block.load("slopes", e))
            block.store(code.add(block.load("right", state), change), "right", state)
        code.call("solve", block.array("factors"), block.array("right"), block.stage(j))
        with code.loop(n) as i:
            own = code.mul(vector(1 / rodas5p.GAMMA), code.load(block.stage(j), i))
            own = code.sub(own, code.combine(links, _stages(block, j, i)))
            code.store(code.mul(code.mul(inverse, inverse), own), block.array("turn", j * n), i)
    with code.loop(n) as i:
        stages = _stages(block, 8, i)
        change = code.sub(code.add(block.load("argument", i), stages[7]), block.load("x", i))
        for power, term in enumerate(rodas5p_terms(code, change, stages)):
            code.store(term, block.array("dense", power * n), i)


def _stages(block: Block, count: int, i: ir.Value) -> list[ir.Value]:
    return [block.code.load(block.stage(j), i) for j in range(count)]


def _slopes_at(block: Block, derivatives: Derivatives, stage: int, node: float) -> None:
    """The right-hand side without inputs and its derivatives at a stage."""
    code = block.code
    block.store(code.add(block.load("time"), code.mul(vector(node), block.load("size"))), "point")
    width = len(derivatives.slopes.outputs) - block.states
    code.call("slopes", block.array("point"), block.array("argument" if stage else "x"), block.array("constants"),
              block.array("held"), block.array("right"), block.array("slopes", stage * width))  # fmt: skip


def _spread(code: Code, source: ir.Value, rows: ir.Value, count: int) -> None:
    """Transposes `(number, lane)` to `(lane, number)`, a square of eight by eight at a time."""
    b = code.builder
    eight = ir.Constant(INDEX, LANES)
    with code.loop(count // LANES) as square:
        first = b.mul(square, eight)
        values = [code.load(source, b.add(first, ir.Constant(INDEX, i))) for i in range(LANES)]
        width = 1
        while width < LANES:
            for i in (i for i in range(LANES) if not i & width):
                pair = values[i], values[i | width]
                low = [LANES + (k ^ width) if k & width else k for k in range(LANES)]
                high = [LANES + k if k & width else k | width for k in range(LANES)]
                for place, mask in ((i, low), (i | width, high)):
                    values[place] = b.shuffle_vector(*pair, ir.Constant(ir.VectorType(NUMBER, LANES), mask))
            width *= 2
        for lane, value in enumerate(values):
            address = code.number_at(rows, b.add(first, ir.Constant(INDEX, lane * count)))
            b.store(value, address, align=8)
