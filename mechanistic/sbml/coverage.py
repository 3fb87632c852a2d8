"""Whether the conditions of a selection leave no case over, so that it needs no value for the remaining one."""

import itertools
from collections.abc import Sequence

import sympy
from sympy import Expr, Rational
from sympy.core.relational import Relational
from sympy.logic.boolalg import Boolean

CASE_LIMIT = 1000
"""Most combinations of cases that are looked at."""

RELATION_LIMIT = 20
"""Most comparisons that are looked at."""


def exhaustive(conditions: Sequence[Boolean]) -> bool:
    """Whether, for real numbers, one of `conditions` always holds; False when that cannot be told.

    Every comparison is brought to the form `scale × u + offset ~ 0`. Its truth changes only where `u` passes
    `-offset / scale`, so that it is enough to look at these points and between them. Different `u` are taken to be
    independent of each other.
    """
    if sympy.true in conditions:
        return True
    relations = set().union(*(condition.atoms(Relational) for condition in conditions))
    if len(relations) > RELATION_LIMIT:
        return False
    forms: dict[Relational, tuple[Rational, Expr, Rational]] = {}
    points: dict[Expr, set[Rational]] = {}
    for relation in relations:
        form = _linear(relation)
        if form is None:
            return False
        scale, variable, offset = form
        forms[relation] = form
        points.setdefault(variable, set()).add(-offset / scale)
    samples = {variable: _samples(found) for variable, found in points.items()}
    count = 1
    for values in samples.values():
        count *= len(values)
    if not relations or count > CASE_LIMIT:
        return False
    for case in itertools.product(*samples.values()):
        at = dict(zip(samples, case, strict=True))
        truths = {relation: relation.func(scale * at[u] + offset, 0) for relation, (scale, u, offset) in forms.items()}
        if not any(condition.xreplace(truths) == sympy.true for condition in conditions):
            return False
    return True


def _linear(relation: Relational) -> tuple[Rational, Expr, Rational] | None:
    """`left - right` as scale, variable and offset; None where it is not made of numbers and names by + - × ÷ alone."""
    difference = relation.lhs - relation.rhs
    if not difference.is_rational_function() or not difference.free_symbols:
        return None
    offset, rest = difference.as_coeff_Add()
    scale, variable = rest.as_coeff_Mul()
    if variable.could_extract_minus_sign():
        scale, variable = -scale, -variable
    if not (offset.is_finite and scale.is_finite):
        return None
    return _exact(scale), variable, _exact(offset)


def _exact(value: Expr) -> Rational:
    return value if value.is_Rational else Rational(*float(value).as_integer_ratio())


def _samples(points: set[Rational]) -> list[Rational]:
    """Every point, one value between each two, one below and one above all."""
    ordered = sorted(points)
    between = [(low + high) / 2 for low, high in itertools.pairwise(ordered)]
    return [ordered[0] - 1, *ordered, *between, ordered[-1] + 1]
