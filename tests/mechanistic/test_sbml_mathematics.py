"""The table between MathML and sympy: every row against Python's mathematics, and there and back."""

import itertools
import math
import sys

import pytest
import sympy
from hypothesis import assume, given
from hypothesis import strategies as st

from mechanistic.errors import InvalidSBML, UnsupportedSBML
from mechanistic.model import KineticModel, Parameter, State, delay, symbol, time
from mechanistic.sbml import read_sbml, write_sbml
from mechanistic.sbml.mathematics import CONSTANTS, ROWS, Untranslatable, write_node
from tests.mechanistic.sbml_text import AVOGADRO, TIME, apply, assigned, call, function, listed, parameter, sbml, term

# sympy evaluates to 17 digits and Python's library is good to a few units in the last place.
ROUNDING = 1e-14


def expression(body: str, *functions: str, **values: float) -> sympy.Expr:
    """What the reader makes of a piece of MathML over the parameters x, y and z."""
    parameters = [parameter(name, repr(values.get(name, 1.0))) for name in "xyz"]
    rules = listed("Rules", assigned("result", body))
    quantities = listed("Parameters", *parameters, parameter("result", constant=False))
    return read_sbml(sbml(listed("FunctionDefinitions", *functions), quantities, rules)).assignments["result"]


def value(expr: sympy.Expr, **values: float) -> float:
    numbers = {symbol(name): sympy.sympify(number) for name, number in values.items()}
    return float(expr.xreplace({**numbers, time: sympy.Integer(3)}).evalf(17))


UNARY = {
    "exp": (math.exp, 0.7),
    "ln": (math.log, 0.7),
    "abs": (abs, -0.7),
    "floor": (math.floor, -0.7),
    "ceiling": (math.ceil, -0.7),
    "factorial": (math.factorial, 5),
    "sin": (math.sin, 0.7),
    "cos": (math.cos, 0.7),
    "tan": (math.tan, 0.7),
    "sec": (lambda x: 1 / math.cos(x), 0.7),
    "csc": (lambda x: 1 / math.sin(x), 0.7),
    "cot": (lambda x: 1 / math.tan(x), 0.7),
    "sinh": (math.sinh, 0.7),
    "cosh": (math.cosh, 0.7),
    "tanh": (math.tanh, 0.7),
    "sech": (lambda x: 1 / math.cosh(x), 0.7),
    "csch": (lambda x: 1 / math.sinh(x), 0.7),
    "coth": (lambda x: 1 / math.tanh(x), 0.7),
    "arcsin": (math.asin, 0.7),
    "arccos": (math.acos, 0.7),
    "arctan": (math.atan, 0.7),
    "arcsec": (lambda x: math.acos(1 / x), 1.7),
    "arccsc": (lambda x: math.asin(1 / x), 1.7),
    "arccot": (lambda x: math.atan(1 / x), -0.7),
    "arcsinh": (math.asinh, 0.7),
    "arccosh": (math.acosh, 1.7),
    "arctanh": (math.atanh, 0.7),
    "arcsech": (lambda x: math.acosh(1 / x), 0.7),
    "arccsch": (lambda x: math.asinh(1 / x), 0.7),
    "arccoth": (lambda x: math.atanh(1 / x), 1.7),
    "minus": (lambda x: -x, 0.7),
    "plus": (lambda x: x, 0.7),
    "times": (lambda x: x, 0.7),
    "root": (math.sqrt, 0.7),
    "log": (math.log10, 0.7),
    "min": (lambda x: x, 0.7),
    "max": (lambda x: x, 0.7),
}


@pytest.mark.parametrize("operator", UNARY)
def test_functions_of_one_argument(operator):
    exact, at = UNARY[operator]
    assert value(expression(apply(operator, "x")), x=at) == pytest.approx(exact(at), rel=ROUNDING)


SEVERAL = {
    "plus": (lambda x, y, z: x + y + z, 3),
    "times": (lambda x, y, z: x * y * z, 3),
    "minus": (lambda x, y: x - y, 2),
    "divide": (lambda x, y: x / y, 2),
    "power": (lambda x, y: x**y, 2),
    "min": (min, 3),
    "max": (max, 3),
    "quotient": (lambda x, y: math.trunc(x / y), 2),
    "rem": (math.fmod, 2),
}


@pytest.mark.parametrize("operator", SEVERAL)
@pytest.mark.parametrize("at", [(7.5, 2.0, 0.5), (2.0, 7.5, -0.5)])
def test_functions_of_several_arguments(operator, at):
    exact, count = SEVERAL[operator]
    names = "xyz"[:count]
    found = value(expression(apply(operator, *names)), **dict(zip("xyz", at, strict=True)))
    assert found == pytest.approx(exact(*at[:count]), rel=ROUNDING)


@pytest.mark.parametrize(("x", "y"), list(itertools.product((7.0, -7.0), (3.0, -3.0))))
def test_quotient_and_remainder_truncate_towards_zero(x, y):
    # MathML: a = b q + r with |r| < |b|, and r has the sign of a.
    whole, rest = expression(apply("quotient", "x", "y")), expression(apply("rem", "x", "y"))
    assert value(whole, x=x, y=y) == math.trunc(x / y)
    assert value(rest, x=x, y=y) == math.fmod(x, y)


def test_roots_and_logarithms_of_any_base():
    cube = f"<apply><root/><degree>{term('3')}</degree>{term('x')}</apply>"
    binary = f"<apply><log/><logbase>{term('2')}</logbase>{term('x')}</apply>"
    assert value(expression(cube), x=2.0) == pytest.approx(2 ** (1 / 3), rel=ROUNDING)
    assert value(expression(binary), x=10.0) == pytest.approx(math.log2(10), rel=ROUNDING)


RELATIONS = {
    "eq": lambda a, b: a == b,
    "gt": lambda a, b: a > b,
    "geq": lambda a, b: a >= b,
    "lt": lambda a, b: a < b,
    "leq": lambda a, b: a <= b,
}
TRUTHS = [(0, 0), (0, 1), (1, 0), (1, 1)]


def chosen(condition: str) -> str:
    """1 where a condition holds, and 0 elsewhere."""
    return f"<piecewise><piece>{term('1')}{condition}</piece><otherwise>{term('0')}</otherwise></piecewise>"


@pytest.mark.parametrize("operator", RELATIONS)
@pytest.mark.parametrize("at", list(itertools.product((1.0, 2.0), repeat=3)))
def test_relations_are_chains(operator, at):
    holds = RELATIONS[operator]
    found = expression(chosen(apply(operator, "x", "y", "z")))
    assert value(found, **dict(zip("xyz", at, strict=True))) == float(holds(at[0], at[1]) and holds(at[1], at[2]))


@pytest.mark.parametrize("at", [(1.0, 1.0), (1.0, 2.0)])
def test_not_equal_takes_two(at):
    assert value(expression(chosen(apply("neq", "x", "y"))), x=at[0], y=at[1]) == float(at[0] != at[1])


LOGIC = {
    "and": lambda a, b: a and b,
    "or": lambda a, b: a or b,
    "xor": lambda a, b: a != b,
    "implies": lambda a, b: not a or b,
}


@pytest.mark.parametrize("operator", LOGIC)
@pytest.mark.parametrize("at", TRUTHS)
def test_logic(operator, at):
    found = expression(chosen(apply(operator, apply("gt", "x", "0"), apply("gt", "y", "0"))))
    assert value(found, x=at[0], y=at[1]) == float(LOGIC[operator](bool(at[0]), bool(at[1])))


def test_not():
    found = expression(chosen(apply("not", apply("gt", "x", "0"))))
    assert [value(found, x=x) for x in (0, 1)] == [1, 0]


def test_truth_values_count_as_numbers_and_numbers_as_truth_values():
    counted = expression(apply("plus", apply("gt", "x", "0"), apply("gt", "y", "0")))
    assert [value(counted, x=x, y=y) for x, y in TRUTHS] == [0, 1, 1, 2]
    # A comparison that holds is 1, so that not(x > 0) = (x > 0) never holds.
    assert [value(expression(chosen(apply("and", "x", "y"))), x=x, y=y) for x, y in TRUTHS] == [0, 0, 0, 1]


def test_a_selection_inside_a_comparison():
    larger = (
        f"<piecewise><piece>{term('x')}{apply('gt', 'x', 'y')}</piece><otherwise>{term('y')}</otherwise></piecewise>"
    )
    found = expression(chosen(apply("gt", apply("times", larger, "2"), "z")))
    assert value(found, x=1, y=3, z=5) == 1
    assert value(found, x=1, y=2, z=5) == 0


@pytest.mark.parametrize(
    ("body", "exact"),
    [
        ("<pi/>", math.pi),
        ("<exponentiale/>", math.e),
        ("<true/>", 1.0),
        ("<false/>", 0.0),
        ('<cn type="integer"> 7 </cn>', 7.0),
        ("<cn> 0.1 </cn>", 0.1),
        ('<cn type="rational"> 1 <sep/> 3 </cn>', 1 / 3),
        ('<cn type="e-notation"> 1.7 <sep/> -23 </cn>', 1.7e-23),
        (AVOGADRO, 6.02214179e23),
        (TIME, 3.0),
    ],
)
def test_numbers_and_constants(body, exact):
    # Adding x keeps the constant from being read as a plain value; at x = 0 nothing is rounded.
    assert value(expression(apply("plus", body, "x")), x=0) == exact


def test_whole_numbers_are_exact():
    third = expression(apply("times", apply("divide", "1", "3"), "x"))
    assert third == symbol("x") / 3


def test_numbers_below_an_infinity():
    assert value(expression(chosen(apply("lt", "x", "<infinity/>"))), x=1e300) == 1


def test_nested_function_definitions_see_only_their_arguments():
    inner = function("inner", "x", apply("power", "x", "2"))
    outer = function("outer", "y x", apply("minus", call("inner", "y"), "x"))
    found = expression(call("outer", "z", call("inner", "x")), inner, outer)
    assert value(found, x=2, y=100, z=5) == 25 - 4


@pytest.mark.parametrize(
    ("body", "part"),
    [
        (apply("divide", "x", "0"), "not finite"),
        (apply("root", "-1"), "not a real number"),
        (apply("ln", "0"), "undefined"),
        ("<notanumber/>", "NaN"),
        ("<infinity/>", "not finite"),
        (apply("power", "10", "1000000000"), "too large"),
        (apply("factorial", "1000000000"), "too large"),
        (apply("floor", apply("exp", apply("exp", apply("exp", "30")))), "too large"),
        (f"<piecewise><piece>{term('1')}{apply('gt', 'x', '0')}</piece></piecewise>", "no <otherwise>"),
    ],
)
def test_what_has_no_finite_real_value_is_refused(body, part):
    with pytest.raises(UnsupportedSBML, match=part) as refusal:
        expression(body)
    assert "assignment rule of `result`" in str(refusal.value)


def test_a_wrong_number_of_arguments_is_invalid():
    with pytest.raises(InvalidSBML):
        expression(apply("divide", "x", "y", "z"))


# There and back

X, Y = symbol("x"), symbol("y")
SAMPLES = {
    sympy.Add: X + Y,
    sympy.Mul: X * Y,
    sympy.Pow: X**Y,
    sympy.Min: sympy.Min(X, Y),
    sympy.Max: sympy.Max(X, Y),
    delay: delay(X, Y),
    **{kind: kind(X > 0, Y > 0) for kind in (sympy.And, sympy.Or, sympy.Xor)},
    sympy.Not: sympy.Not(sympy.And(X > 0, Y > 0)),
    **{kind: kind(X, Y) for kind in (sympy.Eq, sympy.Ne, sympy.Gt, sympy.Ge, sympy.Lt, sympy.Le)},
}


def returned(expr: sympy.Basic) -> sympy.Basic:
    """`expr` written to a file and read from it; conditions travel inside a selection."""
    shown = expr if isinstance(expr, sympy.Expr) else sympy.Piecewise((X, expr), (Y, True))
    model = KineticModel("m", (State("s"),), (Parameter("x", 1.0), Parameter("y", 2.0)), observables={"result": shown})
    back = read_sbml(write_sbml(model)).observables["result"]
    return back if isinstance(expr, sympy.Expr) else back.args[0].cond


@pytest.mark.parametrize(
    "row", [r for r in ROWS if r.written_for is not sympy.Implies], ids=lambda r: r.written_for.__name__
)
def test_each_row_returns_unchanged(row):
    sample = SAMPLES.get(row.written_for)
    expr = row.written_for(X) if sample is None else sample
    assert returned(expr) == expr


def test_implication_returns_as_an_equal_condition():
    condition = sympy.Implies(X > 0, Y > 0)
    assert returned(condition) == sympy.Or(X <= 0, Y > 0)


@pytest.mark.parametrize("constant", [c for _, c in CONSTANTS if isinstance(c, sympy.Expr)], ids=str)
def test_each_constant_returns_unchanged(constant):
    assert returned(constant * X) == constant * X


@pytest.mark.parametrize(
    "expr",
    [
        sympy.sign(X - 1),
        sympy.Mod(time, 24),
        sympy.Integer(10) ** 40 * X,
        -(sympy.Integer(10) ** 12) * X,
        sympy.Float(2.0) * X,
        sympy.Float(0.1 + 0.2) * X,
        sympy.Float(1.2345678901234567e-300) * X,
        sympy.Rational(-7, 3) * X,
        sympy.sqrt(X) + X ** sympy.Rational(-1, 2),
        sympy.Mul(2, X + Y, evaluate=False),
        sympy.Mul(-1, X + Y, evaluate=False) + 3,
        sympy.exp(1) + sympy.exp(-X),
        sympy.Piecewise((X, X > 1), (Y, sympy.And(X > 0, Y > 0)), (0, True)),
    ],
    ids=str,
)
def test_awkward_expressions_return_unchanged(expr):
    assert returned(expr) == expr


@st.composite
def expressions(draw, depth=3):
    """Expressions such as rate laws are made of."""
    if depth == 0 or draw(st.booleans()):
        leaf = st.sampled_from([X, Y, time, sympy.pi]) | st.integers(-9, 9).map(sympy.Integer)
        return draw(leaf | st.floats(1e-6, 1e6).map(sympy.Float))
    left, right = draw(expressions(depth - 1)), draw(expressions(depth - 1))
    return draw(
        st.sampled_from(
            [
                left + right,
                left - right,
                left * right,
                left / (1 + right**2),
                sympy.exp(-(left**2)),
                sympy.log(1 + left**2),
                sympy.Max(left, right),
                sympy.tanh(left),
                sympy.Piecewise((left, X > Y), (right, True)),
            ]
        )
    )


@given(expressions())
def test_any_expression_returns_unchanged(expr):
    assume(not expr.has(sympy.nan, sympy.zoo, sympy.oo, -sympy.oo))
    # sympy's numbers go below the smallest double; files do not.
    assume(all(value == 0 or abs(value) >= sys.float_info.min for value in expr.atoms(sympy.Float)))
    assert returned(expr) == expr


@pytest.mark.parametrize(
    "expr", [sympy.erf(X), sympy.gamma(X), sympy.Piecewise((X, X > 0)), sympy.oo * X, sympy.Float("1e-320")]
)
def test_what_sbml_does_not_know_is_refused(expr):
    with pytest.raises(Untranslatable):
        write_node(expr, {"x": "x"})
