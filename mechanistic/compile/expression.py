"""From sympy expressions to tapes, with the names taken out, so that equal shapes give equal tapes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from hashlib import blake2b
from typing import Any, final

import sympy
from sympy.functions.elementary.piecewise import ExprCondPair

from mechanistic.compile.switches import HeldSymbol
from mechanistic.compile.tape import Tape, TapeBuilder
from mechanistic.errors import ModelError
from mechanistic.model import time

COMMUTATIVE = (sympy.Add, sympy.Mul, sympy.Min, sympy.Max, sympy.And, sympy.Or, sympy.Xor, sympy.Eq, sympy.Ne)

UNARY = {
    sympy.exp: "exp",
    sympy.log: "log",
    sympy.Abs: "abs",
    sympy.sign: "sign",
    sympy.floor: "floor",
    sympy.ceiling: "ceil",
    sympy.sin: "sin",
    sympy.cos: "cos",
    sympy.tan: "tan",
    sympy.asin: "asin",
    sympy.acos: "acos",
    sympy.atan: "atan",
    sympy.sinh: "sinh",
    sympy.cosh: "cosh",
    sympy.tanh: "tanh",
    sympy.asinh: "asinh",
    sympy.acosh: "acosh",
    sympy.atanh: "atanh",
    sympy.erf: "erf",
    sympy.loggamma: "lgamma",
    sympy.Not: "not",
}
RECIPROCAL_OF = {
    sympy.sec: "cos",
    sympy.csc: "sin",
    sympy.cot: "tan",
    sympy.sech: "cosh",
    sympy.csch: "sinh",
    sympy.coth: "tanh",
}
OF_RECIPROCAL = {
    sympy.asec: "acos",
    sympy.acsc: "asin",
    sympy.acot: "atan",
    sympy.asech: "acosh",
    sympy.acsch: "asinh",
    sympy.acoth: "atanh",
}
RELATIONS = {
    sympy.StrictLessThan: ("lt", False),
    sympy.LessThan: ("le", False),
    sympy.StrictGreaterThan: ("lt", True),
    sympy.GreaterThan: ("le", True),
    sympy.Equality: ("eq", False),
    sympy.Unequality: ("ne", False),
}


@final
@dataclass(frozen=True, slots=True)
class Shape:
    """An expression without its names: a tape, and each slot's kind; see `kind_of`."""

    tape: Tape
    kinds: tuple[str, ...]


def shape_of(expression: sympy.Basic, kind: Callable[[sympy.Symbol], str]) -> tuple[Shape, tuple[sympy.Symbol, ...]]:
    """The shape of an expression, and the symbol that stands in each of its slots.

    Raises:
        ModelError: for a function that has no tape.
    """
    translator = _Translator({s: kind(s) for s in expression.free_symbols}).refined(expression)
    symbols = translator.symbols_in_order(expression)
    builder = TapeBuilder(len(symbols))
    output = translator.register(builder, expression, {s: i for i, s in enumerate(symbols)})
    return Shape(builder.finish([output]), tuple(kind(s) for s in symbols)), symbols


@final
@dataclass(slots=True)
class _Translator:
    colours: Mapping[sympy.Symbol, str]
    _keys: dict[sympy.Basic, str] = field(default_factory=dict)

    def refined(self, node: sympy.Basic) -> "_Translator":
        """Tells symbols apart by where they stand, so that the order of `k^h + s^h` does not depend on names.

        Colour refinement (Weisfeiler & Leman 1968); symbols that it leaves equal stand in symmetric places.
        """
        count = len(set(self.colours.values()))
        if count == len(self.colours):
            return self
        places: dict[sympy.Symbol, list[str]] = {s: [colour] for s, colour in self.colours.items()}
        pending = [(node, "")]
        while pending:
            current, context = pending.pop()
            if isinstance(current, sympy.Symbol):
                places[current].append(context)
            below = _digest(f"{context} {self.key(current)}")
            free = isinstance(current, COMMUTATIVE)
            pending.extend((child, below if free else f"{below} {i}") for i, child in enumerate(current.args))
        finer = _Translator({s: _digest(" ".join(sorted(found))) for s, found in places.items()})
        return finer.refined(node) if len(set(finer.colours.values())) > count else self

    def key(self, node: sympy.Basic) -> str:
        """A digest of the structure below a node, blind to names."""
        if node not in self._keys:
            if isinstance(node, sympy.Symbol):
                text = f"symbol {self.colours[node]}"
            elif not node.args:
                text = sympy.srepr(node)
            else:
                text = f"{type(node).__name__}({','.join(self.key(child) for child in self.children(node))})"
            self._keys[node] = _digest(text)
        return self._keys[node]

    def children(self, node: sympy.Basic) -> tuple[sympy.Basic, ...]:
        """Arguments in an order that does not depend on names, where the order is free."""
        return tuple(sorted(node.args, key=self.key)) if isinstance(node, COMMUTATIVE) else node.args

    def symbols_in_order(self, node: sympy.Basic) -> tuple[sympy.Symbol, ...]:
        found: dict[sympy.Symbol, None] = {}
        pending = [node]
        while pending:
            current = pending.pop()
            if isinstance(current, sympy.Symbol):
                found.setdefault(current)
            pending.extend(reversed(self.children(current)))
        return tuple(found)

    def register(self, b: TapeBuilder, node: Any, slots: Mapping[sympy.Symbol, int]) -> int:
        if isinstance(node, sympy.Symbol):
            return slots[node]
        if node in (sympy.true, sympy.false):
            return b.apply("true" if node else "false")
        if isinstance(node, sympy.Number | sympy.NumberSymbol):
            return b.constant(float(node))
        if isinstance(node, sympy.Piecewise):
            return self._piecewise(b, node.args, slots)
        if isinstance(node, sympy.ITE):
            condition, first, second = node.args
            return self._piecewise(b, ((first, condition), (second, sympy.true)), slots)
        if isinstance(node, sympy.Mul):
            return self._product(b, node, slots)
        registers = [self.register(b, child, slots) for child in self.children(node)]
        return self._apply(b, node, registers)

    def _apply(self, b: TapeBuilder, node: sympy.Basic, registers: list[int]) -> int:
        kind = type(node)
        numbers = [_number(b, r) for r in registers]
        if kind is sympy.Add:
            return _sum(b, numbers)
        if kind is sympy.Pow:
            return b.power(*numbers)
        if kind in RELATIONS:
            operation, swap = RELATIONS[kind]
            return b.apply(operation, *(reversed(numbers) if swap else numbers))
        if kind in (sympy.And, sympy.Or, sympy.Xor):
            return reduce(lambda x, y: b.apply(kind.__name__.lower(), x, y), registers)
        if kind is sympy.Not:
            return b.apply("not", registers[0])
        if kind in (sympy.Min, sympy.Max):
            return reduce(lambda x, y: b.apply(kind.__name__.lower(), x, y), numbers)
        if kind in UNARY:
            return b.apply(UNARY[kind], numbers[0])
        if kind in RECIPROCAL_OF:
            return b.apply("div", b.constant(1.0), b.apply(RECIPROCAL_OF[kind], numbers[0]))
        if kind in OF_RECIPROCAL:
            return b.apply(OF_RECIPROCAL[kind], b.apply("div", b.constant(1.0), numbers[0]))
        if kind is sympy.atan2:
            return b.apply("atan2", *numbers)
        if kind is sympy.Mod:
            quotient = b.apply("floor", b.apply("div", *numbers))
            return b.apply("sub", numbers[0], b.apply("mul", numbers[1], quotient))
        if kind in (sympy.factorial, sympy.gamma):
            shifted = numbers[0] if kind is sympy.gamma else b.apply("add", numbers[0], b.constant(1.0))
            return b.apply("exp", b.apply("lgamma", shifted))
        raise ModelError("an expression cannot be compiled:", [f"the function `{kind.__name__}` in {node}"])

    def _product(self, b: TapeBuilder, node: sympy.Mul, slots: Mapping[sympy.Symbol, int]) -> int:
        """A product with its negative powers gathered into one division."""
        above: list[int] = []
        below: list[int] = []
        for factor in self.children(node):
            base, exponent = factor.as_base_exp() if isinstance(factor, sympy.Pow) else (factor, sympy.S.One)
            if exponent.is_number and exponent.is_negative and not base.is_number:
                power = _number(b, self.register(b, base, slots))
                below.append(b.power(power, b.constant(float(-exponent))))
            else:
                above.append(_number(b, self.register(b, factor, slots)))
        negative = [r for r in above if b.number(r) == -1.0]
        top = (
            _chain(b, "mul", [r for r in above if r not in negative]) if len(above) > len(negative) else b.constant(1.0)
        )
        result = b.apply("div", top, _chain(b, "mul", below)) if below else top
        return b.apply("neg", result) if len(negative) % 2 else result

    def _piecewise(self, b: TapeBuilder, branches: Any, slots: Mapping[sympy.Symbol, int]) -> int:
        pairs = [tuple(p) if isinstance(p, ExprCondPair) else p for p in branches]
        value, condition = pairs[0]
        if condition == sympy.true:
            return _number(b, self.register(b, value, slots))
        if len(pairs) == 1:
            raise ModelError("an expression cannot be compiled:", ["a piecewise has no value where no condition holds"])
        chosen = self.register(b, condition, slots)
        if not b.is_logical(chosen):
            chosen = b.apply("ne", chosen, b.constant(0.0))
        first = self._guarded(b, [(value, sympy.true)], slots, chosen)
        rest = self._guarded(b, pairs[1:], slots, b.apply("not", chosen))
        return b.apply("where", chosen, first, rest)

    def _guarded(self, b: TapeBuilder, pairs: list[Any], slots: Mapping[sympy.Symbol, int], condition: int) -> int:
        """Branches whose symbols pass no gradient where `condition` does not hold."""
        # In the order of their slots: that of a set differs from process to process, and with it the machine code.
        used = sorted(set().union(*(part.free_symbols for pair in pairs for part in pair)), key=slots.__getitem__)
        plain = all(isinstance(value, sympy.Symbol | sympy.Number) for value, _ in pairs)
        guards = {s: slots[s] if plain else b.apply("guard", condition, slots[s]) for s in used}
        return self._piecewise(b, pairs, {**slots, **guards})


def _digest(text: str) -> str:
    return blake2b(text.encode(), digest_size=12).hexdigest()


def _number(b: TapeBuilder, register: int) -> int:
    """A truth value as 0 or 1; any other register unchanged."""
    if b.is_logical(register):
        return b.apply("where", register, b.constant(1.0), b.constant(0.0))
    return register


def _chain(b: TapeBuilder, operation: str, registers: list[int]) -> int:
    return reduce(lambda x, y: b.apply(operation, x, y), registers)


def _sum(b: TapeBuilder, registers: list[int]) -> int:
    """A sum with negated terms subtracted."""
    result: int | None = None
    for register in registers:
        instruction = b.instruction(register)
        if result is not None and instruction is not None and instruction.operation == "neg":
            result = b.apply("sub", result, instruction.arguments[0])
        else:
            result = register if result is None else b.apply("add", result, register)
    assert result is not None
    return result


def kind_of(states: frozenset[str], parameters: frozenset[str]) -> Callable[[sympy.Symbol], str]:
    """Which table a symbol is read from: `s`, `p`, `t`, `h` for held values, or `a` for an assignment."""

    def kind(atom: sympy.Symbol) -> str:
        if atom == time:
            return "t"
        if isinstance(atom, HeldSymbol):
            return "h"
        return "s" if atom.name in states else "p" if atom.name in parameters else "a"

    return kind
