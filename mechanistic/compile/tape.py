"""Expressions as straight-line tapes: common subexpressions shared, derivatives taken symbolically, run on tensors.

A tape is data: a tuple of instructions over numbered registers. Registers `0 … slots-1` are the inputs. No source text
is generated and nothing is evaluated by name, so a foreign model cannot smuggle code in; a second backend prints the
same tape.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

Value = Tensor | float

INFIX: dict[str, Callable[[Value, Value], Value]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "pow": lambda a, b: a**b,
}
UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "neg": torch.neg,
    "square": torch.square,
    "exp": torch.exp,
    "log": torch.log,
    "sqrt": torch.sqrt,
    "abs": torch.abs,
    "sign": torch.sign,
    "floor": torch.floor,
    "ceil": torch.ceil,
    "sin": torch.sin,
    "cos": torch.cos,
    "tan": torch.tan,
    "asin": torch.asin,
    "acos": torch.acos,
    "atan": torch.atan,
    "sinh": torch.sinh,
    "cosh": torch.cosh,
    "tanh": torch.tanh,
    "asinh": torch.asinh,
    "acosh": torch.acosh,
    "atanh": torch.atanh,
    "erf": torch.erf,
    "lgamma": torch.lgamma,
    "digamma": torch.digamma,
    "trigamma": lambda a: torch.polygamma(1, a),
    "not": torch.logical_not,
}
BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "min": torch.minimum,
    "max": torch.maximum,
    "atan2": torch.atan2,
    "xlogy": torch.xlogy,
    "lt": torch.lt,
    "le": torch.le,
    "eq": torch.eq,
    "ne": torch.ne,
    "and": torch.logical_and,
    "or": torch.logical_or,
    "xor": torch.logical_xor,
}
LOGICAL = frozenset({"lt", "le", "eq", "ne", "and", "or", "xor", "not", "true", "false"})
FLAT = LOGICAL | {"floor", "ceil", "sign", "const"}
"""Operations whose derivative is zero wherever there is one."""
BRANCHING = frozenset({"where", "min", "max"})
"""Operations that give one of their last two arguments."""


@final
@dataclass(frozen=True, slots=True)
class Instruction:
    """One operation on earlier registers; `const` carries its number in `value`."""

    operation: str
    arguments: tuple[int, ...] = ()
    value: float = 0.0


@final
@dataclass(frozen=True, slots=True)
class Tape:
    """A straight-line program: inputs in registers `0 … slots-1`, then one register an instruction.

    Two expressions equal up to the names of their symbols have equal tapes, which is what groups reactions to families.
    """

    slots: int
    instructions: tuple[Instruction, ...]
    outputs: tuple[int, ...]

    def only(self, outputs: Sequence[int]) -> "Tape":
        """The tape of some registers and of what they need, everything else left out."""
        needed: set[int] = set()
        pending = list(outputs)
        while pending:
            register = pending.pop()
            if register >= self.slots and register not in needed:
                needed.add(register)
                pending.extend(self.instructions[register - self.slots].arguments)
        order = sorted(needed)
        place = {i: i for i in range(self.slots)} | {old: self.slots + new for new, old in enumerate(order)}
        kept = (self.instructions[register - self.slots] for register in order)
        moved = tuple(Instruction(i.operation, tuple(place[a] for a in i.arguments), i.value) for i in kept)
        return Tape(self.slots, moved, tuple(place[output] for output in outputs))

    def number(self, register: int) -> float | None:
        """The value of a register that holds a constant, else None."""
        if register < self.slots or self.instructions[register - self.slots].operation != "const":
            return None
        return self.instructions[register - self.slots].value

    def run(self, inputs: Sequence[Tensor]) -> list[Value]:
        """Values of the outputs for inputs of any mutually broadcastable shapes; a constant output is a float.

        Truth values come out as 0 and 1.
        """
        registers: list[Value] = list(inputs)
        like = inputs[0] if inputs else torch.zeros((), dtype=torch.float64)
        for instruction in self.instructions:
            registers.append(_execute(instruction, registers, like))
        return [_as_number(registers[output], like) for output in self.outputs]


def _execute(instruction: Instruction, registers: list[Value], like: Tensor) -> Value:
    operation = instruction.operation
    if operation == "const":
        return instruction.value
    arguments = [registers[i] for i in instruction.arguments]
    if operation in INFIX:
        return INFIX[operation](*arguments)
    tensors = [a if isinstance(a, Tensor) else like.new_full((), a) for a in arguments]
    if operation in UNARY:
        return UNARY[operation](tensors[0])
    if operation in BINARY:
        return BINARY[operation](*tensors)
    if operation == "where":
        return torch.where(tensors[0], tensors[1], tensors[2])
    if operation == "guard":
        # The branch that is not taken may be singular here; cutting its gradient keeps 0 · inf out of the taken one.
        return torch.where(tensors[0], tensors[1], tensors[1].detach())
    return like.new_full((), operation == "true", dtype=torch.bool)


def _as_number(value: Value, like: Tensor) -> Value:
    return value.to(like.dtype) if isinstance(value, Tensor) and value.dtype is torch.bool else value


@final
@dataclass(slots=True)
class TapeBuilder:
    """Builds a tape with every repeated operation stored once and constants folded."""

    slots: int
    _instructions: list[Instruction] = field(default_factory=list)
    _known: dict[Instruction, int] = field(default_factory=dict)

    def finish(self, outputs: Sequence[int]) -> Tape:
        """The tape of what `outputs` need, everything else left out."""
        return Tape(self.slots, tuple(self._instructions), ()).only(outputs)

    def constant(self, value: float) -> int:
        """The register of a number."""
        return self._append(Instruction("const", (), float(value)))

    def number(self, register: int) -> float | None:
        """The value of a register that holds a constant, else None."""
        if register < self.slots:
            return None
        instruction = self._instructions[register - self.slots]
        return instruction.value if instruction.operation == "const" else None

    def instruction(self, register: int) -> Instruction | None:
        """What computes a register; None for an input."""
        return None if register < self.slots else self._instructions[register - self.slots]

    def replay(self, tape: Tape, inputs: Sequence[int]) -> list[int]:
        """Where each register of a tape that reads `inputs` is found here: the inputs, then one an instruction."""
        place = list(inputs)
        for instruction in tape.instructions:
            place.append(self.repeat(instruction, [place[a] for a in instruction.arguments]))
        return place

    def repeat(self, instruction: Instruction, arguments: Sequence[int]) -> int:
        """The register of an instruction of another tape with `arguments` here."""
        if instruction.operation == "const":
            return self.constant(instruction.value)
        return self.apply(instruction.operation, *arguments)

    def apply(self, operation: str, *arguments: int) -> int:
        """The register of `operation(*arguments)`."""
        numbers = [self.number(a) for a in arguments]
        folded = self._fold(operation, arguments, numbers)
        return self._append(Instruction(operation, arguments)) if folded is None else folded

    def is_logical(self, register: int) -> bool:
        """Whether a register holds a truth value."""
        instruction = self.instruction(register)
        return instruction is not None and instruction.operation in LOGICAL

    def total(self, registers: Sequence[int]) -> int:
        """The sum of registers; an empty sum is zero."""
        if not registers:
            return self.constant(0.0)
        result = registers[0]
        for register in registers[1:]:
            result = self.apply("add", result, register)
        return result

    def power(self, base: int, exponent: int) -> int:
        """`base ** exponent`; small whole exponents become products, which are exact at negative bases."""
        number = self.number(exponent)
        if number is None or not number.is_integer() or abs(number) > 16:
            return self.apply("sqrt", base) if number == 0.5 else self.apply("pow", base, exponent)
        if number < 0:
            return self.apply("div", self.constant(1.0), self.power(base, self.constant(-number)))
        if number == 0:
            return self.constant(1.0)
        half = self.power(base, self.constant(number // 2)) if number > 1 else None
        if half is None:
            return base
        squared = self.apply("square", half)
        return self.apply("mul", squared, base) if number % 2 else squared

    def _append(self, instruction: Instruction) -> int:
        if instruction not in self._known:
            self._instructions.append(instruction)
            self._known[instruction] = self.slots + len(self._instructions) - 1
        return self._known[instruction]

    def _fold(self, operation: str, arguments: tuple[int, ...], numbers: list[float | None]) -> int | None:
        """The register of a result that needs no instruction, or None."""
        if operation == "where" and arguments[1] == arguments[2]:
            return arguments[1]
        if operation in {"add", "sub", "mul", "div", "pow", "neg", "square"}:
            known = [n for n in numbers if n is not None]
            if len(known) == len(numbers):
                return self._fold_numbers(operation, known)
            return self._fold_neutral(operation, arguments, numbers)
        return None

    def _fold_numbers(self, operation: str, numbers: list[float]) -> int | None:
        try:
            if operation == "neg":
                return self.constant(-numbers[0])
            if operation == "square":
                return self.constant(numbers[0] ** 2)
            result = INFIX[operation](*numbers)
        except (ZeroDivisionError, OverflowError):
            return None
        return self.constant(result) if isinstance(result, float) and math.isfinite(result) else None

    def _fold_neutral(self, operation: str, arguments: tuple[int, ...], numbers: list[float | None]) -> int | None:
        if operation == "add":
            return arguments[1] if numbers[0] == 0 else arguments[0] if numbers[1] == 0 else None
        if operation == "sub" and numbers[1] == 0:
            return arguments[0]
        if operation == "mul" and 1.0 in numbers:
            return arguments[1 - numbers.index(1.0)]
        if operation == "mul" and 0.0 in numbers:
            return self.constant(0.0)
        if operation in {"div", "pow"} and numbers[1] == 1:
            return arguments[0]
        return None


def differentiate(builder: TapeBuilder, output: int, slot: int) -> int | None:
    """The register of d`output`/d`slot`, appended to `builder`; None where it is zero for certain.

    At a kink (`abs`, `min`, a piecewise border) it is the derivative of the branch that is evaluated there.
    """
    known: dict[int, int | None] = dict.fromkeys(range(builder.slots))
    known[slot] = builder.constant(1.0)

    pending = [output]
    while pending:
        register = pending[-1]
        if register in known:
            pending.pop()
            continue
        instruction = builder.instruction(register)
        assert instruction is not None
        missing = [a for a in instruction.arguments if a not in known]
        if missing:
            pending.extend(missing)
            continue
        known[register] = _derivative(builder, register, instruction, [known[a] for a in instruction.arguments])
        pending.pop()
    return known[output]


def _derivative(b: TapeBuilder, register: int, instruction: Instruction, inner: list[int | None]) -> int | None:
    if all(d is None for d in inner) or instruction.operation in FLAT:
        return None
    arguments = instruction.arguments
    operation = instruction.operation
    if operation in BRANCHING:
        return _branch_derivative(b, operation, arguments, inner)
    if operation == "guard":
        return inner[1]
    terms = []
    for position, d in enumerate(inner):
        if d is not None:
            slope = partial(b, register, operation, arguments, position)
            terms.append(b.apply("mul", slope, d))
    return b.total(terms)


def _branch_derivative(b: TapeBuilder, operation: str, arguments: tuple[int, ...], inner: list[int | None]) -> int:
    zero = b.constant(0.0)
    condition = taken(b, operation, arguments)
    first, second = inner[-2:]
    return b.apply("where", condition, zero if first is None else first, zero if second is None else second)


def taken(b: TapeBuilder, operation: str, arguments: Sequence[int]) -> int:
    """Whether `where`, `min` or `max` gives the first of its two branches, its last two arguments."""
    if operation == "where":
        return arguments[0]
    return b.apply("le", *(arguments if operation == "min" else reversed(arguments)))


def partial(b: TapeBuilder, register: int, operation: str, arguments: Sequence[int], position: int) -> int:
    """∂(operation)/∂(argument at `position`), for a `register` that holds the smooth `operation(*arguments)`."""
    a = arguments[0]
    one = b.constant(1.0)

    def apply(name: str, *parts: int) -> int:
        return b.apply(name, *parts)

    if operation in {"add", "sub"}:
        return b.constant(-1.0) if operation == "sub" and position == 1 else one
    if operation == "mul":
        return arguments[1 - position]
    if operation == "div":
        return apply("div", one if position == 0 else apply("neg", register), arguments[1])
    if operation == "pow":
        if position == 1:
            return apply("xlogy", register, a)
        lowered = b.power(a, apply("sub", arguments[1], one))
        return apply("mul", arguments[1], lowered)
    if operation == "xlogy":
        # It stands for the derivative of a power by its exponent, and is zero where the power is.
        slope = apply("log", arguments[1]) if position == 0 else apply("div", a, arguments[1])
        return apply("where", apply("eq", a, b.constant(0.0)), b.constant(0.0), slope)
    if operation == "atan2":
        other = arguments[1 - position]
        squares = apply("add", apply("square", a), apply("square", arguments[1]))
        return apply("div", other if position == 0 else apply("neg", other), squares)
    return _unary_partial(b, register, operation, a)


def _unary_partial(b: TapeBuilder, register: int, operation: str, a: int) -> int:
    one = b.constant(1.0)

    def apply(name: str, *parts: int) -> int:
        return b.apply(name, *parts)

    def reciprocal(value: int) -> int:
        return apply("div", one, value)

    square = apply("square", a)
    rules: dict[str, Callable[[], int]] = {
        "neg": lambda: b.constant(-1.0),
        "square": lambda: apply("mul", b.constant(2.0), a),
        "exp": lambda: register,
        "log": lambda: reciprocal(a),
        "sqrt": lambda: apply("div", b.constant(0.5), register),
        "abs": lambda: apply("sign", a),
        "sin": lambda: apply("cos", a),
        "cos": lambda: apply("neg", apply("sin", a)),
        "tan": lambda: apply("add", one, apply("square", register)),
        "asin": lambda: reciprocal(apply("sqrt", apply("sub", one, square))),
        "acos": lambda: apply("neg", reciprocal(apply("sqrt", apply("sub", one, square)))),
        "atan": lambda: reciprocal(apply("add", one, square)),
        "sinh": lambda: apply("cosh", a),
        "cosh": lambda: apply("sinh", a),
        "tanh": lambda: apply("sub", one, apply("square", register)),
        "asinh": lambda: reciprocal(apply("sqrt", apply("add", square, one))),
        "acosh": lambda: reciprocal(apply("sqrt", apply("sub", square, one))),
        "atanh": lambda: reciprocal(apply("sub", one, square)),
        "erf": lambda: apply("mul", b.constant(2 / math.sqrt(math.pi)), apply("exp", apply("neg", square))),
        "lgamma": lambda: apply("digamma", a),
        "digamma": lambda: apply("trigamma", a),
    }
    return rules[operation]()
