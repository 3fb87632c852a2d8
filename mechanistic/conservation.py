"""What a model conserves, and whether it keeps amounts non-negative: statements from its symbols alone.

Both speak about structure: a total is conserved whatever the rates are, and positivity is shown for every parameter
vector of the nominal signs, not for the nominal numbers.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import reduce
from html import escape
from math import gcd
from typing import Any, NamedTuple, final

import numpy as np
import sympy
from sympy import Expr, Rational
from sympy.polys.domains import QQ
from sympy.polys.matrices import DomainMatrix

from mechanistic.model import Event, FrozenMap, KineticModel, delay, symbol, time

Row = tuple[int, ...]

# Above this many candidates the extreme rays are given up, and a reduced basis is returned instead.
_RAY_LIMIT = 2000


@final
@dataclass(frozen=True, slots=True)
class ConservedTotal:
    """A weighted sum of states that no reaction changes.

    Attributes:
        name: `total_` and a state of the sum; unique among the totals of a model.
        weights: state name to exact weight, states of weight zero left out.
    """

    name: str
    weights: FrozenMap[Rational]

    @property
    def expression(self) -> Expr:
        """The sum, over the states of the model."""
        return sympy.Add(*(weight * symbol(state) for state, weight in self.weights.items()))

    def __str__(self) -> str:
        text = ""
        for state, weight in self.weights.items():
            sign = "-" if weight < 0 else "+"
            size = "" if abs(weight) == 1 else f"{abs(weight)} "
            text += f" {sign} {size}{state}" if text else f"{'-' if weight < 0 else ''}{size}{state}"
        return text


def conserved_totals(model: KineticModel) -> tuple[ConservedTotal, ...]:
    """A basis of everything that the stoichiometry, and what events set, conserve, as readable totals.

    The totals span the whole left null space of the stoichiometry matrix and are linearly independent. Non-negative
    ones with few states and small integer weights are preferred: the extreme rays of the non-negative left null space
    (Schuster & Hofer 1991, J Chem Soc Faraday Trans 87:2561, doi:10.1039/FT9918702561) where these are few. A state
    that a rate rule moves takes part only when its rule is identically zero, one that an algebraic equation determines
    never; a state that nothing moves is a total by itself. Fast reactions are reactions like others.
    """
    moved = {name for name, rule in model.rates.items() if not model.expand(rule).is_zero} | set(model.algebraic)
    names = [name for name in model.state_names if name not in moved]
    position = {name: i for i, name in enumerate(model.state_names)}
    stoichiometry = model.stoichiometry()
    rows = stoichiometry.extract([position[name] for name in names], list(range(stoichiometry.cols)))
    jumps = [jump for event in model.events for jump in _jumps(model, event)]
    columns = sympy.SparseMatrix(len(names), len(jumps), lambda i, j: jumps[j].get(names[i], 0))
    taken: set[str] = set()
    totals = []
    for vector in _readable_basis(left_null_space(rows.row_join(columns))):
        weights = {names[i]: Rational(value) for i, value in enumerate(vector) if value}
        label = min(weights, key=lambda state: (state in taken, weights[state] != 1))
        taken.add(label)
        totals.append(ConservedTotal(f"total_{label}", FrozenMap(weights)))
    return tuple(totals)


def _jumps(model: KineticModel, event: Event) -> list[dict[str, Rational]]:
    """Columns like those of a stoichiometry: a total that is orthogonal to all of them survives the event.

    The jump of a state is a sum of terms in the states with numbers as factors; each term is a column. An event whose
    values are older than its execution says nothing of a jump, and each state that it sets is a column.
    """
    if event.values_at_trigger and (event.delay != 0 or len(model.events) > 1):
        return [{name: Rational(1)} for name in event.assignments]
    columns: dict[Expr, dict[str, Rational]] = {}
    for name, value in event.assignments.items():
        jump = sympy.expand(model.expand(value) - symbol(name))
        for term, factor in sympy.nsimplify(jump, rational=True).as_coefficients_dict().items():
            columns.setdefault(term, {})[name] = factor
    return list(columns.values())


def left_null_space(matrix: Any) -> tuple[Row, ...]:
    """A basis of the row vectors `w` with `w @ matrix = 0`, exact.

    Args:
        matrix: a sympy matrix of rationals, or rows of integers or rationals; `(rows, columns)`.

    Returns:
        Integer vectors without a common divisor, the first entry that is not zero positive; as many as `rows - rank`.
    """
    exact = sympy.SparseMatrix(matrix)
    if not exact.rows:
        return ()
    if not exact.cols:
        return tuple(tuple(int(i == j) for j in range(exact.rows)) for i in range(exact.rows))
    transposed = DomainMatrix.from_Matrix(exact.T).convert_to(QQ).to_sparse()
    basis = transposed.nullspace().to_sparse()
    vectors = [[0] * exact.rows for _ in range(basis.shape[0])]
    for i, row in basis.rep.items():
        common = reduce(lambda a, b: a * b // gcd(a, b), (int(value.denominator) for value in row.values()), 1)
        for j, value in row.items():
            vectors[i][j] = int(value.numerator) * (common // int(value.denominator))
    return tuple(_primitive(vector) for vector in vectors)


def _primitive(vector: Iterable[int]) -> Row:
    """The shortest integer multiple, with a positive first entry."""
    entries = tuple(vector)
    divisor = gcd(*entries) or 1
    first = next((value for value in entries if value), 1)
    return tuple(value // (divisor if first > 0 else -divisor) for value in entries)


def _readable_basis(basis: tuple[Row, ...]) -> list[Row]:
    """A basis of the same space that prefers non-negative, sparse, small vectors; states keep their order."""
    chosen: list[Row] = []
    for block in _blocks(basis):
        candidates = sorted({*(_extreme_rays(block) or ()), *_reduced(block)}, key=_cost)
        span = _Span()
        chosen += [vector for vector in candidates if span.extend(vector)]
    return sorted(chosen, key=lambda vector: next(i for i, value in enumerate(vector) if value))


def _cost(vector: Row) -> tuple[int, int, int, Row]:
    negative = sum(value < 0 for value in vector)
    return negative, sum(value != 0 for value in vector), sum(map(abs, vector)), tuple(-abs(value) for value in vector)


def _blocks(basis: tuple[Row, ...]) -> list[list[Row]]:
    """The basis in groups that share no state, so that each can be treated by itself."""
    groups: list[tuple[set[int], list[Row]]] = []
    for vector in basis:
        support = {i for i, value in enumerate(vector) if value}
        joined = [group for group in groups if group[0] & support]
        groups = [group for group in groups if not group[0] & support]
        groups.append((support.union(*(g[0] for g in joined)), [*(v for g in joined for v in g[1]), vector]))
    return [vectors for _, vectors in groups]


def _reduced(block: Sequence[Row]) -> list[Row]:
    """The block after adding and subtracting its vectors from one another while that makes them more readable."""
    vectors = list(block)
    improved = len(vectors) <= 60  # the search is cubic; larger blocks stay as they are
    while improved:
        improved = False
        for i, vector in enumerate(vectors):
            for j, other in enumerate(vectors):
                for sign in (1, -1) if i != j else ():
                    changed = _primitive(a + sign * b for a, b in zip(vector, other, strict=True))
                    if _cost(changed)[:3] < _cost(vectors[i])[:3]:
                        vectors[i] = vector = changed
                        improved = True
    return vectors


def _extreme_rays(block: Sequence[Row]) -> list[Row] | None:
    """The extreme rays of `{w = y block : w >= 0}`, or None when there are too many on the way.

    The double description method on the rows of the cone, one state at a time; rays are adjacent when no other ray
    vanishes on all the states on which both vanish.
    """
    # In the coordinates of an echelon basis the pivot states alone give a simplicial cone to start from.
    echelon = _echelon(block)
    pivots = {next(i for i, value in enumerate(vector) if value) for vector in echelon}
    states = [i for i in range(len(block[0])) if any(vector[i] for vector in block)]
    rays, done = list(echelon), sorted(pivots)
    for state in sorted(set(states) - pivots, key=lambda i: sum(vector[i] != 0 for vector in echelon)):
        positive = [ray for ray in rays if ray[state] > 0]
        negative = [ray for ray in rays if ray[state] < 0]
        if len(rays) + len(positive) * len(negative) > _RAY_LIMIT:
            return None
        zeros = {ray: frozenset(i for i in done if not ray[i]) for ray in rays}
        joined = []
        for up in positive:
            for down in negative:
                common = zeros[up] & zeros[down]
                if not any(common <= zeros[ray] for ray in rays if ray is not up and ray is not down):
                    mixed = (up[state] * b - down[state] * a for a, b in zip(up, down, strict=True))
                    joined.append(_shortest(mixed))
        rays = [*(ray for ray in rays if ray[state] >= 0), *joined]
        done.append(state)
    return rays


def _shortest(vector: Iterable[int]) -> Row:
    entries = tuple(vector)
    divisor = gcd(*entries) or 1
    return tuple(value // divisor for value in entries)


def _echelon(block: Sequence[Row]) -> list[Row]:
    """A basis in which every vector has a positive entry at a state where all others are zero."""
    reduced, pivots = DomainMatrix([[QQ(v) for v in row] for row in block], (len(block), len(block[0])), QQ).rref()
    rows = reduced.to_list()[: len(pivots)]
    scaled = []
    for row in rows:
        common = reduce(lambda a, b: a * b // gcd(a, b), (int(value.denominator) for value in row), 1)
        scaled.append(_shortest(int(value.numerator) * (common // int(value.denominator)) for value in row))
    return scaled


class _Span:
    """The space spanned so far, kept in echelon form to decide independence exactly."""

    def __init__(self) -> None:
        self._rows: dict[int, list[Any]] = {}

    def extend(self, vector: Row) -> bool:
        """Whether `vector` is independent of the span, which it then joins."""
        rest = [QQ(value) for value in vector]
        for i in range(len(rest)):
            if not rest[i]:
                continue
            row = self._rows.get(i)
            if row is None:
                self._rows[i] = [value / rest[i] for value in rest]
                return True
            factor = rest[i]
            rest = [a - factor * b for a, b in zip(rest, row, strict=True)]
        return False


class Outcome(Enum):
    """What is known about the sign of a derivative at the boundary of the non-negative states."""

    PROVEN = "proven"
    REFUTED = "refuted"
    UNPROVEN = "unproven"


@final
@dataclass(frozen=True, slots=True)
class StatePositivity:
    """Whether one state can be driven below zero.

    Attributes:
        state: its name.
        outcome: proven, refuted by the counter-example, or neither.
        reactions: the reactions (or `rate rule`) that can pull the state below zero, worst first; empty when proven.
        counterexample: values of states, parameters and time at which the derivative is negative, when refuted.
        derivative: the derivative there, in the model's unit per time.
        at_nominal: whether the counter-example keeps the nominal parameters.
    """

    state: str
    outcome: Outcome
    reactions: tuple[str, ...] = ()
    counterexample: FrozenMap[float] = field(default_factory=FrozenMap)
    derivative: float = 0.0
    at_nominal: bool = False

    def __str__(self) -> str:
        if self.outcome is Outcome.PROVEN:
            return f"`{self.state}`: proven"
        culprits = ", ".join(f"`{name}`" for name in self.reactions)
        if self.outcome is Outcome.UNPROVEN:
            return f"`{self.state}`: unproven; the sign of {culprits} at {self.state} = 0 is not known"
        values = ", ".join(f"{name} = {value:.3g}" for name, value in self.counterexample.items())
        at = f" at {values}" if values else ""
        away = "" if self.at_nominal else " (away from the nominal parameters)"
        return f"`{self.state}`: refuted by {culprits}{away}: d{self.state}/dt = {self.derivative:.3g}{at}"


@final
@dataclass(frozen=True, slots=True, repr=False)
class PositivityReport:
    """The outcome of `check_positivity`, one entry for each non-negative state of the model."""

    model: str
    states: tuple[StatePositivity, ...]

    @property
    def holds(self) -> bool:
        """Whether every non-negative state is proven to stay so."""
        return all(entry.outcome is Outcome.PROVEN for entry in self.states)

    def __str__(self) -> str:
        proven = sum(entry.outcome is Outcome.PROVEN for entry in self.states)
        headline = f"positivity of {self.model}: {proven} of {len(self.states)} states proven"
        return "\n".join([headline, *(f"  {e}" for e in self.states if e.outcome is not Outcome.PROVEN)])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = ""
        for entry in self.states:
            values = ", ".join(f"{name} = {value:.3g}" for name, value in entry.counterexample.items())
            cells = (entry.state, entry.outcome.value, ", ".join(entry.reactions), values)
            rows += f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
        head = "<tr><th>state</th><th>positivity</th><th>spoiled by</th><th>counter-example</th></tr>"
        return f"<p><b>{escape(str(self).splitlines()[0])}</b></p><table>{head}{rows}</table>"


def check_positivity(model: KineticModel) -> PositivityReport:
    """Whether each non-negative state has a derivative of at least zero where it is zero (the flow points inwards).

    Assumed: the other non-negative states and time are at least zero; a parameter has the sign of its nominal value,
    and one that is nominally zero is at least zero. Proofs come from the signs of sums, products, powers and functions
    of the rates; refutations are numbers found by a fixed random search around the nominal parameters. Positivity in
    this sense is necessary and sufficient for the non-negative orthant to be invariant (Nagumo's theorem). Nothing is
    proven of a state that an algebraic equation determines, or that an event may set below zero.

    A fast reaction is taken for the limit of one that becomes ever faster: it has to point inwards by itself. Where
    there are fast reactions or algebraic equations nothing is refuted, since few points of the search satisfy them.
    """
    signs = _assumed_signs(model)
    entries = []
    for state in model.states:
        setters = _doubtful_setters(model, state.name, signs)
        if state.nonnegative and setters:
            entries.append(StatePositivity(state.name, Outcome.UNPROVEN, setters))
        elif state.nonnegative:
            shares = {label: _at_zero(rate, state.name) for label, rate in _contributions(model, state.name).items()}
            entries.append(_judge(model, state.name, shares, signs))
    return PositivityReport(model.name, tuple(entries))


# A sign is a set of possible signs; an empty set never occurs, and all three together say nothing.
Sign = frozenset[int]
_ANY, _POSITIVE, _ZERO, _NEGATIVE = frozenset({-1, 0, 1}), frozenset({1}), frozenset({0}), frozenset({-1})
_AT_LEAST_ZERO = _POSITIVE | _ZERO


def _assumed_signs(model: KineticModel) -> dict[Expr, Sign]:
    signs: dict[Expr, Sign] = {time: _AT_LEAST_ZERO}
    for state in model.states:
        signs[symbol(state.name)] = _AT_LEAST_ZERO if state.nonnegative else _ANY
    for parameter in model.parameters:
        value = parameter.value
        signs[symbol(parameter.name)] = _POSITIVE if value > 0 else _NEGATIVE if value < 0 else _AT_LEAST_ZERO
    return signs


def _contributions(model: KineticModel, state: str) -> dict[str, Expr]:
    if state in model.rates:
        return {"rate rule": model.expand(model.rates[state])}
    return {
        reaction.name: reaction.stoichiometry[state] * model.expand(reaction.rate)
        for reaction in model.reactions
        if state in reaction.stoichiometry
    }


def _doubtful_setters(model: KineticModel, state: str, signs: Mapping[Expr, Sign]) -> tuple[str, ...]:
    """What sets the state at once, to a value whose sign is not known."""
    setters = ("algebraic equation",) if state in model.algebraic else ()
    values = {event.name: event.assignments[state] for event in model.events if state in event.assignments}
    return (*setters, *(f"event {name}" for name, value in values.items() if -1 in _sign(model.expand(value), signs)))


def _at_zero(rate: Expr, state: str) -> Expr:
    """The rate at the boundary; where it is undefined there (`x log x`), its limit from above."""
    past = {delayed: sympy.Dummy(real=True) for delayed in rate.atoms(delay)}
    if past:
        # That the state is zero now says nothing of what it was.
        known = {dummy: delayed for delayed, dummy in past.items()}
        return _at_zero(rate.xreplace(past), state).xreplace(known)
    variable = symbol(state)
    if not rate.has(variable):
        return rate
    value = rate.subs(variable, 0)
    if not value.has(sympy.nan, sympy.zoo, sympy.oo, -sympy.oo):
        return value
    positive = {s: sympy.Dummy(s.name, positive=True) for s in rate.free_symbols}
    try:
        limit = sympy.limit(rate.xreplace(positive), positive[variable], 0, "+")
    except (NotImplementedError, ValueError, TypeError, AttributeError):
        return sympy.nan
    return limit.xreplace({dummy: s for s, dummy in positive.items()})


def _judge(model: KineticModel, state: str, shares: Mapping[str, Expr], signs: Mapping[Expr, Sign]) -> StatePositivity:
    doubtful = [label for label, share in shares.items() if -1 in _sign(share, signs)]
    if not doubtful:
        return StatePositivity(state, Outcome.PROVEN)
    if any(shares[label].has(sympy.nan, sympy.zoo, sympy.oo) for label in doubtful):
        return StatePositivity(state, Outcome.UNPROVEN, tuple(doubtful))
    fast = {reaction.name for reaction in model.reactions if reaction.fast}
    if fast & set(doubtful):
        return StatePositivity(state, Outcome.UNPROVEN, tuple(doubtful))
    total = sympy.Add(*(share for label, share in shares.items() if label not in fast))
    # Terms that cancel between reactions, or under a common denominator, hide a sign that each alone does not have.
    if -1 not in _sign(total, signs) or -1 not in _sign(_over_common_denominator(total), signs):
        return StatePositivity(state, Outcome.PROVEN)
    constrained = bool(fast or model.algebraic)
    found = None if constrained else _refute(model, shares, signs)
    if found is None:
        return StatePositivity(state, Outcome.UNPROVEN, tuple(doubtful))
    worst = sorted((value, label) for label, value in found.shares.items() if value < 0)
    return StatePositivity(
        state=state,
        outcome=Outcome.REFUTED,
        reactions=tuple(label for _, label in worst),
        counterexample=FrozenMap(found.point),
        derivative=sum(found.shares.values()),
        at_nominal=found.at_nominal,
    )


def _over_common_denominator(expression: Expr) -> Expr:
    """The expression as one fraction with its numerator multiplied out, unless that would be very long."""
    if expression.count_ops() > 400:
        return expression
    numerator, denominator = sympy.fraction(sympy.together(expression))
    return sympy.expand(numerator) / denominator


def _sign(expression: Expr, signs: Mapping[Expr, Sign]) -> Sign:
    """The signs that a real expression can have, never too few of them."""
    if expression in signs:
        return signs[expression]
    if expression.is_number:
        known = (expression.is_negative, expression.is_zero, expression.is_positive)
        return frozenset(sign for sign, holds in zip((-1, 0, 1), known, strict=True) if holds is not False) or _ANY
    parts = [_sign(argument, signs) for argument in expression.args if isinstance(argument, Expr)]
    if expression.is_Add:
        return reduce(_sum_of_signs, parts)
    if expression.is_Mul:
        return reduce(lambda a, b: frozenset(x * y for x in a for y in b), parts)
    if expression.is_Pow:
        return _sign_of_power(parts[0], expression.args[1], parts[1])
    if isinstance(expression, sympy.exp | sympy.cosh):
        return _POSITIVE
    if isinstance(expression, sympy.log):
        return _sign(expression.args[0] - 1, signs) if 1 in parts[0] else _ANY
    if isinstance(expression, sympy.tanh | sympy.sinh | sympy.atan | sympy.asinh | sympy.sign | sympy.erf):
        return parts[0]
    if isinstance(expression, delay):
        return parts[0]
    if isinstance(expression, sympy.Abs):
        return frozenset(abs(sign) for sign in parts[0])
    if isinstance(expression, sympy.Max | sympy.Min):
        pick = max if isinstance(expression, sympy.Max) else min
        return reduce(lambda a, b: frozenset(pick(x, y) for x in a for y in b), parts)
    if isinstance(expression, sympy.Piecewise):
        return frozenset().union(*(_sign(branch, signs) for branch, _ in expression.args))
    return _ANY


def _sum_of_signs(a: Sign, b: Sign) -> Sign:
    mixed = any(x * y < 0 for x in a for y in b)
    return _ANY if mixed else frozenset(x or y for x in a for y in b)


def _sign_of_power(base: Sign, exponent: Expr, exponent_sign: Sign) -> Sign:
    if base <= _AT_LEAST_ZERO:
        if exponent_sign == _POSITIVE:
            return base
        # Zero to a negative power is undefined, and to the power of zero it is one.
        return _POSITIVE if 1 not in exponent_sign else base | _POSITIVE
    if exponent.is_integer and exponent.is_even:
        return frozenset(abs(sign) for sign in base)
    if exponent.is_integer and exponent.is_odd:
        return base
    return _ANY


_UFUNCS: dict[type, Callable[..., Any]] = {
    sympy.Add: lambda *parts: reduce(np.add, parts),
    sympy.Mul: lambda *parts: reduce(np.multiply, parts),
    sympy.Pow: np.power,
    sympy.exp: np.exp,
    sympy.log: np.log,
    sympy.Abs: np.abs,
    sympy.Max: lambda *parts: reduce(np.maximum, parts),
    sympy.Min: lambda *parts: reduce(np.minimum, parts),
    sympy.sin: np.sin,
    sympy.cos: np.cos,
    sympy.tan: np.tan,
    sympy.tanh: np.tanh,
    sympy.sinh: np.sinh,
    sympy.cosh: np.cosh,
    sympy.atan: np.arctan,
    sympy.sign: np.sign,
    sympy.StrictLessThan: np.less,
    sympy.LessThan: np.less_equal,
    sympy.StrictGreaterThan: np.greater,
    sympy.GreaterThan: np.greater_equal,
    sympy.And: lambda *parts: reduce(np.logical_and, parts),
    sympy.Or: lambda *parts: reduce(np.logical_or, parts),
    sympy.Not: np.logical_not,
}


def _numbers(expression: Any, values: Mapping[Expr, Any]) -> Any:
    """The expression at many points at once; NaN where a function has no numerical counterpart here."""
    if expression in values:
        return values[expression]
    if isinstance(expression, sympy.Piecewise):
        chosen: Any = np.nan
        for branch, condition in reversed(expression.args):
            chosen = np.where(_numbers(condition, values), _numbers(branch, values), chosen)
        return chosen
    if expression in (sympy.true, sympy.false):
        return bool(expression)
    if expression.is_number:
        return float(expression)
    function = _UFUNCS.get(expression.func)
    if function is None:
        return np.nan
    return function(*(_numbers(argument, values) for argument in expression.args))


class _Refutation(NamedTuple):
    point: dict[str, float]
    shares: dict[str, float]
    at_nominal: bool


def _refute(
    model: KineticModel, shares: Mapping[str, Expr], signs: Mapping[Expr, Sign], count: int = 4096
) -> _Refutation | None:
    """Values at which the shares add up to less than zero, and the shares there; None when the search finds none."""
    values = _random_points(
        model, sorted(set().union(*(s.free_symbols for s in shares.values())), key=str), signs, count
    )
    with np.errstate(all="ignore"):
        parts = {label: np.broadcast_to(_numbers(share, values), (count,)) for label, share in shares.items()}
        total, size = sum(parts.values()), sum(np.abs(part) for part in parts.values())
        # A sum of large terms that cancel is zero up to rounding, not negative.
        below = np.flatnonzero(np.isfinite(total) & (total < -1e-9 * size))
    if not below.size:
        return None
    at = int(below[0])
    return _Refutation(
        {str(atom): float(value[at]) for atom, value in values.items()},
        {label: float(part[at]) for label, part in parts.items()},
        at < count // 2,
    )


def _random_points(
    model: KineticModel, atoms: Iterable[Expr], signs: Mapping[Expr, Sign], count: int
) -> dict[Expr, np.ndarray]:
    """Values over six orders of magnitude around the scales and nominal values, of the assumed signs."""
    draws = np.random.default_rng(0)
    scales = {symbol(state.name): state.scale or 1.0 for state in model.states}
    nominal = {symbol(parameter.name): parameter.value for parameter in model.parameters}
    # The first half keeps the nominal parameters: a counter-example there says more than one elsewhere.
    kept = np.arange(count) < count // 2
    values = {}
    for atom in atoms:
        spread = 10.0 ** draws.uniform(-3.0, 3.0, count).round(2)
        if atom in nominal:
            values[atom] = np.where(kept, nominal[atom], (nominal[atom] or 1.0) * spread)
        else:
            sign = draws.choice([-1.0, 1.0], count) if -1 in signs[atom] else 1.0
            values[atom] = scales.get(atom, 1.0) * sign * spread * (draws.uniform(size=count) > 0.2)
    return values
