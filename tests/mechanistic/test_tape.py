"""Tapes: values against mpmath, symbolic derivatives and autograd against mpmath's, at interior points and at edges."""

import math

import mpmath
import pytest
import sympy
import torch
from hypothesis import given
from hypothesis import strategies as st
from sympy import Piecewise, S

from mechanistic.compile.expression import shape_of
from mechanistic.compile.families import Family, Tables
from mechanistic.compile.tape import TapeBuilder
from mechanistic.errors import ModelError
from mechanistic.model import symbol, time

x, y, z = symbol("x"), symbol("y"), symbol("z")

# Interior points; (0.7, 0.4) where a function is defined inside (-1, 1) only, (1.7, 0.4) where outside only.
ANYWHERE, INSIDE, OUTSIDE = ((1.3, 0.6), (-0.7, 1.9), (2.5, -1.1)), ((0.7, 0.4), (-0.3, 0.4)), ((1.7, 0.4), (3.1, 0.4))
POSITIVE = ((1.3, 0.6), (0.2, 2.5), (7.0, 3.0))

TABLE = [
    (x + y - 2 * z, ANYWHERE),
    (3 * x - y * x, ANYWHERE),
    (x * y / (1 + x**2), ANYWHERE),
    (-x / y**2, ANYWHERE),
    (1 / (x * y), ANYWHERE),
    (x**2 + x**3 + x**7 + x**-3, ANYWHERE),
    (x**y, POSITIVE),
    (x ** S("2.5"), POSITIVE),
    (2**x, ANYWHERE),
    (sympy.sqrt(x) + 1 / sympy.sqrt(x), POSITIVE),
    (sympy.cbrt(x), POSITIVE),
    (sympy.exp(-x * y), ANYWHERE),
    (sympy.log(x) + sympy.log(x, 10), POSITIVE),
    (sympy.Abs(x - y), ANYWHERE),
    (sympy.sign(x) * x, ANYWHERE),
    (sympy.floor(x) + sympy.ceiling(y) * x, ANYWHERE),
    (sympy.Min(x, y), ANYWHERE),
    (sympy.Max(x, y, 0), ANYWHERE),
    (sympy.sin(x) * sympy.cos(y) * sympy.tan(x), ANYWHERE),
    (sympy.asin(x) + sympy.acos(x * y), INSIDE),
    (sympy.atan(x) + sympy.atan2(y, x), ANYWHERE),
    (sympy.sinh(x) + sympy.cosh(y * x) + sympy.tanh(x), ANYWHERE),
    (sympy.asinh(x), ANYWHERE),
    (sympy.acosh(x), OUTSIDE),
    (sympy.atanh(x), INSIDE),
    (sympy.sec(x) + sympy.csc(x) + sympy.cot(x), ANYWHERE),
    (sympy.sech(x) + sympy.csch(x) + sympy.coth(x), ANYWHERE),
    (sympy.asec(x) + sympy.acsc(x), OUTSIDE),
    (sympy.acot(x), ANYWHERE),
    (sympy.asech(x), ((0.7, 0.4), (0.2, 0.4))),
    (sympy.acsch(x), ANYWHERE),
    (sympy.acoth(x), OUTSIDE),
    (sympy.erf(x), ANYWHERE),
    (sympy.loggamma(x) + sympy.gamma(y) + sympy.factorial(x), POSITIVE),
    (sympy.Mod(x, 2) + sympy.Mod(x, 3) * y, ANYWHERE),
    (Piecewise((x**2, x < y), (y * x, True)), ANYWHERE),
    (Piecewise((x, x <= 0), (2 * x, x > 2), (x**3, True)), ANYWHERE),
    (Piecewise((x, sympy.And(x > 0, y > 0)), (y, sympy.Or(x < -1, y > 1)), (x * y, True)), ANYWHERE),
    (Piecewise((x, sympy.Xor(x > 0, y > 0)), (y, True)), ANYWHERE),
    (Piecewise((x, sympy.Not(sympy.Or(x > 0, y > 1))), (x**2, sympy.Ne(x, y)), (1, True)), ANYWHERE),
    (Piecewise((x**2, sympy.Eq(sympy.floor(x), 1)), (x, True)), ANYWHERE),
    (sympy.pi * x + sympy.E, ANYWHERE),
]


def family(expression: sympy.Expr) -> tuple[Family, tuple[str, ...]]:
    """The expression compiled, and the name in each of its slots."""
    shape, symbols = shape_of(expression, lambda atom: "t" if atom == time else "s")
    columns = torch.arange(len(symbols)).unsqueeze(1)
    return Family(shape, columns, [0], range(len(symbols))), tuple(s.name for s in symbols)


def evaluated(expression: sympy.Expr, **at: float) -> tuple[float, dict[str, float], dict[str, float]]:
    """Value, symbolic derivative and autograd's derivative of it by name."""
    compiled, names = family(expression)
    point = torch.tensor([[at[name] for name in names]], dtype=torch.float64, requires_grad=True)
    tables = Tables(point, point[..., :0], point[..., 0], point[..., :0])
    value = compiled.evaluate(tables)
    slopes = {names[slot]: d.item() for slot, d in zip(compiled.slopes, compiled.differentiate(tables), strict=True)}
    backward = torch.autograd.grad(value.sum(), point)[0][0] if value.requires_grad else torch.zeros(len(names))
    zero = dict.fromkeys(names, 0.0)
    return value.item(), zero | slopes, dict(zip(names, backward.tolist(), strict=True))


def exact(expression: sympy.Expr, **at: float) -> tuple[float, dict[str, float]]:
    """Value and derivatives with 40 digits."""
    names = sorted(s.name for s in expression.free_symbols)
    with mpmath.workdps(40):
        function = sympy.lambdify([symbol(name) for name in names], expression, "mpmath")
        point = tuple(mpmath.mpf(at[name]) for name in names)
        order = [tuple(int(i == j) for j in range(len(names))) for i in range(len(names))]
        slopes = {name: float(mpmath.diff(function, point, n)) for name, n in zip(names, order, strict=True)}
        return float(function(*point)), slopes


# A few rounding errors of float64, each amplified by the condition of a function at most some tens.
close = {"rel": 1e-12, "abs": 1e-12}


@pytest.mark.parametrize(("expression", "points"), TABLE, ids=[str(e) for e, _ in TABLE])
def test_every_operation_has_the_value_and_the_derivative_of_mathematics(
    expression: sympy.Expr, points: tuple[tuple[float, float], ...]
) -> None:
    for a, b in points:
        at = {"x": a, "y": b, "z": 0.3}
        value, slopes, backward = evaluated(expression, **at)
        expected, expected_slopes = exact(expression, **at)
        assert value == pytest.approx(expected, **close)
        assert slopes == pytest.approx(expected_slopes, **close)
        assert backward == pytest.approx(expected_slopes, **close)


def test_time_and_booleans_as_numbers() -> None:
    value, slopes, _ = evaluated(x * time + time**2, x=3.0, time=3.0)
    assert (value, slopes) == (18.0, {"x": 3.0, "time": 9.0})
    switch = sympy.ITE(x > 1, y > 0, y < 0)
    assert evaluated(Piecewise((x, switch), (y, True)), x=2.0, y=-3.0)[0] == -3.0
    assert evaluated(Piecewise((x, switch), (y, True)), x=0.5, y=-3.0)[0] == 0.5


@pytest.mark.parametrize("power", [1, 2, 3, S("1.5"), S("2.5"), sympy.Rational(7, 2)])
def test_a_power_at_zero_is_zero_and_so_is_its_derivative_or_one(power: sympy.Expr) -> None:
    value, slopes, backward = evaluated(x**power, x=0.0)
    assert value == 0.0
    assert slopes["x"] == backward["x"] == (1.0 if power == 1 else 0.0)


def test_a_hill_term_with_a_real_exponent_is_smooth_at_zero() -> None:
    hill = x**y / (z**y + x**y)
    value, slopes, backward = evaluated(hill, x=0.0, y=2.4, z=1.5)
    assert value == 0.0
    assert slopes == backward == {"x": 0.0, "y": 0.0, "z": 0.0}
    # At a coefficient of one the slope is 1/z.
    value, slopes, backward = evaluated(hill, x=0.0, y=1.0, z=1.5)
    assert slopes["x"] == pytest.approx(1 / 1.5)
    assert backward["x"] == pytest.approx(1 / 1.5)


@pytest.mark.parametrize(
    ("singular", "at"),
    [(sympy.log(x), 0.0), (sympy.log(x), -1.0), (1 / x, 0.0), (sympy.sqrt(x), 0.0), (sympy.sqrt(x), -2.0), (x**y, 0.0)],
    ids=str,
)
@pytest.mark.parametrize("first", [True, False])
def test_a_singular_branch_that_is_not_taken_leaves_no_trace(singular: sympy.Expr, at: float, first: bool) -> None:
    choice = (
        Piecewise((singular, x > 0), (3 * x + y, True)) if first else Piecewise((3 * x + y, x <= 0), (singular, True))
    )
    value, slopes, backward = evaluated(choice, x=at, y=-0.5)
    assert value == 3 * at - 0.5
    assert slopes == backward == {"x": 3.0, "y": 1.0}


def test_nested_piecewise_guards_the_inner_branch() -> None:
    inner = Piecewise((sympy.log(x), x < 5), (1 / (x - 7), True))
    value, slopes, backward = evaluated(Piecewise((inner, x > 0), (x**2, True)), x=-1.0)
    assert (value, slopes["x"], backward["x"]) == (1.0, -2.0, -2.0)


def test_second_derivatives_pass_a_singular_branch() -> None:
    compiled, _ = family(Piecewise((sympy.sqrt(x), x > 0), (x**3, True)))
    point = torch.tensor([[0.0]], dtype=torch.float64, requires_grad=True)
    slope = compiled.differentiate(Tables(point, point[..., :0], point[..., 0], point[..., :0]))[0]
    assert torch.autograd.grad(slope.sum(), point)[0].item() == 0.0


@pytest.mark.parametrize(
    ("expression", "at", "slope"),
    [
        (sympy.Abs(x), 0.0, 0.0),
        (sympy.Max(x, 2), 2.0, 1.0),
        (sympy.Min(x, 2), 2.0, 1.0),
        (Piecewise((x**2, x < 1), (5 * x, True)), 1.0, 5.0),
        (Piecewise((x**2, x <= 1), (5 * x, True)), 1.0, 2.0),
        (sympy.floor(x), 2.0, 0.0),
        (sympy.sign(x), 0.0, 0.0),
    ],
    ids=str,
)
def test_at_a_kink_the_derivative_is_that_of_the_branch_evaluated_there(
    expression: sympy.Expr, at: float, slope: float
) -> None:
    assert evaluated(expression, x=at)[1]["x"] == slope


def test_whole_powers_of_negative_numbers_are_exact() -> None:
    for power in (*range(-16, 0), *range(1, 17)):
        value, slopes, _ = evaluated(x**power, x=-2.0)
        assert value == (-2.0) ** power
        assert slopes["x"] == power * (-2.0) ** (power - 1)


names = st.permutations(["k1", "S", "Vmax", "Zeta", "a"])


@given(names)
def test_laws_equal_up_to_renaming_share_one_tape(chosen: list[str]) -> None:
    def law(a: str, b: str, c: str, d: str, e: str) -> sympy.Expr:
        v, s, k, i, h = map(symbol, (a, b, c, d, e))
        return v * s**h / (k**h + s**h) / (1 + i / k) + v * i

    plain = shape_of(law("p", "q", "r", "t", "u"), lambda _: "s")
    other = shape_of(law(*chosen), lambda _: "s")
    renaming = dict(zip(("p", "q", "r", "t", "u"), chosen, strict=True))
    assert plain[0] == other[0]
    assert [renaming[s.name] for s in plain[1]] == [s.name for s in other[1]]


def test_different_laws_and_different_kinds_have_different_shapes() -> None:
    shape = shape_of(x * y, lambda _: "s")[0]
    assert shape != shape_of(x * y * z, lambda _: "s")[0]
    assert shape != shape_of(x * y, lambda atom: "p" if atom == y else "s")[0]
    assert shape != shape_of(2 * x * y, lambda _: "s")[0]


def test_a_repeated_operation_is_stored_once_and_constants_are_folded() -> None:
    shape = shape_of(sympy.exp(x * y) + sympy.sin(sympy.exp(x * y)), lambda _: "s")[0]
    assert [i.operation for i in shape.tape.instructions].count("exp") == 1
    builder = TapeBuilder(1)
    two = builder.apply("add", builder.constant(1.0), builder.constant(1.0))
    assert builder.number(builder.apply("mul", two, builder.constant(3.0))) == 6.0
    assert builder.apply("mul", 0, builder.constant(1.0)) == 0
    assert builder.number(builder.apply("div", builder.constant(1.0), builder.constant(0.0))) is None


def test_division_by_a_constant_zero_is_infinite_as_in_floating_point() -> None:
    builder = TapeBuilder(1)
    tape = builder.finish([builder.apply("div", 0, builder.constant(0.0))])
    assert tape.run([torch.tensor([1.0, -1.0]).double()])[0].tolist() == [math.inf, -math.inf]


@pytest.mark.parametrize("expression", [sympy.zeta(x), sympy.besselj(0, x), sympy.Function("f")(x)], ids=str)
def test_a_function_without_a_tape_is_refused_by_name(expression: sympy.Expr) -> None:
    with pytest.raises(ModelError, match="the function `"):
        shape_of(expression, lambda _: "s")


def test_a_piecewise_without_a_default_is_refused() -> None:
    with pytest.raises(ModelError, match="no value where no condition holds"):
        shape_of(Piecewise((x, x > 0)), lambda _: "s")
