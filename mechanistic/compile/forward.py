"""Forward mode on tapes: the derivatives of some registers by some inputs, where they are not zero for certain."""

from collections.abc import Iterable, Sequence

from mechanistic.compile.tape import BRANCHING, FLAT, Instruction, TapeBuilder, partial, taken

Slopes = dict[int, int]
"""Input → register of the derivative by it."""


def slopes(builder: TapeBuilder, outputs: Sequence[int], wanted: Iterable[int]) -> list[Slopes]:
    """Registers of the derivatives of `outputs` by the inputs `wanted`, appended to `builder`.

    A derivative that is zero for certain is left out. Every derivative of an intermediate result is computed once, so
    that the size of the result follows the number of derivatives that are not zero. At kinks the derivative is that of
    `differentiate`. A branch that is not taken leaves no trace, also where its derivative is not finite there.
    """
    one = builder.constant(1.0)
    known: dict[int, Slopes] = {slot: {} for slot in range(builder.slots)}
    known |= {slot: {slot: one} for slot in wanted}
    for register in _needed(builder, outputs):
        instruction = builder.instruction(register)
        assert instruction is not None
        known[register] = _slopes_of(builder, register, instruction, [known[a] for a in instruction.arguments])
    return [known[output] for output in outputs]


def _needed(builder: TapeBuilder, outputs: Sequence[int]) -> list[int]:
    """The registers that outputs are computed with, in order."""
    needed: set[int] = set()
    pending = list(outputs)
    while pending:
        register = pending.pop()
        instruction = builder.instruction(register)
        if instruction is not None and register not in needed:
            needed.add(register)
            pending.extend(instruction.arguments)
    return sorted(needed)


def _slopes_of(b: TapeBuilder, register: int, instruction: Instruction, inner: Sequence[Slopes]) -> Slopes:
    operation, arguments = instruction.operation, instruction.arguments
    if operation in FLAT:
        return {}
    if operation == "guard":
        return inner[1]
    inputs = sorted({slot for each in inner for slot in each})
    if not inputs:
        return {}
    if operation in BRANCHING:
        condition, zero = taken(b, operation, arguments), b.constant(0.0)
        first, second = inner[-2:]
        return {s: b.apply("where", condition, first.get(s, zero), second.get(s, zero)) for s in inputs}
    factors = [_factor(b, register, operation, arguments, i) if each else -1 for i, each in enumerate(inner)]
    found = {
        slot: _sum(b, [(factors[i], each[slot]) for i, each in enumerate(inner) if slot in each]) for slot in inputs
    }
    return {slot: total for slot, total in found.items() if b.number(total) != 0}


def _factor(b: TapeBuilder, register: int, operation: str, arguments: Sequence[int], position: int) -> int:
    """∂(operation)/∂(argument at `position`); one division serves all derivatives of a quotient."""
    if operation != "div":
        return partial(b, register, operation, arguments, position)
    reciprocal = b.apply("div", b.constant(1.0), arguments[1])
    return reciprocal if position == 0 else b.apply("neg", b.apply("mul", register, reciprocal))


def _sum(b: TapeBuilder, terms: Sequence[tuple[int, int]]) -> int:
    """The sum of products; a factor of -1 is a difference."""
    total: int | None = None
    for factor, slope in terms:
        negative = b.number(factor) == -1
        part = slope if negative else b.apply("mul", factor, slope)
        if total is None:
            total = b.apply("neg", part) if negative else part
        else:
            total = b.apply("sub" if negative else "add", total, part)
    assert total is not None
    return total
