"""The csymbol `rateOf`: it equals the derivative of the simulated trajectory, and what has none is refused."""

import pytest
import sympy

from mechanistic.errors import InvalidSBML, UnsupportedSBML
from mechanistic.model import KineticModel, symbol
from mechanistic.sbml import read_sbml, write_sbml
from tests.mechanistic.sbml_text import (
    SYMBOLS,
    apply,
    assigned,
    compartment,
    function,
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


def rate_of(name: str) -> str:
    return f'<apply><csymbol encoding="text" definitionURL="{SYMBOLS}/rateOf">r</csymbol>{term(name)}</apply>'


def chain_rule(model: KineticModel, expression: sympy.Expr) -> sympy.Expr:
    """d expression / dt along the trajectories of the model."""
    right_sides = {name: model.expand(value) for name, value in model.derivatives().items()}
    expression = model.expand(expression)
    return sympy.Add(*(sympy.diff(expression, symbol(name)) * value for name, value in right_sides.items()))


def assert_rate(model: KineticModel, name: str, expression: sympy.Expr) -> None:
    """That the assignment `name` is the derivative of `expression`, and that the model returns from a file equal."""
    difference = model.expand(symbol(name)) - chain_rule(model, expression)
    assert sympy.simplify(difference) == 0
    assert read_sbml(write_sbml(model)) == model


def moving(amounts: bool, growing: bool, target: str = "S", version: int = 2) -> KineticModel:
    """Two reactions move S in a compartment of size 2 that may grow; `a` is rateOf(target)."""
    rules = [assigned("a", rate_of(target)), rate("q", apply("times", "q", "S"))]
    rules += [rate("V", apply("times", "0.5", "V"))] if growing else []
    return read_sbml(
        sbml(
            listed("Compartments", compartment("V", "2", constant=not growing)),
            listed(
                "Species",
                species("S", "V", 'initialAmount="3"', amounts=amounts),
                species("T", "V", 'initialAmount="1"'),
            ),
            listed(
                "Parameters", parameter("a", constant=False), parameter("q", "1", constant=False), parameter("k", "4")
            ),
            listed("Rules", *rules),
            listed(
                "Reactions",
                reaction("J", reference("S", "2"), reference("T"), apply("times", "k", "S", "V")),
                reaction("K", "", reference("S", "3"), apply("times", "k", "T"), "T"),
            ),
        )
    )


@pytest.mark.parametrize("growing", [False, True])
@pytest.mark.parametrize("amounts", [False, True])
def test_species_change_by_reactions_and_by_growth(amounts, growing):
    model = moving(amounts, growing)
    size = symbol("V")
    assert_rate(model, "a", symbol("S") if amounts else symbol("S") / size)


@pytest.mark.parametrize("growing", [False, True])
def test_parameters_and_compartments_change_by_rules_alone(growing):
    assert_rate(moving(False, growing, "q"), "a", symbol("q"))
    assert_rate(moving(False, growing, "V"), "a", symbol("V"))
    assert moving(False, growing, "k").expand(symbol("a")) == 0


def test_concentrations_that_no_reaction_moves_are_diluted():
    model = read_sbml(
        sbml(
            listed("Compartments", compartment("V", "2", constant=False)),
            listed("Species", species("S", "V", 'initialConcentration="3"', boundary=True)),
            listed("Parameters", parameter("a", constant=False)),
            listed("Rules", assigned("a", rate_of("S")), rate("V", "0.5")),
        )
    )
    assert_rate(model, "a", symbol("S") / symbol("V"))
    assert model.expand(symbol("a")) != 0


@pytest.mark.parametrize("whole", [True, False])
def test_conversion_factors_and_changing_stoichiometries_count(whole):
    factor = 'conversionFactor="f"'
    space = (
        species("S", "V", 'initialAmount="3"')
        if whole
        else species("S", "V", 'initialAmount="3"', conversionFactor="f")
    )
    model = read_sbml(
        sbml(
            listed("Compartments", compartment("V", "2")),
            listed("Species", space),
            listed("Parameters", parameter("a", constant=False), parameter("b", constant=False), parameter("f", "7")),
            listed("Rules", assigned("a", rate_of("S")), assigned("b", rate_of("n")), rate("n", "0.25")),
            listed("Reactions", reaction("J", "", reference("S", "2", "n", constant=False), apply("times", "3", "S"))),
            attributes=factor if whole else "",
        )
    )
    assert_rate(model, "a", symbol("S") / symbol("V"))
    assert_rate(model, "b", symbol("n"))


def test_rates_in_laws_rules_and_initial_values():
    model = read_sbml(
        sbml(
            listed("Compartments", compartment("V", "2")),
            listed("Species", species("S", "V", 'initialAmount="3"', amounts=True)),
            listed(
                "Parameters", parameter("x", "1", constant=False), parameter("y", "1", constant=False), parameter("p")
            ),
            listed("InitialAssignments", initially("p", apply("times", "2", rate_of("S")))),
            listed("Rules", rate("x", apply("times", "3", "x")), rate("y", apply("minus", rate_of("x"), "y"))),
            listed("Reactions", reaction("J", reference("S"), "", apply("times", rate_of("y"), "S"))),
        )
    )
    x, y, s = symbol("x"), symbol("y"), symbol("S")
    derivatives = {name: model.expand(value) for name, value in model.derivatives().items()}
    assert sympy.simplify(derivatives["y"] - (3 * x - y)) == 0
    assert sympy.simplify(derivatives["S"] + (3 * x - y) * s) == 0
    # At the start x = y = 1 and S = 3, so that p = -2 (3 - 1) 3.
    assert model.nominal()["p"] == -12
    assert read_sbml(write_sbml(model)) == model


def test_local_parameters_hide_what_moves():
    local = '<listOfLocalParameters><localParameter id="x" value="5"/></listOfLocalParameters>'
    law = apply("plus", "1", rate_of("x"))
    model = read_sbml(
        sbml(
            listed("Compartments", compartment("V", "2")),
            listed("Species", species("S", "V", 'initialAmount="3"', amounts=True)),
            listed("Parameters", parameter("x", "1", constant=False)),
            listed("Rules", rate("x", "4")),
            listed("Reactions", reaction("J", reference("S"), "", law, local=local)),
        )
    )
    assert model.derivatives()["S"] == -1


@pytest.mark.parametrize(
    "rules",
    [
        [rate("x", apply("plus", "1", rate_of("x")))],
        [rate("x", rate_of("y")), rate("y", apply("sin", rate_of("x")))],
        [assigned("a", rate_of("x")), rate("x", "a")],
    ],
)
def test_rates_that_depend_on_themselves_are_refused(rules):
    names = [parameter(name, "1" if name != "a" else "", constant=False) for name in "axy"]
    with pytest.raises((InvalidSBML, UnsupportedSBML), match=r"cycle|circular|itself"):
        read_sbml(sbml(listed("Parameters", *names), listed("Rules", *rules)))


def test_a_reaction_that_depends_on_the_rate_of_its_own_product_is_refused():
    text = sbml(
        listed("Compartments", compartment("V", "2")),
        listed("Species", species("S", "V", 'initialAmount="3"')),
        listed("Reactions", reaction("J", "", reference("S"), apply("plus", "1", rate_of("S")))),
    )
    with pytest.raises((InvalidSBML, UnsupportedSBML), match=r"cycle|circular|itself"):
        read_sbml(text)


@pytest.mark.parametrize("target", ["b", "J", "2", "S", "f"])
def test_what_has_no_rate_of_its_own_is_refused(target):
    # The standard allows no quantity with an assignment rule (3.4.6), nor a concentration in a size that has one.
    text = sbml(
        listed("FunctionDefinitions", function("f", "z", "z")),
        listed("Compartments", compartment("V", "", constant=False)),
        listed("Species", species("S", "V", 'initialAmount="3"')),
        listed("Parameters", parameter("a", constant=False), parameter("b", constant=False)),
        listed("Rules", assigned("b", "2"), assigned("V", "3"), assigned("a", rate_of(target))),
        listed("Reactions", reaction("J", "", reference("S"), "1")),
    )
    with pytest.raises((InvalidSBML, UnsupportedSBML)):
        read_sbml(text)


def test_rates_that_double_forty_times_are_refused():
    names = [f"x{i}" for i in range(40)]
    rules = [rate("x0", apply("sin", "x0"))]
    rules += [
        rate(f"x{i}", apply("times", apply("sin", rate_of(f"x{i - 1}")), apply("cos", rate_of(f"x{i - 1}"))))
        for i in range(1, 40)
    ]
    text = sbml(listed("Parameters", *(parameter(n, "1", constant=False) for n in names)), listed("Rules", *rules))
    with pytest.raises(UnsupportedSBML, match="too large"):
        read_sbml(text)


def test_a_long_chain_of_rates_is_refused_before_libsbml_searches_it_for_cycles():
    names = [f"x{i}" for i in range(200)]
    rules = [rate("x0", "1"), *(rate(f"x{i}", rate_of(f"x{i - 1}")) for i in range(1, 200))]
    text = sbml(listed("Parameters", *(parameter(n, "1", constant=False) for n in names)), listed("Rules", *rules))
    with pytest.raises(UnsupportedSBML, match="pairs"):
        read_sbml(text)
    short = sbml(
        listed("Parameters", *(parameter(n, "1", constant=False) for n in names)), listed("Rules", *rules[:40])
    )
    assert read_sbml(short).derivatives()["x39"] == 1
