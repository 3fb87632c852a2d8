"""The one table between libsbml's syntax trees and sympy, used in both directions.

`ROWS` holds every function that both sides know; reading adds the rows of `READ_ONLY`, which sympy writes as
combinations of the others.
"""

import itertools
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

import libsbml
import sympy
from sympy import Basic, Dummy, Expr, Integer, Piecewise, Rational
from sympy.core.relational import Relational
from sympy.logic.boolalg import ITE, Boolean, BooleanAtom

from mechanistic.model import TimeSymbol, delay

AVOGADRO = 6.02214179e23
"""Value that SBML Level 3 fixes for the csymbol `avogadro`."""

LARGEST = Rational(2) ** 1024
"""Constants at or beyond this size have no double."""

EXTREME_LIMIT = 100
"""Most arguments of min and max."""

EXACT_BITS = 4096
"""Rational powers of more bits are folded in floating point."""

FUNCTION_PREFIX = "kinetwin_"
"""Function definitions that stand for sympy functions without a MathML element."""


class Untranslatable(Exception):  # noqa: N818 - a signal inside this package
    """A piece of mathematics that has no counterpart on the other side; the message completes a sentence."""


def number(value: Basic) -> Expr:
    """`value` as a number; a truth value counts as 1 or 0, as Level 3 Version 2 allows."""
    if isinstance(value, Expr):
        return value
    return select([(sympy.S.One, value)], sympy.S.Zero)


def truth(value: Basic) -> Boolean:
    """`value` as a truth value; a number is true unless it is zero, as Level 3 Version 2 allows."""
    return _relation(sympy.Ne, value, sympy.S.Zero) if isinstance(value, Expr) else value


def literal(value: float) -> Expr:
    """A number of a file: exact when it is a whole number, otherwise the double that was written."""
    if math.isnan(value):
        raise Untranslatable("the value is not a number (NaN)")
    if math.isinf(value):
        return sympy.oo if value > 0 else -sympy.oo
    return Integer(int(value)) if value.is_integer() and abs(value) < 1e15 else sympy.Float(value)


def select(pieces: list[tuple[Basic, Boolean]], otherwise: Basic) -> Basic:
    """The value of the first piece whose condition holds; conditions that are settled are taken out."""
    kept: list[tuple[Basic, Boolean]] = []
    for value, condition in pieces:
        if condition == sympy.true:
            otherwise = value
            break
        if condition != sympy.false:
            kept.append((value, condition))
    if not kept:
        return otherwise
    if not any(isinstance(value, Expr) for value in (otherwise, *(value for value, _ in kept))):
        return _select_truth(kept, otherwise)
    pairs = [(number(value), condition) for value, condition in kept]
    # Evaluation would rewrite the conditions, and may cost seconds on long ones.
    return Piecewise(*pairs, (number(otherwise), sympy.true), evaluate=False)


def _select_truth(pieces: list[tuple[Basic, Boolean]], otherwise: Basic) -> Boolean:
    earlier: list[Boolean] = []
    terms: list[Boolean] = []
    for value, condition in pieces:
        terms.append(sympy.And(*earlier, condition, value))
        earlier.append(sympy.Not(condition))
    return sympy.Or(*terms, sympy.And(*earlier, otherwise))


def _relation(kind: type[Relational], left: Basic, right: Basic) -> Boolean:
    """`left kind right`, with selections moved out of the comparison, where sympy would make other classes of them."""
    sides = [number(left), number(right)]
    late = {call: Dummy(real=True) for side in sides for call in side.atoms(delay) if call.has(Piecewise)}
    if late:
        # A condition inside a delay holds at another time than the comparison, and has to stay there.
        known = {dummy: call for call, dummy in late.items()}
        return _relation(kind, *(side.xreplace(late) for side in sides)).xreplace(known)
    for i, side in enumerate(sides):
        if side.has(Piecewise):
            folded = sympy.piecewise_fold(side)
            if isinstance(folded, Piecewise):
                other = sides[1 - i]
                pairs = [(e, c) for e, c in folded.args]
                compared = [(_relation(kind, *((e, other) if i == 0 else (other, e))), c) for e, c in pairs]
                return _select_truth(compared[:-1], compared[-1][0])
            sides[i] = folded
    settled_now = all(side.is_number for side in sides) or any(side.is_infinite for side in sides)
    return kind(*sides) if settled_now else kind(*sides, evaluate=False)


def _chain(kind: type[Relational]) -> Callable[..., Boolean]:
    def build(*values: Basic) -> Boolean:
        return sympy.And(*(_relation(kind, a, b) for a, b in itertools.pairwise(values)))

    return build


def power(base: Expr, exponent: Expr) -> Expr:
    """`base ** exponent`, without writing out integers of thousands of digits."""
    if base.is_Rational and exponent.is_Rational and base not in (0, 1, -1):
        bits = max(int(base.p).bit_length(), int(base.q).bit_length())
        if bits * max(abs(exponent), 1) > EXACT_BITS:
            try:
                folded = float(base) ** float(exponent)
            except OverflowError:
                raise Untranslatable("a constant is too large for double precision") from None
            if isinstance(folded, complex):
                raise Untranslatable("a constant is not a real number")
            return literal(folded)
    return sympy.Pow(base, exponent)


def product(*factors: Expr) -> Expr:
    """The product of `factors`; a number times a sum stays in brackets, where sympy would multiply it out."""
    value = sympy.Mul(*factors)
    if value.is_Add:
        sums = [factor for factor in factors if not factor.is_Number]
        scale = sympy.Mul(*(factor for factor in factors if factor.is_Number))
        if len(sums) == 1 and sums[0].is_Add and scale != 1:
            return sympy.Mul(scale, sums[0], evaluate=False)
    return value


def _extreme(kind: type[Expr]) -> Callable[..., Expr]:
    def build(*values: Expr) -> Expr:
        # sympy compares each argument with each other.
        if len(distinct := set(values)) > EXTREME_LIMIT:
            raise Untranslatable(f"min or max of more than {EXTREME_LIMIT} arguments; write it as several")
        return kind(*distinct)

    return build


def _truncated(value: Expr) -> Expr:
    return number(select([(sympy.floor(value), _relation(sympy.Ge, value, sympy.S.Zero))], sympy.ceiling(value)))


def _factorial(value: Expr) -> Expr:
    if value.is_Number and value > 170:
        raise Untranslatable("a constant is too large for double precision")
    return sympy.factorial(value)


def _delayed(value: Expr, lag: Expr) -> Expr:
    if lag.is_number and lag.is_negative:
        raise Untranslatable(f"delay() by {lag} looks into the future")
    return delay(value, lag)


def _minus(*values: Expr) -> Expr:
    return -values[0] if len(values) == 1 else values[0] - values[1]


@final
@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        node: libsbml's node type.
        build: makes the sympy object from the arguments.
        least, most: how many arguments there may be; `most` is None without an upper bound.
        takes: turns an argument into a number or a truth value.
        written_for: the sympy class that is written as this node, or None when the row is only read.
    """

    node: int
    build: Callable[..., Basic]
    least: int = 1
    most: int | None = 1
    takes: Callable[[Basic], Basic] = number
    written_for: type | None = None


def _same(node: int, function: Any, least: int = 1, most: int | None = 1, takes: Callable[..., Any] = number) -> Row:
    return Row(node, function, least, most, takes, function)


ROWS: tuple[Row, ...] = (
    _same(libsbml.AST_PLUS, sympy.Add, 0, None),
    Row(libsbml.AST_TIMES, product, 0, None, number, sympy.Mul),
    Row(libsbml.AST_POWER, power, 2, 2, number, sympy.Pow),
    _same(libsbml.AST_FUNCTION_EXP, sympy.exp),
    _same(libsbml.AST_FUNCTION_LN, sympy.log),
    _same(libsbml.AST_FUNCTION_ABS, sympy.Abs),
    _same(libsbml.AST_FUNCTION_FLOOR, sympy.floor),
    _same(libsbml.AST_FUNCTION_CEILING, sympy.ceiling),
    Row(libsbml.AST_FUNCTION_FACTORIAL, _factorial, written_for=sympy.factorial),
    Row(libsbml.AST_FUNCTION_MIN, _extreme(sympy.Min), 1, None, number, sympy.Min),
    Row(libsbml.AST_FUNCTION_MAX, _extreme(sympy.Max), 1, None, number, sympy.Max),
    _same(libsbml.AST_FUNCTION_SIN, sympy.sin),
    _same(libsbml.AST_FUNCTION_COS, sympy.cos),
    _same(libsbml.AST_FUNCTION_TAN, sympy.tan),
    _same(libsbml.AST_FUNCTION_SEC, sympy.sec),
    _same(libsbml.AST_FUNCTION_CSC, sympy.csc),
    _same(libsbml.AST_FUNCTION_COT, sympy.cot),
    _same(libsbml.AST_FUNCTION_SINH, sympy.sinh),
    _same(libsbml.AST_FUNCTION_COSH, sympy.cosh),
    _same(libsbml.AST_FUNCTION_TANH, sympy.tanh),
    _same(libsbml.AST_FUNCTION_SECH, sympy.sech),
    _same(libsbml.AST_FUNCTION_CSCH, sympy.csch),
    _same(libsbml.AST_FUNCTION_COTH, sympy.coth),
    _same(libsbml.AST_FUNCTION_ARCSIN, sympy.asin),
    _same(libsbml.AST_FUNCTION_ARCCOS, sympy.acos),
    _same(libsbml.AST_FUNCTION_ARCTAN, sympy.atan),
    _same(libsbml.AST_FUNCTION_ARCSEC, sympy.asec),
    _same(libsbml.AST_FUNCTION_ARCCSC, sympy.acsc),
    _same(libsbml.AST_FUNCTION_ARCCOT, sympy.acot),
    _same(libsbml.AST_FUNCTION_ARCSINH, sympy.asinh),
    _same(libsbml.AST_FUNCTION_ARCCOSH, sympy.acosh),
    _same(libsbml.AST_FUNCTION_ARCTANH, sympy.atanh),
    _same(libsbml.AST_FUNCTION_ARCSECH, sympy.asech),
    _same(libsbml.AST_FUNCTION_ARCCSCH, sympy.acsch),
    _same(libsbml.AST_FUNCTION_ARCCOTH, sympy.acoth),
    Row(libsbml.AST_FUNCTION_DELAY, _delayed, 2, 2, written_for=delay),
    _same(libsbml.AST_LOGICAL_AND, sympy.And, 0, None, truth),
    _same(libsbml.AST_LOGICAL_OR, sympy.Or, 0, None, truth),
    _same(libsbml.AST_LOGICAL_XOR, sympy.Xor, 0, None, truth),
    _same(libsbml.AST_LOGICAL_NOT, sympy.Not, takes=truth),
    Row(libsbml.AST_LOGICAL_IMPLIES, lambda a, b: sympy.Or(sympy.Not(a), b), 2, 2, truth, sympy.Implies),
    Row(libsbml.AST_RELATIONAL_EQ, _chain(sympy.Eq), 1, None, number, sympy.Eq),
    Row(libsbml.AST_RELATIONAL_NEQ, _chain(sympy.Ne), 2, 2, number, sympy.Ne),
    Row(libsbml.AST_RELATIONAL_GT, _chain(sympy.Gt), 1, None, number, sympy.Gt),
    Row(libsbml.AST_RELATIONAL_GEQ, _chain(sympy.Ge), 1, None, number, sympy.Ge),
    Row(libsbml.AST_RELATIONAL_LT, _chain(sympy.Lt), 1, None, number, sympy.Lt),
    Row(libsbml.AST_RELATIONAL_LEQ, _chain(sympy.Le), 1, None, number, sympy.Le),
)

READ_ONLY: tuple[Row, ...] = (
    Row(libsbml.AST_MINUS, _minus, 1, 2),
    Row(libsbml.AST_DIVIDE, lambda a, b: a / b, 2, 2),
    Row(libsbml.AST_FUNCTION_POWER, power, 2, 2),
    Row(libsbml.AST_FUNCTION_ROOT, lambda degree, x: power(x, 1 / degree), 2, 2),
    Row(libsbml.AST_FUNCTION_LOG, lambda base, x: sympy.log(x) / sympy.log(base), 2, 2),
    Row(libsbml.AST_FUNCTION_QUOTIENT, lambda a, b: _truncated(a / b), 2, 2),
    Row(libsbml.AST_FUNCTION_REM, lambda a, b: a - b * _truncated(a / b), 2, 2),
)

BY_NODE: Mapping[int, Row] = {row.node: row for row in (*ROWS, *READ_ONLY)}
_BY_CLASS: Mapping[type, Row] = {row.written_for: row for row in ROWS if row.written_for is not None}

CONSTANTS: tuple[tuple[int, Basic], ...] = (
    (libsbml.AST_CONSTANT_PI, sympy.pi),
    (libsbml.AST_CONSTANT_E, sympy.E),
    (libsbml.AST_CONSTANT_TRUE, sympy.true),
    (libsbml.AST_CONSTANT_FALSE, sympy.false),
)

DEFINED: Mapping[str, tuple[type, int, Callable[..., Expr]]] = {
    "sign": (sympy.sign, 1, lambda x: number(select([(sympy.S.One, x > 0), (-sympy.S.One, x < 0)], sympy.S.Zero))),
    "Mod": (sympy.Mod, 2, lambda a, b: a - b * sympy.floor(a / b)),
}
"""Functions of sympy that are written as function definitions: class, number of arguments, meaning."""

RECOGNISED: Mapping[str, tuple[type, int, Callable[..., Expr]]] = {
    **DEFINED,
    "Min": (sympy.Min, 2, lambda a, b: number(select([(a, a < b)], b))),
    "Max": (sympy.Max, 2, lambda a, b: number(select([(a, a > b)], b))),
}
"""The same, with those that have no MathML element before Level 3 Version 2."""


def read_leaf(node: libsbml.ASTNode) -> Basic | None:
    """The number or constant that `node` stands for, or None when it is something else.

    Raises:
        Untranslatable: for NaN.
    """
    kind = node.getType()
    if kind == libsbml.AST_INTEGER:
        return Integer(node.getInteger())
    if kind == libsbml.AST_RATIONAL:
        if node.getDenominator() == 0:
            raise Untranslatable("division by zero")
        return Rational(node.getNumerator(), node.getDenominator())
    if kind == libsbml.AST_REAL:
        return literal(node.getReal())
    if kind == libsbml.AST_REAL_E:
        # libsbml multiplies by a power of ten, which loses the last bit; the written digits do not.
        return sympy.Float(float(f"{node.getMantissa()!r}e{node.getExponent()}"))
    if kind == libsbml.AST_NAME_AVOGADRO:
        return sympy.Float(AVOGADRO)
    return dict(CONSTANTS).get(kind)


def endless_number(node: libsbml.ASTNode) -> float | None:
    """The value of a tree that is nothing but an infinite number or NaN, with or without a sign; otherwise None."""
    sign = 1.0
    while node.getType() == libsbml.AST_MINUS and node.getNumChildren() == 1:
        node, sign = node.getChild(0), -sign
    if node.getType() != libsbml.AST_REAL or math.isfinite(node.getReal()):
        return None
    return math.nan if math.isnan(node.getReal()) else sign * float(node.getReal())


def settled(value: Basic) -> Basic:
    """`value`, when it is not a constant outside the real numbers that doubles hold.

    Raises:
        Untranslatable: for constants that are complex, undefined or too large.
    """
    if not isinstance(value, Expr) or not value.is_number or value in (sympy.oo, -sympy.oo):
        return value
    size = value if value.is_Number else value.evalf(5)
    if size.has(sympy.nan, sympy.zoo) or value.has(sympy.nan, sympy.zoo):
        raise Untranslatable("a constant is undefined (division by zero or the like)")
    if not size.is_extended_real:
        raise Untranslatable("a constant is not a real number")
    if abs(size) >= LARGEST:
        raise Untranslatable("a constant is too large for double precision")
    return value


def write_node(expression: Basic, names: Mapping[str, str]) -> libsbml.ASTNode:
    """The syntax tree of `expression`.

    Args:
        expression: a number or a truth value.
        names: symbol name to id in the file.

    Raises:
        Untranslatable: when something in the expression has no counterpart in SBML.
    """
    if isinstance(expression, sympy.Symbol):
        return _name_node(expression, names)
    if isinstance(expression, sympy.Number):
        return _number_node(expression)
    for kind, constant in CONSTANTS:
        if expression == constant:
            return libsbml.ASTNode(kind)
    if isinstance(expression, Piecewise):
        return _piecewise_node(expression, names)
    if isinstance(expression, sympy.Pow):
        return _power_node(expression, names)
    if isinstance(expression, ITE):
        condition, yes, no = expression.args
        parts = sympy.And(condition, yes), sympy.And(sympy.Not(condition), no)
        return tree(libsbml.AST_LOGICAL_OR, *(write_node(part, names) for part in parts))
    for name, (function, _, _) in DEFINED.items():
        if expression.func is function:
            call = tree(libsbml.AST_FUNCTION, *(write_node(argument, names) for argument in expression.args))
            call.setName(FUNCTION_PREFIX + name)
            return call
    row = _BY_CLASS.get(expression.func)
    if row is None:
        raise Untranslatable(f"`{expression.func.__name__}` has no counterpart in SBML (in {expression})")
    return tree(row.node, *(write_node(argument, names) for argument in expression.args))


def definition_node(name: str) -> libsbml.ASTNode:
    """The lambda of a function of `DEFINED`."""
    _, count, meaning = DEFINED[name]
    variables = sympy.symbols(f"x:{count}", real=True)
    names = {variable.name: variable.name for variable in variables}
    node = libsbml.ASTNode(libsbml.AST_LAMBDA)
    for variable in variables:
        bound = write_node(variable, names)
        bound.setBvar()
        node.addChild(bound)
    node.addChild(write_node(meaning(*variables), names))
    return node


def tree(kind: int, *children: libsbml.ASTNode) -> libsbml.ASTNode:
    """A syntax tree of a kind with its children."""
    node = libsbml.ASTNode(kind)
    for child in children:
        node.addChild(child)
    return node


def _name_node(variable: sympy.Symbol, names: Mapping[str, str]) -> libsbml.ASTNode:
    if isinstance(variable, TimeSymbol):
        node = libsbml.ASTNode(libsbml.AST_NAME_TIME)
        node.setName("time")
        return node
    node = libsbml.ASTNode(libsbml.AST_NAME)
    node.setName(names[variable.name])
    return node


def _number_node(value: sympy.Number) -> libsbml.ASTNode:
    if isinstance(value, Integer):
        return _integer_node(int(value))
    if isinstance(value, Rational):
        return tree(libsbml.AST_DIVIDE, _integer_node(int(value.p)), _integer_node(int(value.q)))
    double = float(value)
    if not (math.isfinite(double) and (value == 0 or abs(double) >= sys.float_info.min)):
        raise Untranslatable(f"the number {value} is not a normal double")
    if double.is_integer() and abs(double) < 1e15:
        # Whole numbers are read as integers; this notation keeps them floating-point numbers.
        node = libsbml.ASTNode(libsbml.AST_REAL_E)
        node.setValue(double, 0)
        return node
    node = libsbml.ASTNode(libsbml.AST_REAL)
    node.setValue(double)
    if float(f"{double:.15g}") != double:
        node.setClass(EXACT_CLASS + repr(double))
    return node


EXACT_CLASS = "exact:"
"""Marks a number of which libsbml, which prints 15 digits, would lose the last ones; the writer prints these itself."""


def _integer_node(value: int) -> libsbml.ASTNode:
    """libsbml reads integers of 32 bits only; larger ones are written by Horner's rule in base 10⁹."""
    high, low = divmod(abs(value), 10**9)
    node = libsbml.ASTNode(libsbml.AST_INTEGER)
    if high == 0:
        node.setValue(value)
        return node
    node.setValue(low)
    base = libsbml.ASTNode(libsbml.AST_INTEGER)
    base.setValue(10**9)
    total = tree(libsbml.AST_PLUS, tree(libsbml.AST_TIMES, _integer_node(high), base), node)
    return total if value > 0 else tree(libsbml.AST_MINUS, total)


def _power_node(expression: sympy.Pow, names: Mapping[str, str]) -> libsbml.ASTNode:
    base, exponent = expression.args
    if exponent == -1:
        return tree(libsbml.AST_DIVIDE, _integer_node(1), write_node(base, names))
    if exponent == Rational(1, 2):
        return tree(libsbml.AST_FUNCTION_ROOT, _integer_node(2), write_node(base, names))
    return tree(libsbml.AST_POWER, write_node(base, names), write_node(exponent, names))


def _piecewise_node(expression: Piecewise, names: Mapping[str, str]) -> libsbml.ASTNode:
    *pieces, (otherwise, last) = expression.args
    if not (isinstance(last, BooleanAtom) and last == sympy.true):
        raise Untranslatable(f"the selection has no value for the remaining case (in {expression})")
    node = libsbml.ASTNode(libsbml.AST_FUNCTION_PIECEWISE)
    for value, condition in pieces:
        node.addChild(write_node(value, names))
        node.addChild(write_node(condition, names))
    node.addChild(write_node(otherwise, names))
    return node
