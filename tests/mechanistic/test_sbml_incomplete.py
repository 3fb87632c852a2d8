"""What a file leaves out: mathematics that is not there, values that are no numbers, selections without a last case."""

import math

import pytest
import sympy
from hypothesis import given
from hypothesis import strategies as st

from mechanistic.errors import ModelError, UnsupportedSBML
from mechanistic.model import KineticModel, Parameter, Reaction, State, symbol
from mechanistic.sbml import read_sbml, write_sbml
from mechanistic.sbml.coverage import exhaustive
from mechanistic.simulate import simulate
from tests.mechanistic.sbml_text import (
    TIME,
    apply,
    assigned,
    compartment,
    initially,
    listed,
    parameter,
    rate,
    reaction,
    reference,
    sbml,
    species,
    term,
)

# Mathematics that is not there


def network(rule: str = "", initial: str = "", functions: str = "") -> str:
    """S decays into T with rate 0.1; p, T and the stoichiometry n of T may have rules."""
    stoichiometry = reference("T", "2", "n", constant=False)
    return sbml(
        functions,
        listed("Compartments", compartment("V", "2")),
        listed(
            "Species", species("S", "V", 'initialAmount="2"'), species("T", "V", 'initialAmount="3"', boundary=True)
        ),
        listed("Parameters", parameter("p", "5", constant=False)),
        listed("InitialAssignments", *([initial] if initial else [])),
        listed("Rules", *([rule] if rule else [])),
        listed("Reactions", reaction("J", reference("S"), stoichiometry, "0.1")),
    )


@pytest.mark.parametrize("variable", ["p", "T", "n"])
@pytest.mark.parametrize("kind", ["rateRule", "assignmentRule"])
@pytest.mark.parametrize("empty", ["", '<math xmlns="http://www.w3.org/1998/Math/MathML"/>'])
def test_a_rule_without_mathematics_has_no_effect(kind, variable, empty):
    rule = f'<{kind} variable="{variable}">{empty}</{kind}>'
    assert read_sbml(network(rule)) == read_sbml(network())


def test_an_initial_assignment_without_mathematics_has_no_effect():
    assert read_sbml(network(initial='<initialAssignment symbol="p"/>')) == read_sbml(network())


def test_a_function_without_mathematics_may_stand_but_not_be_called():
    functions = listed("FunctionDefinitions", '<functionDefinition id="f"/>')
    assert read_sbml(network(functions=functions)) == read_sbml(network())
    with pytest.raises(UnsupportedSBML, match="`f` is called, and its definition has no mathematics"):
        read_sbml(network(assigned("p", "<apply><ci>f</ci></apply>"), functions=functions))


def test_a_kinetic_law_without_mathematics_is_refused():
    text = network().replace(f'<math xmlns="http://www.w3.org/1998/Math/MathML">{term("0.1")}</math>', "")
    with pytest.raises(UnsupportedSBML, match="kinetic law of reaction `J`: has no mathematics"):
        read_sbml(text)


# Values that are no numbers

ENDLESS = {"INF": math.inf, "-INF": -math.inf, "NaN": math.nan}
CONSTANTS = {
    "INF": "<infinity/>",
    "-INF": apply("minus", "<infinity/>"),
    "NaN": "<notanumber/>",
}


@pytest.mark.parametrize("text", ENDLESS)
@pytest.mark.parametrize("assigned_initially", [True, False])
def test_parameters_that_nothing_uses_may_be_infinite_or_nan(text, assigned_initially):
    quantities = listed("Parameters", parameter("a", "1" if assigned_initially else text), parameter("b", "2"))
    initial = listed("InitialAssignments", *([initially("a", CONSTANTS[text])] if assigned_initially else []))
    model = read_sbml(sbml(quantities, initial))
    assert repr(model.nominal()) == repr({"a": ENDLESS[text], "b": 2.0})
    back = read_sbml(write_sbml(model))
    assert back == model
    assert back.parameters == model.parameters


def test_a_finite_initial_assignment_wins_over_an_infinite_attribute():
    text = sbml(
        listed("Parameters", parameter("a", "INF"), parameter("b")),
        listed("InitialAssignments", initially("a", "3"), initially("b", "a")),
    )
    model = read_sbml(text)
    assert model.nominal() == {"a": 3}
    assert model.expand(symbol("b")) == symbol("a")
    ruled = sbml(listed("Parameters", parameter("a", "NaN", constant=False)), listed("Rules", assigned("a", TIME)))
    assert read_sbml(ruled) == read_sbml(ruled.replace('value="NaN"', ""))


def test_an_infinite_parameter_leaves_the_simulation_alone():
    text = sbml(
        listed("Parameters", parameter("x", "1", constant=False), parameter("a", "NaN"), parameter("b", "-INF")),
        listed("Rules", rate("x", apply("minus", "x"))),
    )
    solution = simulate(read_sbml(text), [0.0, 1.0]).check()
    # The default tolerance of the solver is 1e-6.
    assert float(solution.states[-1, 0]) == pytest.approx(math.exp(-1), rel=1e-5)


@pytest.mark.parametrize("where", ["law", "rule", "initial"])
@pytest.mark.parametrize("value", ["INF", "NaN"])
def test_infinite_values_and_nan_are_refused_where_they_are_used(where, value):
    text = sbml(
        listed("Compartments", compartment("V", "2")),
        listed("Species", species("S", "V", 'initialAmount="2"')),
        listed("Parameters", parameter("a", value), parameter("b", constant=False)),
        listed("InitialAssignments", *([initially("b", "a")] if where == "initial" else [])),
        listed("Rules", *([assigned("b", "a")] if where == "rule" else [])),
        listed("Reactions", reaction("J", reference("S"), "", "a" if where == "law" else "1")),
    )
    with pytest.raises(UnsupportedSBML, match=r"parameter `a`: (its value is infinite|no value), but used in"):
        read_sbml(text)


def test_an_infinite_parameter_that_is_used_cannot_be_written():
    model = KineticModel("m", [State("A")], [Parameter("k", math.inf)], [Reaction("r", "A ->", symbol("k"))])
    with pytest.raises(ModelError, match="parameter `k`"):
        write_sbml(model)


@pytest.mark.parametrize("value", ["INF", "-INF"])
def test_infinite_amounts_and_sizes_are_refused(value):
    space = listed("Compartments", compartment("V", "2"))
    with pytest.raises(UnsupportedSBML, match="infinite"):
        read_sbml(sbml(space, listed("Species", species("S", "V", f'initialAmount="{value}"'))))
    with pytest.raises(UnsupportedSBML, match="infinite"):
        read_sbml(sbml(listed("Compartments", compartment("V", value))))


# Selections without a last case


def selection(*pieces: tuple[str, str]) -> str:
    return (
        f"<piecewise>{''.join(f'<piece>{term(value)}{condition}</piece>' for value, condition in pieces)}</piecewise>"
    )


def chosen(text: str, **values: float) -> float:
    quantities = listed("Parameters", *(parameter(n, "1") for n in "xy"), parameter("r", constant=False))
    found = read_sbml(sbml(quantities, listed("Rules", assigned("r", text)))).assignments["r"]
    return float(found.xreplace({symbol(name): sympy.Float(value) for name, value in values.items()}))


@pytest.mark.parametrize(("x", "expected"), [(-1.0, 1), (0.0, 2), (0.5, 2), (1.0, 3), (7.0, 3)])
def test_conditions_that_leave_no_case_over_need_no_otherwise(x, expected):
    text = selection(
        ("1", apply("lt", "x", "0")),
        ("2", apply("and", apply("geq", "x", "0"), apply("lt", apply("times", "2", "x"), "2"))),
        ("3", apply("geq", "x", "1")),
    )
    assert chosen(text, x=x, y=0.0) == expected


@pytest.mark.parametrize(("x", "y"), [(1.0, 2.0), (2.0, 1.0), (1.0, 1.0)])
def test_two_names_compared_both_ways_leave_no_case_over(x, y):
    text = selection(("x", apply("geq", "x", "y")), ("y", apply("gt", "y", "x")))
    assert chosen(text, x=x, y=y) == max(x, y)


def test_a_piece_that_always_holds_is_the_last():
    assert chosen(selection(("4", "<true/>"), ("5", apply("gt", "x", "0"))), x=1.0, y=0.0) == 4


@pytest.mark.parametrize(
    "text",
    [
        selection(("1", apply("gt", "x", "0")), ("2", apply("lt", "x", "0"))),
        selection(("1", apply("gt", "x", "1")), ("2", apply("leq", "x", "0.5"))),
        selection(("1", apply("gt", "x", "0")), ("2", apply("leq", "y", "0"))),
        selection(("1", apply("gt", apply("ln", "x"), "0")), ("2", apply("leq", apply("ln", "x"), "0"))),
    ],
)
def test_a_case_that_may_be_left_over_is_refused(text):
    with pytest.raises(UnsupportedSBML, match="no <otherwise>"):
        chosen(text, x=1.0, y=1.0)


X, Y = symbol("x"), symbol("y")
CORNERS = st.integers(-2, 2)
RELATIONS = st.sampled_from([sympy.Lt, sympy.Le, sympy.Gt, sympy.Ge, sympy.Eq, sympy.Ne])
COMPARISONS = st.builds(
    lambda kind, v, c, s: kind(s * v, c, evaluate=False),
    RELATIONS,
    st.sampled_from([X, Y]),
    CORNERS,
    st.sampled_from([-1, 1, 2]),
)


@given(st.lists(COMPARISONS | st.builds(sympy.And, COMPARISONS, COMPARISONS), min_size=1, max_size=5))
def test_conditions_called_exhaustive_hold_everywhere_on_a_grid(conditions):
    # Corners lie at halves; a grid of quarters meets every corner and every stretch between two.
    grid = [sympy.Rational(i, 4) for i in range(-10, 11)]
    everywhere = all(
        any(condition.subs({X: x, Y: y}) == sympy.true for condition in conditions) for x in grid for y in grid
    )
    assert exhaustive(conditions) == everywhere
