"""Reverse mode on tapes: the tape that carries cotangents of the outputs back to the inputs."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

from mechanistic.compile.tape import BRANCHING, FLAT, Instruction, Tape, TapeBuilder, partial, taken


def pullback(tape: Tape, wanted: Sequence[int]) -> Tape:
    """The tape of cotangents: inputs are those of `tape`, then one cotangent an output; outputs are the cotangents of
    the inputs `wanted`.

    Its size is a multiple of that of `tape`, however many inputs and outputs there are. At kinks the derivative is that
    of `differentiate`. A branch that is not taken leaves no trace, also where its derivative is not finite there.
    """
    builder = TapeBuilder(tape.slots + len(tape.outputs))
    place = builder.replay(tape, range(tape.slots))
    sweep = _Sweep(builder, _moved(tape, wanted))
    for position, output in enumerate(tape.outputs):
        sweep.add(output, tape.slots + position, chosen=False)
    for register in range(len(place) - 1, tape.slots - 1, -1):
        sweep.back_through(register, place, tape.instructions[register - tape.slots])
    return builder.finish([sweep.total(slot) for slot in wanted])


def _moved(tape: Tape, wanted: Sequence[int]) -> list[bool]:
    """Whether each register depends on an input in `wanted`."""
    moved = [slot in set(wanted) for slot in range(tape.slots)]
    for instruction in tape.instructions:
        moved.append(instruction.operation not in FLAT and any(moved[a] for a in instruction.arguments))
    return moved


@final
@dataclass(slots=True)
class _Sweep:
    """Cotangents collected so far.

    Attributes:
        builder: where they are computed.
        moved: whether a register of the tape is wanted to have one.
        parts: by register of the tape, registers of the builder to be summed.
        chosen: registers whose cotangent may be zero because a branch is not taken.
    """

    builder: TapeBuilder
    moved: list[bool]
    parts: dict[int, list[int]] = field(default_factory=dict)
    chosen: set[int] = field(default_factory=set)

    def add(self, register: int, part: int, chosen: bool) -> None:
        """Adds a part to the cotangent of a register, if that is wanted."""
        if self.moved[register] and self.builder.number(part) != 0:
            self.parts.setdefault(register, []).append(part)
            if chosen:
                self.chosen.add(register)

    def total(self, register: int) -> int:
        """The cotangent of a register."""
        return self.builder.total(self.parts.get(register, []))

    def back_through(self, register: int, place: Sequence[int], instruction: Instruction) -> None:
        """Hands the cotangent of an instruction to its arguments."""
        if register not in self.parts:
            return
        b, operation, arguments = self.builder, instruction.operation, instruction.arguments
        cotangent, chosen = self.total(register), register in self.chosen
        here = [place[a] for a in arguments]
        if operation == "guard":
            self.add(arguments[1], cotangent, chosen)
        elif operation in BRANCHING:
            condition, zero = taken(b, operation, here), b.constant(0.0)
            self.add(arguments[-2], b.apply("where", condition, cotangent, zero), chosen=True)
            self.add(arguments[-1], b.apply("where", condition, zero, cotangent), chosen=True)
        elif operation == "div":
            self._divide(cotangent, place[register], arguments, here[1], chosen)
        else:
            for position, argument in enumerate(arguments):
                if self.moved[argument]:
                    slope = partial(b, place[register], operation, here, position)
                    self.add(argument, self._product(cotangent, slope, chosen), chosen)

    def _divide(self, cotangent: int, quotient: int, arguments: Sequence[int], divisor: int, chosen: bool) -> None:
        """A division costs more than a product: one serves both arguments."""
        b = self.builder
        share = b.apply("div", cotangent, divisor)
        if chosen and b.number(divisor) is None:
            share = self._masked(cotangent, share)
        self.add(arguments[0], share, chosen)
        if self.moved[arguments[1]]:
            self.add(arguments[1], b.apply("neg", self._product(share, quotient, chosen)), chosen)

    def _product(self, cotangent: int, slope: int, chosen: bool) -> int:
        b = self.builder
        number = b.number(slope)
        if number is not None:
            return b.apply("neg", cotangent) if number == -1 else b.apply("mul", slope, cotangent)
        product = b.apply("mul", slope, cotangent)
        return self._masked(cotangent, product) if chosen else product

    def _masked(self, cotangent: int, product: int) -> int:
        """A product that is zero where its cotangent is: the slope of a branch that is not taken may be infinite."""
        b = self.builder
        zero = b.constant(0.0)
        return b.apply("where", b.apply("ne", cotangent, zero), product, zero)
