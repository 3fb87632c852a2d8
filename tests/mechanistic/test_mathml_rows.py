"""Each row of the table of MathML, compiled: its value against Python's mathematics, and its derivatives.

A row is read from SBML Level 3 Version 2, where it moves a state, and compiled. `x` and `y` are states, `p` is a
parameter, so that derivatives by states (the analytic Jacobian), by parameters (reverse mode) and by time are seen.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import final

import libsbml
import pytest
import torch

from mechanistic.compile import RateField
from mechanistic.errors import InvalidSBML, UnsupportedSBML
from mechanistic.model import symbol
from mechanistic.sbml import read_sbml
from mechanistic.sbml.mathematics import CONSTANTS, READ_ONLY, ROWS
from mechanistic.simulate import simulate
from mechanistic.solve.problem import Tolerance
from tests.mechanistic.sbml_text import AVOGADRO, SYMBOLS, TIME, apply, assigned, listed, parameter, rate, sbml, term
from tests.mechanistic.sbml_text import math as written

NAMES = {value: name for name, value in vars(libsbml).items() if name.startswith("AST_") and isinstance(value, int)}

# Tapes and Python's library are each good to a few units in the last place; lgamma, behind factorials, to a few more.
ROUNDING = 1e-13
# Differences of four points are off by step⁴ f⁽⁵⁾/30 and by rounding/step: with 1e-3, about 1e-12 f⁽⁵⁾ and 1e-12 f.
STEP, DIFFERENCE = 1e-3, 1e-7

Point = tuple[float, float, float]


@final
@dataclass(frozen=True)
class Sample:
    """A use of a row.

    Attributes:
        body: MathML over `x`, `p` and `y`; its root is the row.
        exact: the value at `x`, `p`, `y`, by Python's own mathematics.
        points: where it is smooth.
        edges: where it has a value, and perhaps no derivative.
        outside: where it has no real value.
    """

    body: str
    exact: Callable[[float, float, float], float]
    points: tuple[Point, ...]
    edges: tuple[Point, ...] = ()
    outside: tuple[Point, ...] = ()

    @property
    def row(self) -> int:
        """libsbml's type of the root."""
        return int(libsbml.readMathMLFromString(written(self.body)).getType())


def field_of(text: str) -> RateField:
    return RateField(read_sbml(text))


def compiled(body: str) -> RateField:
    """x' = body, y' = 0, with a parameter p."""
    quantities = listed("Parameters", *(parameter(n, "1", constant=False) for n in "xy"), parameter("p", "1"))
    return field_of(sbml(quantities, listed("Rules", rate("x", body), rate("y", "0"))))


def values(field: RateField, points: Sequence[Point], t: float = 0.0) -> list[float]:
    """x' at each point."""
    x, p, _ = arguments(field, points)
    return field(torch.full(x.shape[:1], t, dtype=x.dtype), x, p)[:, field.state_names.index("x")].tolist()


def arguments(field: RateField, points: Sequence[Point]) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """States `(point, state)`, parameters `(point, parameter)`, and the columns of x and y."""
    columns = [field.state_names.index(name) for name in "xy"]
    states = torch.zeros(len(points), 2, dtype=torch.float64)
    for name, column in zip((0, 2), columns, strict=True):
        states[:, column] = torch.tensor([point[name] for point in points], dtype=torch.float64)
    p = torch.tensor([[point[1]] for point in points], dtype=torch.float64)[:, : len(field.parameter_names)]
    return states, p, columns


def derivatives(field: RateField, points: Sequence[Point]) -> list[Point]:
    """Derivatives of x' by x, p and y at each point; those by states twice, from the Jacobian and in reverse mode."""
    x, p, (first, second) = arguments(field, points)
    t = torch.zeros(len(points), dtype=x.dtype)
    jacobian = field.linearise(t, x, p).jacobian[:, first, :]
    x, p = x.requires_grad_(), p.requires_grad_()
    # The zero keeps constants differentiable.
    rate_of_x = field(t, x, p)[:, first].sum() + 0 * (x.sum() + p.sum())
    by_x, by_p = torch.autograd.grad(rate_of_x, [x, p])
    torch.testing.assert_close(by_x, jacobian.detach(), rtol=1e-12, atol=1e-12)
    return [(row[first].item(), q.item(), row[second].item()) for row, q in zip(jacobian, by_p, strict=True)]


def differences(exact: Callable[..., float], point: Point) -> Point:
    """The same by central differences of four points, computed with Python's numbers."""

    def along(i: int) -> float:
        step = STEP * max(abs(point[i]), 0.1)
        at = [exact(*(v + k * step * (j == i) for j, v in enumerate(point))) for k in (-2, -1, 1, 2)]
        return (at[0] - 8 * at[1] + 8 * at[2] - at[3]) / (12 * step)

    return along(0), along(1), along(2)


def of_x(*numbers: float) -> tuple[Point, ...]:
    return tuple((number, 0.8, -1.3) for number in numbers)


def function(name: str, exact: Callable[[float], float], inside: str, edges: str = "", outside: str = "") -> Sample:
    """A function of one argument, which is p x: derivatives by a state and by a parameter are seen at once."""

    def points(text: str) -> tuple[Point, ...]:
        return tuple((float(number) / p, p, 0.0) for number in text.split() for p in (1.0, -0.5))

    return Sample(
        apply(name, apply("times", "p", "x")),
        lambda x, p, y: exact(p * x),
        points(inside),
        points(edges),
        points(outside),
    )


FUNCTIONS = [
    function("exp", math.exp, "-3 0 0.7 5", "-800"),
    function("ln", math.log, "0.1 1 7", outside="-1"),
    function("abs", abs, "-2 -0.7 3", "0"),
    function("floor", math.floor, "-2.5 -0.7 0.3 7.9", "-2 0 3"),
    function("ceiling", math.ceil, "-2.5 -0.7 0.3 7.9", "-2 0 3"),
    function("factorial", lambda x: math.gamma(x + 1), "0.5 1 3 4.5", "0 5 20 170"),
    function("sin", math.sin, "-2 0 0.7 9"),
    function("cos", math.cos, "-2 0 0.7 9"),
    function("tan", math.tan, "-2 0 0.7 9"),
    function("sec", lambda x: 1 / math.cos(x), "-2 0 0.7 9"),
    function("csc", lambda x: 1 / math.sin(x), "-2 0.7 4"),
    function("cot", lambda x: 1 / math.tan(x), "-2 0.7 4"),
    function("sinh", math.sinh, "-2 0 0.7 5"),
    function("cosh", math.cosh, "-2 0 0.7 5"),
    function("tanh", math.tanh, "-2 0 0.7 5", "30"),
    function("sech", lambda x: 1 / math.cosh(x), "-2 0 0.7 5"),
    function("csch", lambda x: 1 / math.sinh(x), "-2 0.7 5"),
    function("coth", lambda x: 1 / math.tanh(x), "-2 0.7 5"),
    function("arcsin", math.asin, "-0.7 0 0.5", "-1 1", "-1.5 2"),
    function("arccos", math.acos, "-0.7 0 0.5", "-1 1", "-1.5 2"),
    function("arctan", math.atan, "-3 0 0.7 50"),
    function("arcsec", lambda x: math.acos(1 / x), "-1.7 1.3 40", "-1 1", "-0.5 0.5"),
    function("arccsc", lambda x: math.asin(1 / x), "-1.7 1.3 40", "-1 1", "-0.5 0.5"),
    # MathML leaves the branch open; the suite's is the odd one, with a jump at zero.
    function("arccot", lambda x: math.atan(1 / x), "-0.7 0.3 40"),
    function("arcsinh", math.asinh, "-2 0 0.7 50"),
    function("arccosh", math.acosh, "1.3 2 50", "1", "-2 0.5"),
    function("arctanh", math.atanh, "-0.9 0 0.5", outside="-1.5 2"),
    function("arcsech", lambda x: math.acosh(1 / x), "0.05 0.5 0.9", "1", "-0.5 2"),
    function("arccsch", lambda x: math.asinh(1 / x), "-2 0.3 50"),
    function("arccoth", lambda x: math.atanh(1 / x), "-1.5 1.1 40", outside="-0.5 0.5"),
    function("minus", lambda x: -x, "-2 0 0.7"),
    function("root", math.sqrt, "0.1 1 7", "0", "-1"),
    function("log", math.log10, "0.1 1 7", outside="-1"),
]

PLANE = ((0.7, 0.8, -1.3), (-2.5, 1.7, 0.4), (3.1, -0.6, 2.2))
ALL_SIGNS = tuple((x, p, 0.0) for x, p in itertools.product((7.3, -7.3), (3.1, -3.1)))


def of_two(name: str, exact: Callable[[float, float], float], *points: Point, **more: tuple[Point, ...]) -> Sample:
    return Sample(apply(name, "x", "p"), lambda x, p, y: exact(x, p), points or PLANE, **more)


def radical(degree: str) -> str:
    return f"<apply><root/><degree>{term(degree)}</degree><ci>x</ci></apply>"


def logarithm(base: str) -> str:
    return f"<apply><log/><logbase>{term(base)}</logbase><ci>x</ci></apply>"


TWO_OR_MORE = [
    *(
        Sample(apply(name, *"xpy"[:count]), lambda *at, n=count, f=exact: f(at[:n]), PLANE)
        for name, exact in {"plus": math.fsum, "times": math.prod, "min": min, "max": max}.items()
        for count in range(0 if name in ("plus", "times") else 1, 4)
    ),
    of_two("min", min, edges=((2.0, 2.0, 0.0),)),
    of_two("minus", lambda x, p: x - p),
    of_two("divide", lambda x, p: x / p),
    of_two("power", lambda x, p: x**p, (0.7, 0.8, 0.0), (2.5, -1.7, 0.0), edges=((0.0, 0.0, 0.0), (0.0, 2.0, 0.0))),
    of_two("power", math.pow, PLANE[0], edges=((-2.0, 3.0, 0.0), (-2.0, -1.0, 0.0)), outside=((-2.0, 0.5, 0.0),)),
    Sample(apply("power", "x", "3"), lambda x, p, y: x**3, of_x(-2.0, 0.7, 0.0)),
    Sample(apply("power", "x", "-2"), lambda x, p, y: x**-2, of_x(-2.0, 0.7)),
    Sample(radical("3"), lambda x, p, y: x ** (1 / 3), of_x(0.2, 8.0), of_x(0.0)),
    Sample(radical("p"), lambda x, p, y: x ** (1 / p), ((0.2, 3.0, 0.0), (5.0, -2.5, 0.0))),
    Sample(logarithm("2"), lambda x, p, y: math.log2(x), of_x(0.2, 8.0), outside=of_x(-1.0)),
    Sample(logarithm("p"), lambda x, p, y: math.log(x) / math.log(p), ((0.2, 3.0, 0.0), (5.0, 0.4, 0.0))),
    of_two("quotient", lambda x, p: math.trunc(x / p), *ALL_SIGNS, edges=((6.0, 3.0, 0.0), (-6.0, 3.0, 0.0))),
    of_two("rem", math.fmod, *ALL_SIGNS, edges=((6.0, 3.0, 0.0), (-6.0, 3.0, 0.0))),
]

TRUTHS = tuple((float(x), float(p), float(y)) for x, p, y in itertools.product((0, 1), repeat=3))
ORDERS = tuple(itertools.product((-1.0, 0.5, 2.0), repeat=3))
ALIKE = ((-1.0, -1.0, -1.0), (0.5, 0.5, 0.5), (0.5, 0.5, 2.0), (-1.0, 2.0, 2.0))


def chosen(condition: str) -> str:
    """x² where a condition holds, and p y elsewhere: a derivative shows which of both is computed."""
    yes, no = apply("power", "x", "2"), apply("times", "p", "y")
    return f"<piecewise><piece>{yes}{term(condition)}</piece><otherwise>{no}</otherwise></piecewise>"


def counted(name: str, count: int, holds: Callable[..., bool], points: Sequence[Point], takes: str = "") -> Sample:
    """A row of truth over the first of x, p and y; each is taken as it is, or compared with zero."""
    terms = [apply(takes, each, "0") if takes else each for each in "xpy"[:count]]
    return Sample(apply(name, *terms), lambda *at: float(holds(*at[:count])), tuple(points))


CONDITIONS = [
    *(
        counted(name, count, holds, TRUTHS, takes)
        for takes in ("", "gt")
        for name, holds in {
            "and": lambda *all_of: all(all_of),
            "or": lambda *any_of: any(any_of),
            "xor": lambda *each: sum(map(bool, each)) % 2 == 1,
        }.items()
        for count in range(4)
    ),
    *(counted("not", 1, lambda x: not x, TRUTHS, takes) for takes in ("", "gt")),
    *(counted("implies", 2, lambda x, p: not x or bool(p), TRUTHS, takes) for takes in ("", "gt")),
    *(
        counted(name, count, lambda *at, f=holds: all(f(a, b) for a, b in itertools.pairwise(at)), ORDERS + ALIKE)
        for name, holds in {
            "eq": lambda a, b: a == b,
            "gt": lambda a, b: a > b,
            "geq": lambda a, b: a >= b,
            "lt": lambda a, b: a < b,
            "leq": lambda a, b: a <= b,
        }.items()
        for count in (2, 3)
    ),
    counted("neq", 2, lambda a, b: a != b, ORDERS + ALIKE),
]


def named(samples: Sequence[Sample]) -> list[str]:
    return [f"{i}-{NAMES[sample.row].removeprefix('AST_').lower()}" for i, sample in enumerate(samples)]


@pytest.mark.parametrize("sample", FUNCTIONS + TWO_OR_MORE, ids=named(FUNCTIONS + TWO_OR_MORE))
def test_numbers(sample):
    field = compiled(sample.body)
    at = (*sample.points, *sample.edges)
    expected = [sample.exact(*point) for point in at]
    assert values(field, at) == pytest.approx(expected, rel=ROUNDING, abs=ROUNDING)
    if sample.outside:
        assert all(math.isnan(value) for value in values(field, sample.outside))
    for found, point in zip(derivatives(field, sample.points), sample.points, strict=True):
        assert found == pytest.approx(differences(sample.exact, point), rel=DIFFERENCE, abs=DIFFERENCE)


@pytest.mark.parametrize("sample", CONDITIONS, ids=named(CONDITIONS))
def test_conditions(sample):
    # As a number, a condition is 1 or 0 and has no slope; in a selection, the chosen value has that of its own.
    plain, selection = compiled(sample.body), compiled(chosen(sample.body))
    holds = [sample.exact(*point) for point in sample.points]
    assert values(plain, sample.points) == holds
    assert derivatives(plain, sample.points) == [(0.0, 0.0, 0.0)] * len(holds)
    pairs = list(zip(holds, sample.points, strict=True))
    assert values(selection, sample.points) == [x**2 if yes else p * y for yes, (x, p, y) in pairs]
    slopes = [(2 * x, 0.0, 0.0) if yes else (0.0, y, p) for yes, (x, p, y) in pairs]
    assert derivatives(selection, sample.points) == slopes


def test_every_row_has_a_sample():
    # Level 1 writes powers with `^`, which MathML does not, and a delay needs a past: both have tests of their own.
    elsewhere = {libsbml.AST_POWER, libsbml.AST_FUNCTION_DELAY}
    seen = {sample.row for sample in FUNCTIONS + TWO_OR_MORE + CONDITIONS} | elsewhere
    missing = [NAMES[row.node] for row in (*ROWS, *READ_ONLY) if row.node not in seen]
    assert not missing, f"no sample here uses {', '.join(missing)}"


def test_powers_of_level_1():
    names = "".join(f'<parameter name="{name}" value="1"/>' for name in "xpy")
    laws = "".join(f'<parameterRule name="{n}" formula="{f}" type="rate"/>' for n, f in (("x", "x^p"), ("y", "0")))
    space = '<listOfCompartments><compartment name="V"/></listOfCompartments>'
    body = f"{space}<listOfParameters>{names}</listOfParameters><listOfRules>{laws}</listOfRules>"
    root = '<sbml xmlns="http://www.sbml.org/sbml/level1" level="1" version="2">'
    field = field_of(f'{root}<model name="m">{body}</model></sbml>')
    points = ((0.7, 0.8, 0.0), (2.5, -1.7, 0.0))
    assert values(field, points) == pytest.approx([x**p for x, p, _ in points], rel=ROUNDING)
    for found, point in zip(derivatives(field, points), points, strict=True):
        assert found == pytest.approx(differences(lambda x, p, y: x**p, point), rel=DIFFERENCE, abs=DIFFERENCE)


# Constants and symbols

CONSTANT_VALUES = {
    libsbml.AST_CONSTANT_PI: ("<pi/>", math.pi),
    libsbml.AST_CONSTANT_E: ("<exponentiale/>", math.e),
    libsbml.AST_CONSTANT_TRUE: ("<true/>", 1.0),
    libsbml.AST_CONSTANT_FALSE: ("<false/>", 0.0),
}


@pytest.mark.parametrize("kind", [kind for kind, _ in CONSTANTS], ids=lambda kind: NAMES[kind])
def test_constants(kind):
    body, exact = CONSTANT_VALUES[kind]
    field = compiled(apply("times", body, "x"))
    assert values(field, PLANE) == [exact * x for x, _, _ in PLANE]
    assert derivatives(field, PLANE) == [(exact, 0.0, 0.0)] * len(PLANE)


def test_avogadro_has_the_value_that_level_3_fixes():
    field = compiled(apply("times", AVOGADRO, "x"))
    assert values(field, PLANE) == [6.02214179e23 * x for x, _, _ in PLANE]
    assert derivatives(field, PLANE) == [(6.02214179e23, 0.0, 0.0)] * len(PLANE)


def test_time_has_a_value_and_a_derivative():
    field = compiled(apply("times", apply("power", TIME, "2"), "x", "p"))
    assert values(field, PLANE, t=3.0) == pytest.approx([9 * x * p for x, p, _ in PLANE], rel=ROUNDING)
    x, p, (first, _) = arguments(field, PLANE)
    slope = field.linearise(torch.full((len(PLANE),), 3.0, dtype=x.dtype), x, p).time_derivative[:, first]
    assert slope.tolist() == pytest.approx([6 * x * p for x, p, _ in PLANE], rel=ROUNDING)


def test_a_rate_of_change_is_the_right_hand_side_that_it_asks_for():
    # y' = p y² and x' = 3 rateOf(y), so x' = 3 p y².
    symbol_of_rate = f'<csymbol encoding="text" definitionURL="{SYMBOLS}/rateOf">rateOf</csymbol>'
    rate_of = f"<apply>{symbol_of_rate}<ci>y</ci></apply>"
    quantities = listed("Parameters", *(parameter(n, "1", constant=False) for n in "xy"), parameter("p", "1"))
    growth = apply("times", "p", apply("power", "y", "2"))
    field = field_of(sbml(quantities, listed("Rules", rate("x", apply("times", "3", rate_of)), rate("y", growth))))
    assert values(field, PLANE) == pytest.approx([3 * p * y**2 for _, p, y in PLANE], rel=ROUNDING)
    for found, (_, p, y) in zip(derivatives(field, PLANE), PLANE, strict=True):
        assert found == pytest.approx((0.0, 3 * y**2, 6 * p * y), rel=ROUNDING)


def test_a_delayed_value_is_that_of_the_past_and_of_the_start_before_it():
    # x' = -p x with x(0) = 2, so the square of x a lag ago is 4 exp(-2 p (t - lag)), and 4 while t < lag.
    symbol_of_delay = f'<csymbol encoding="text" definitionURL="{SYMBOLS}/delay">delay</csymbol>'
    delayed = f"<apply>{symbol_of_delay}{apply('power', 'x', '2')}<ci>lag</ci></apply>"
    constants = [parameter("p", "0.7"), parameter("lag", "0.5")]
    quantities = listed("Parameters", parameter("x", "2", False), parameter("r", constant=False), *constants)
    decay = apply("minus", apply("times", "p", "x"))
    model = read_sbml(sbml(quantities, listed("Rules", assigned("r", delayed), rate("x", decay))))
    shown = replace(model, observables={"past": symbol("r")})
    p = torch.tensor([0.7, 0.5], dtype=torch.float64, requires_grad=True)
    times = (0.0, 0.25, 1.0, 2.0)
    found = simulate(shown, times, p, tolerance=Tolerance(1e-10, 1e-12)).observe()[:, 0]
    exact = [4 * math.exp(-1.4 * max(t - 0.5, 0)) for t in times]
    # The solver's tolerance, with the usual factor between the error of a step and that of its dense output.
    assert found.tolist() == pytest.approx(exact, rel=1e-7)
    for t, value, r in zip(times, found, exact, strict=True):
        (slope,) = torch.autograd.grad(value, p, retain_graph=True)
        wanted = [-2 * (t - 0.5) * r, 1.4 * r] if t > 0.5 else [0.0, 0.0]
        assert slope.tolist() == pytest.approx(wanted, rel=1e-6)


def test_nothing_is_larger_than_infinity():
    field = compiled(chosen(apply("lt", "x", "<infinity/>")))
    assert values(field, PLANE) == [x**2 for x, _, _ in PLANE]
    assert derivatives(field, PLANE) == [(2 * x, 0.0, 0.0) for x, _, _ in PLANE]


@pytest.mark.parametrize("body", ["<infinity/>", "<notanumber/>"])
def test_infinity_and_nan_are_no_rates(body):
    with pytest.raises(UnsupportedSBML, match="rate rule of `x`"):
        compiled(apply("plus", "x", body))


# Selections, and numbers among truth values


def test_the_first_piece_that_holds_is_chosen():
    pieces = [(apply("times", "x", "2"), apply("gt", "x", "1")), ("p", apply("gt", "x", "0"))]
    inner = "".join(f"<piece>{term(value)}{condition}</piece>" for value, condition in pieces)
    field = compiled(f"<piecewise>{inner}<otherwise><ci>y</ci></otherwise></piecewise>")
    points = ((3.0, 5.0, 7.0), (0.5, 5.0, 7.0), (-1.0, 5.0, 7.0))
    assert values(field, points) == [6.0, 5.0, 7.0]
    assert derivatives(field, points) == [(2.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)]


def test_what_is_not_chosen_may_be_undefined():
    root = f"<piecewise><piece>{apply('root', 'x')}{apply('gt', 'x', '0')}</piece><otherwise><cn>0</cn></otherwise>"
    field = compiled(f"{root}</piecewise>")
    assert values(field, of_x(4.0, 0.0, -4.0)) == [2.0, 0.0, 0.0]
    assert [by_x for by_x, _, _ in derivatives(field, of_x(4.0, 0.0, -4.0))] == [0.25, 0.0, 0.0]


@pytest.mark.parametrize(
    ("body", "exact", "by_x"),
    [
        (apply("plus", apply("gt", "x", "0"), apply("gt", "p", "0")), lambda x, p: (x > 0) + (p > 0), 0.0),
        (apply("times", apply("gt", "x", "0"), "x"), lambda x, p: max(x, 0.0), None),
        (apply("minus", "<true/>", "x"), lambda x, p: 1 - x, -1.0),
        (chosen("x").replace("<cn>2</cn>", "<true/>"), lambda x, p: x if x else p * 0.4, None),
        (apply("eq", apply("gt", "x", "0"), "1"), lambda x, p: float(x > 0), 0.0),
        (apply("max", apply("lt", "x", "p"), "x"), lambda x, p: max(float(x < p), x), None),
        (apply("power", "x", apply("gt", "p", "0")), lambda x, p: x if p > 0 else 1.0, None),
    ],
    ids=range(7),
)
def test_truth_values_count_as_numbers_and_numbers_as_truth_values(body, exact, by_x):
    points = tuple((x, p, 0.4) for x, p in itertools.product((-1.5, 0.25, 2.0), (-0.75, 1.25)))
    field = compiled(body)
    assert values(field, points) == [exact(x, p) for x, p, _ in points]
    slopes = derivatives(field, points)
    for (found, _, _), point in zip(slopes, points, strict=True):
        wanted = differences(lambda x, p, y: exact(x, p), point)[0] if by_x is None else by_x
        assert found == pytest.approx(wanted, rel=DIFFERENCE, abs=DIFFERENCE)


@pytest.mark.parametrize(
    "body",
    [
        *(apply(name) for name in ("min", "max", "eq", "neq", "lt", "not", "implies", "divide", "exp", "minus")),
        *(apply(name, "x") for name in ("eq", "neq", "lt", "leq", "gt", "geq", "implies", "divide", "power", "rem")),
        *(apply(name, "x", "p", "y") for name in ("neq", "implies", "divide", "power", "rem", "quotient", "minus")),
        *(apply(name, "x", "p") for name in ("exp", "not", "abs", "factorial")),
    ],
)
def test_a_number_of_arguments_that_a_row_does_not_take_is_invalid(body):
    with pytest.raises(InvalidSBML):
        compiled(body)
