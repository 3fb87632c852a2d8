"""A compiled field as flat tapes of the whole model: what is constant for a subject apart from what moves."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast, final

from torch import Tensor

from mechanistic.compile import RateField
from mechanistic.compile.coupled import Dense
from mechanistic.compile.families import Expressions, Family
from mechanistic.compile.tape import Instruction, Tape, TapeBuilder


@final
@dataclass(frozen=True)
class Program:
    """The right-hand side of a model and its derivatives, written out.

    `rates` and `linearise` have the inputs `t`, the states, the constants that `prepare` makes of the parameters, and
    what is held during a step.

    Attributes:
        states, parameters, constants, held: how many there are of each; held values are modes.
        prepare: parameters → constants.
        rates: → dx/dt, one output a state.
        linearise: → dx/dt, then the nonzeros of ∂f/∂x at (`rows`, `columns`), then ∂f/∂t of the states `timed`.
        networks, seen: see `mechanistic.native.coupled`; there are none for a model without networks.
    """

    states: int
    parameters: int
    constants: int
    held: int
    prepare: Tape
    rates: Tape
    linearise: Tape
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    timed: tuple[int, ...]
    networks: tuple[Dense, ...] = ()
    seen: Tape | None = None

    @property
    def handles(self) -> int:
        """How many addresses stand after the held values."""
        return 3 if self.networks else 0

    @property
    def entries(self) -> int:
        """How many derivatives `linearise` gives."""
        return len(self.rows) + len(self.timed)

    @classmethod
    def of(cls, field: RateField) -> "Program":
        """The program of a smooth field."""
        n, k = len(field.state_names), len(field.parameter_names)
        held = 0 if field.discrete is None else field.discrete.modes
        rates, derivatives, builder = written_out(field, n, k, held)
        entries = sorted(key for key in derivatives if key[1] < n)
        timed = sorted(row for row, column in derivatives if column == n)
        slopes = [*(derivatives[key] for key in entries), *(derivatives[row, n] for row in timed)]
        prepare, moving = split(builder, [*rates, *slopes], n, k, held)
        return cls(
            n, k, len(prepare.outputs), held, prepare,
            moving.only(moving.outputs[:n]), moving,
            tuple(row for row, _ in entries), tuple(column for _, column in entries), tuple(timed),
        )  # fmt: skip


def written_out(
    field: RateField, n: int, k: int, held: int
) -> tuple[list[int], dict[tuple[int, int], int], TapeBuilder]:
    """Registers of dx/dt and of its derivatives at (state, state or `n` for the time).

    The inputs are `t`, the states, the parameters and what is held.
    """
    builder = TapeBuilder(1 + n + k + held)
    offsets = {"s": 1, "p": 1 + n, "h": 1 + n + k}
    values: list[int] = []
    slopes: list[dict[int, int]] = []
    parts = field.parts
    for part in parts[:-1]:
        mine = _expressions(builder, part, offsets, values, slopes)
        values, slopes = values + mine[0], slopes + mine[1]
    laws, law_slopes = _expressions(builder, parts[-1], offsets, values, slopes)
    rates = []
    derivatives: dict[tuple[int, int], int] = {}
    for row, weights in enumerate(field.net.tolist()):
        used = [(law, weight) for law, weight in enumerate(weights) if weight != 0]
        rates.append(_weighted(builder, [(laws[law], weight) for law, weight in used]))
        for column in sorted({column for law, _ in used for column in law_slopes[law]}):
            terms = [(law_slopes[law][column], weight) for law, weight in used if column in law_slopes[law]]
            derivatives[row, column] = _weighted(builder, terms)
    zero = {key for key, register in derivatives.items() if builder.number(register) == 0}
    return rates, {key: value for key, value in derivatives.items() if key not in zero}, builder


def _expressions(
    b: TapeBuilder,
    part: Expressions,
    offsets: Mapping[str, int],
    values: Sequence[int],
    slopes: Sequence[Mapping[int, int]],
) -> tuple[list[int], list[dict[int, int]]]:
    """Registers of the values of a part, and of their derivatives by column.

    `values` and `slopes` are those of the assignments before it.
    """
    results = [0] * len(part)
    by_time = offsets["p"] - offsets["s"]
    derivatives: list[dict[int, int]] = [{} for _ in results]
    for family in cast(list[Family], list(part.families)):
        columns = cast(Tensor, family.columns).tolist()
        for index, member in enumerate(family.members):
            places = [row[index] for row in columns]
            inputs = [
                input_register(kind, place, offsets, values) for kind, place in zip(family.kinds, places, strict=True)
            ]
            results[member] = replayed(b, family.value, inputs)[0]
            terms: dict[int, list[int]] = {}
            for slot, slope in zip(family.slopes, replayed(b, family.derivative, inputs), strict=True):
                if family.kinds[slot] == "a":
                    for column, inner in slopes[places[slot]].items():
                        terms.setdefault(column, []).append(b.apply("mul", slope, inner))
                else:
                    terms.setdefault(by_time if family.kinds[slot] == "t" else places[slot], []).append(slope)
            derivatives[member] = {column: b.total(parts) for column, parts in terms.items()}
    return results, derivatives


def input_register(kind: str, place: int, offsets: Mapping[str, int], values: Sequence[int]) -> int:
    """The register that a slot of a family reads."""
    if kind == "t":
        return 0
    return values[place] if kind == "a" else offsets[kind] + place


def replayed(b: TapeBuilder, tape: Tape, inputs: Sequence[int]) -> list[int]:
    """Registers of the outputs of a tape that reads `inputs`."""
    place = b.replay(tape, inputs)
    return [place[output] for output in tape.outputs]


def _weighted(b: TapeBuilder, terms: Iterable[tuple[int, float]]) -> int:
    """The sum of registers times numbers."""
    result: int | None = None
    for register, weight in terms:
        part = register if abs(weight) == 1 else b.apply("mul", b.constant(abs(weight)), register)
        if result is None:
            result = part if weight > 0 else b.apply("neg", part)
        else:
            result = b.apply("add" if weight > 0 else "sub", result, part)
    return b.constant(0.0) if result is None else result


def split(builder: TapeBuilder, outputs: Sequence[int], n: int, k: int, held: int) -> tuple[Tape, Tape]:
    """The part of a tape that follows from parameters alone, and the rest, which reads its results.

    What divides by a constant multiplies by its reciprocal instead, which costs a rounding and saves a division.
    """
    whole = builder.finish(outputs)
    split = _Split(TapeBuilder(k), {1 + n + i: i for i in range(k)})
    moving = []
    for register, instruction in enumerate(whole.instructions, start=whole.slots):
        if all(a in split.fixed for a in instruction.arguments):
            split.fixed[register] = split.first.repeat(instruction, [split.fixed[a] for a in instruction.arguments])
        else:
            moving.append((register, instruction))
    wanted = [split.wanted(instruction) for _, instruction in moving]
    last = [split.constant(output) if output in split.fixed else None for output in whole.outputs]
    constants = list(dict.fromkeys(register for row in [*wanted, last] for register in row if register is not None))
    b = TapeBuilder(1 + n + len(constants) + held)
    column = {register: 1 + n + i for i, register in enumerate(constants)}

    def read(old: int, constant: int | None) -> int:
        if constant is not None:
            value = column[constant]
            return b.apply("ne", value, b.constant(0.0)) if split.first.is_logical(split.fixed[old]) else value
        return place[old] if old in place else b.constant(cast(float, split.first.number(split.fixed[old])))

    place = {i: i for i in range(1 + n)} | {1 + n + k + i: 1 + n + len(constants) + i for i in range(held)}
    for (register, instruction), constant in zip(moving, wanted, strict=True):
        arguments = [read(a, c) for a, c in zip(instruction.arguments, constant, strict=True)]
        inverted = split.inverted(instruction)
        place[register] = b.apply("mul", *arguments) if inverted else b.repeat(instruction, arguments)
    results = [read(output, constant) for output, constant in zip(whole.outputs, last, strict=True)]
    return split.first.finish(constants), b.finish(results)


@final
@dataclass(frozen=True, slots=True)
class _Split:
    """What is constant: the builder of its tape, and old registers to registers there."""

    first: TapeBuilder
    fixed: dict[int, int]

    def inverted(self, instruction: Instruction) -> bool:
        """Whether this divides something that moves by something constant."""
        return instruction.operation == "div" and instruction.arguments[1] in self.fixed

    def wanted(self, instruction: Instruction) -> list[int | None]:
        """For each argument, the register of the constant that stands for it; None for numbers and what moves."""
        found = [self.constant(a) if a in self.fixed else None for a in instruction.arguments]
        if self.inverted(instruction):
            divisor = self.fixed[instruction.arguments[1]]
            found[1] = self.first.apply("div", self.first.constant(1.0), divisor)
        return found

    def constant(self, old: int) -> int | None:
        """The register of a constant, as a number; None where it is a number known now."""
        register = self.fixed[old]
        if self.first.is_logical(register):
            return self.first.apply("where", register, self.first.constant(1.0), self.first.constant(0.0))
        return None if self.first.number(register) is not None else register
