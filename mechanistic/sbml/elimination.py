"""Equations `0 = g` solved for their unknowns where there is exactly one real solution, and it can be written down."""

from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
import sympy
from sympy import Expr, Float, Matrix, Piecewise, Rational, Symbol

from mechanistic.sbml.extent import Extents
from mechanistic.sbml.reactions import exact

CORE_LIMIT = 6
"""Most equations that are solved by Cramer's rule, whose determinants grow like factorials."""

BRANCH_LIMIT = 6
"""Most selections in a determinant; each doubles the number of cases in which it must not vanish."""

STEP_LIMIT = 10
"""Most operations that are undone one after the other; sympy looks ever deeper into what they leave."""

TERM_LIMIT = 2_000
"""Most terms of a factor or a solution of several equations."""

_DIGITS = 60
_PRIME = 1_000_003
_RANK_TOLERANCE = 1e-10
_BASES = (2, 5, 11, 17)

_INVERSES: Mapping[type, type] = {sympy.log: sympy.exp, sympy.sinh: sympy.asinh, sympy.asinh: sympy.sinh}
"""Functions that take every real value exactly once, and their inverses."""

Linear = tuple[dict[Symbol, Expr], Expr]
"""Coefficients of the unknowns, and the rest."""


def solve_one(expression: Expr, unknown: Symbol) -> Expr | None:
    """The one real value of `unknown` for which `expression` is zero, or None when that is not certain.

    A factor of the unknown that depends on other quantities may vanish for some of their values; there the equation
    says nothing of the unknown, and the solution is not finite. A factor that always vanishes is not accepted.
    """
    target: Expr = sympy.S.Zero
    for _ in range(STEP_LIMIT):
        parts = linear_parts(expression, {unknown})
        if parts is not None:
            coefficients, rest = parts
            factor = coefficients.get(unknown, sympy.S.Zero)
            return None if may_vanish(factor) else _quotient(target - rest, factor)
        undone = _undone(expression, target, unknown)
        if undone is None:
            return None
        expression, target = undone
    return None


def solve_linear(expressions: Sequence[Expr], unknowns: Sequence[Symbol]) -> dict[Symbol, Expr] | None:
    """The values of `unknowns` for which all of as many `expressions` are zero, or None when there is no such formula.

    Unknowns with a number as their factor are eliminated first, in exact arithmetic; Cramer's rule solves the rest, so
    that no factor but the determinant is divided by.
    """
    rows: list[Linear] = []
    for expression in expressions:
        parts = linear_parts(with_exact_numbers(expression), unknowns)
        if parts is None:
            return None
        rows.append(parts)
    eliminated: list[tuple[Symbol, Linear]] = []
    while (found := _numeric_pivot(rows)) is not None:
        row, unknown = found
        coefficients, rest = rows.pop(row)
        factor = coefficients.pop(unknown)
        known = {name: -value / factor for name, value in coefficients.items()}, -rest / factor
        rows = [_substituted(other, unknown, known) for other in rows]
        if not all(_is_short(value) for coefficients, rest in rows for value in (*coefficients.values(), rest)):
            return None
        eliminated.append((unknown, known))
    remaining = [unknown for unknown in unknowns if unknown not in dict(eliminated)]
    values = _cramer(rows, remaining)
    if values is None:
        return None
    for unknown, (coefficients, rest) in reversed(eliminated):
        values[unknown] = sympy.Add(rest, *(factor * values[name] for name, factor in coefficients.items()))
        if not _is_short(values[unknown]):
            return None
    return values


def linear_parts(expression: Expr, unknowns: Collection[Symbol]) -> Linear | None:
    """`expression` as a sum of unknowns times factors, plus a rest, or None when it is not linear as it is written."""
    if expression in unknowns:
        return {expression: sympy.S.One}, sympy.S.Zero
    if expression.free_symbols.isdisjoint(unknowns):
        return {}, expression
    if expression.is_Add:
        parts = [linear_parts(term, unknowns) for term in expression.args]
        known = [part for part in parts if part is not None]
        return _sum(known) if len(known) == len(parts) else None
    if expression.is_Mul:
        moving = [factor for factor in expression.args if not factor.free_symbols.isdisjoint(unknowns)]
        if len(moving) != 1:
            return None
        inner = linear_parts(moving[0], unknowns)
        others = sympy.Mul(*(factor for factor in expression.args if factor is not moving[0]))
        return None if inner is None else _scaled(inner, others)
    if isinstance(expression, Piecewise):
        return _linear_selection(expression, unknowns)
    return None


def may_vanish(factor: Expr) -> bool:
    """Whether `factor` is zero for all values of what it depends on, in any branch of the selections in it."""
    selections = factor.atoms(Piecewise)
    if not selections:
        return _is_zero(factor)
    if len(selections) > BRANCH_LIMIT:
        return True
    folded = sympy.piecewise_fold(factor, evaluate=False)
    branches = [value for value, _ in folded.args] if isinstance(folded, Piecewise) else [folded]
    return any(branch.has(Piecewise) or _is_zero(branch) for branch in branches)


def is_regular(expressions: Sequence[Expr], unknowns: Sequence[Symbol]) -> bool:
    """Whether, somewhere, small changes of `expressions` fix small changes of as many `unknowns`.

    Without that, equations between them say nothing of some unknown, or contradict each other.
    """
    if len(expressions) != len(unknowns):
        return False
    slopes = [[expression.diff(unknown) for unknown in unknowns] for expression in expressions]
    names = sorted(set().union(*(e.free_symbols for e in expressions)) | set(unknowns), key=lambda item: str(item.name))
    for point in _points(names):
        try:
            values = [[float(slope.xreplace(point).evalf(_DIGITS)) for slope in row] for row in slopes]
        except (ArithmeticError, TypeError, ValueError):
            continue
        matrix = np.array(values)
        largest = np.abs(matrix).max(axis=1, keepdims=True)
        usable = np.isfinite(matrix).all() and (largest > 0).all()
        if usable and np.linalg.matrix_rank(matrix / largest, _RANK_TOLERANCE) == len(unknowns):
            return True
    return False


def with_exact_numbers(expression: Expr) -> Expr:
    """`expression` with the shortest decimals of its doubles as exact numbers, so that what cancels is zero."""
    return expression.xreplace({value: exact(float(value)) for value in expression.atoms(Float)})


def _is_short(value: Expr) -> bool:
    """Whether `value` is of a size that people could write, unlike what elimination makes of many unlike factors."""
    return Extents().of(value).terms <= TERM_LIMIT


def _is_zero(factor: Expr) -> bool:
    """Whether `factor` is zero wherever it is tried."""
    if factor.is_Mul:
        return any(_is_zero(part) for part in factor.args)
    if factor.is_Number:
        return bool(factor == 0)
    factor = with_exact_numbers(factor)
    for point in _points(sorted(factor.free_symbols, key=lambda item: item.name)):
        try:
            terms = [term.xreplace(point).evalf(_DIGITS) for term in sympy.Add.make_args(factor)]
            size = sympy.Add(*(abs(term) for term in terms))
            if size.is_finite and abs(sympy.Add(*terms)) > size * Rational(1, 10 ** (_DIGITS // 2)):
                return False
        except (ArithmeticError, TypeError, ValueError):
            continue
    return True


def _points(names: Sequence[Symbol]) -> Iterator[dict[Symbol, Float]]:
    """Some values for `names`, without any pattern."""
    for base in _BASES:
        # Values below 1, since towers of powers of larger ones would have astronomically many digits.
        tried = (Rational(pow(base, 1000 + 7 * i, _PRIME), _PRIME) for i in range(len(names)))
        yield {name: Float(value, _DIGITS) for name, value in zip(names, tried, strict=True)}


def _quotient(value: Expr, factor: Expr) -> Expr:
    """`value / factor`, with a sum divided term by term where the factor is a number."""
    return sympy.Add(*(term / factor for term in sympy.Add.make_args(value))) if factor.is_number else value / factor


def _undone(expression: Expr, target: Expr, unknown: Symbol) -> tuple[Expr, Expr] | None:
    """`expression = target` with its outermost operation taken to the other side."""
    moving = [part for part in expression.args if unknown in part.free_symbols]
    if len(moving) != 1:
        return None
    inner = moving[0]
    others = [part for part in expression.args if part is not inner]
    if expression.is_Add:
        return inner, target - sympy.Add(*others)
    if expression.is_Mul:
        factor = sympy.Mul(*others)
        return None if may_vanish(factor) else (inner, target / factor)
    if expression.is_Pow and inner is expression.base:
        exponent = expression.exp
        if exponent.is_Integer and exponent > 0 and exponent % 2 == 1:
            return inner, sympy.sign(target) * sympy.Abs(target) ** (1 / exponent)
    inverse = _INVERSES.get(expression.func)
    return None if inverse is None else (inner, inverse(target))


def _linear_selection(expression: Piecewise, unknowns: Collection[Symbol]) -> Linear | None:
    conditions = [condition for _, condition in expression.args]
    if any(not condition.free_symbols.isdisjoint(unknowns) for condition in conditions):
        return None
    parts: list[Linear] = []
    for value, _ in expression.args:
        part = linear_parts(value, unknowns)
        if part is None:
            return None
        parts.append(part)

    def select(values: Sequence[Expr]) -> Expr:
        if all(value == values[0] for value in values):
            return values[0]
        return Piecewise(*zip(values, conditions, strict=True), evaluate=False)

    names = dict.fromkeys(name for coefficients, _ in parts for name in coefficients)
    factors = {name: select([part[0].get(name, sympy.S.Zero) for part in parts]) for name in names}
    return factors, select([rest for _, rest in parts])


def _sum(parts: Sequence[Linear]) -> Linear:
    names = dict.fromkeys(name for coefficients, _ in parts for name in coefficients)
    factors = {name: sympy.Add(*(part[0].get(name, sympy.S.Zero) for part in parts)) for name in names}
    return factors, sympy.Add(*(rest for _, rest in parts))


def _scaled(part: Linear, factor: Expr) -> Linear:
    coefficients, rest = part
    return {name: factor * value for name, value in coefficients.items()}, factor * rest


def _substituted(row: Linear, unknown: Symbol, value: Linear) -> Linear:
    coefficients, rest = row
    factor = coefficients.pop(unknown, sympy.S.Zero)
    return row if factor == 0 else _sum([(coefficients, rest), _scaled(value, factor)])


def _numeric_pivot(rows: Sequence[Linear]) -> tuple[int, Symbol] | None:
    for row, (coefficients, _) in enumerate(rows):
        for unknown, factor in coefficients.items():
            if factor.is_Rational and factor != 0:
                return row, unknown
    return None


def _cramer(rows: Sequence[Linear], unknowns: Sequence[Symbol]) -> dict[Symbol, Expr] | None:
    size = len(unknowns)
    if size == 0:
        return {}
    if size > CORE_LIMIT or len(rows) != size:
        return None
    matrix = Matrix(size, size, lambda i, j: rows[i][0].get(unknowns[j], sympy.S.Zero))
    right = Matrix([-rest for _, rest in rows])
    determinant = matrix.det(method="berkowitz")
    if may_vanish(determinant):
        return None
    values = {}
    for column, unknown in enumerate(unknowns):
        replaced = matrix.copy()
        replaced[:, column] = right
        values[unknown] = replaced.det(method="berkowitz") / determinant
        if not _is_short(values[unknown]):
            return None
    return values
