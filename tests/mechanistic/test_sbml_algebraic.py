"""Algebraic rules: the quantity that each determines, closed forms of what follows, and what is refused."""

import math as maths
from collections.abc import Sequence

import pytest
import sympy
import torch

from mechanistic.errors import InvalidSBML, UnsupportedSBML
from mechanistic.model import KineticModel, delay, symbol, time
from mechanistic.sbml import read_sbml, write_sbml
from mechanistic.sbml.elimination import solve_linear, solve_one
from mechanistic.simulate import simulate
from mechanistic.solve.problem import Tolerance
from tests.mechanistic.sbml_text import (
    TIME,
    apply,
    assigned,
    compartment,
    delayed,
    event,
    initially,
    listed,
    math,
    parameter,
    rate,
    reaction,
    reference,
    sbml,
    species,
    term,
)

TIGHT = Tolerance(1e-10, 1e-13)
TIMES = (0.0, 0.5, 1.0, 2.0, 4.0)


def zero(body: str, identity: str = "") -> str:
    """The algebraic rule 0 = `body`."""
    label = f'id="{identity}"' if identity else ""
    return f"<algebraicRule {label}>{math(term(body))}</algebraicRule>"


def variable(name: str, value: str = "") -> str:
    return parameter(name, value, constant=False)


def read(rules: Sequence[str], parameters: Sequence[str], *between: str, reactions: Sequence[str] = ()) -> KineticModel:
    lists = [listed("Parameters", *parameters), *between, listed("Rules", *rules), listed("Reactions", *reactions)]
    return read_sbml(sbml(*lists))


def same(one: sympy.Expr, other: sympy.Expr) -> bool:
    return sympy.simplify(sympy.nsimplify(one - other, rational=True)) == 0


def table(model: KineticModel, names: Sequence[str], parameters: torch.Tensor | None = None) -> torch.Tensor:
    """Values of `names` at `TIMES`, as `(time, name)`."""
    shown = KineticModel(
        model.name,
        model.states,
        model.parameters,
        model.reactions,
        model.rates,
        model.assignments,
        {f"shown {name}": symbol(name) for name in names},
    )
    return simulate(shown, TIMES, parameters, tolerance=TIGHT).check().observe()


# Which quantity, and its value


def test_the_value_that_the_file_gives_is_replaced():
    model = read([zero(apply("minus", "x", "k"))], [variable("x", "7"), parameter("k", "3")])
    assert model.assignments == {"x": symbol("k")}
    assert model.parameter_names == ("k",)


def test_an_initial_assignment_to_a_determined_quantity_is_replaced():
    first = listed("InitialAssignments", initially("x", "7"))
    model = read([zero(apply("minus", "x", "k"))], [variable("x"), parameter("k", "3")], first)
    assert model.assignments == {"x": symbol("k")}


def test_quantities_that_start_from_a_determined_one_follow_it():
    first = listed("InitialAssignments", initially("y", apply("times", "2", "x")))
    rules = [zero(apply("minus", "x", "k")), rate("y", "1")]
    model = read(rules, [variable("x", "7"), variable("y"), parameter("k", "3")], first)
    assert model.initial_values() == {"y": 6.0}
    assert model.with_values(k=5.0).initial_values() == {"y": 10.0}


def test_a_conserved_total_has_its_closed_form():
    # S decays from 8 with rate 0.5, and 0 = S + T - total: T = 10 - 8 exp(-t/2).
    rules = [zero(apply("minus", apply("plus", "S", "T"), "total")), rate("S", apply("times", "-0.5", "S"))]
    model = read(rules, [variable("S", "8"), variable("T", "1"), parameter("total", "10")])
    expected = torch.tensor([[10 - 8 * maths.exp(-t / 2)] for t in TIMES], dtype=torch.float64)
    # The solver's relative tolerance is 1e-10, which adds up over some tens of steps.
    torch.testing.assert_close(table(model, ["T"]), expected, rtol=1e-8, atol=1e-8)


def test_a_determined_species_feeds_reactions_as_a_concentration():
    # In V = 2 with [A] = A/V: 0 = 4 [B] - [A], so B = A/4, and dA/dt = -k [B] V = -k A/4.
    space = listed("Compartments", compartment("V", "2"))
    kinds = listed("Species", species("A", "V", 'initialAmount="8"'), species("B", "V", 'initialAmount="1"'))
    law = apply("times", "k", "B", "V")
    lists = [space, kinds, listed("Parameters", parameter("k", "2"))]
    lists += [listed("Rules", zero(apply("minus", apply("times", "4", "B"), "A")))]
    lists += [listed("Reactions", reaction("J", reference("A"), "", law, modifiers="B"))]
    model = read_sbml(sbml(*lists))
    assert model.state_names == ("A",)
    assert same(model.expand(model.derivatives()["A"]), -symbol("k") * symbol("A") / 4)
    assert same(model.expand(model.observables["[B]"]), symbol("A") / (4 * symbol("V")))
    expected = torch.tensor([[2 * maths.exp(-t / 2)] for t in TIMES], dtype=torch.float64)
    torch.testing.assert_close(table(model, ["B"]), expected, rtol=1e-8, atol=1e-8)


def test_an_amount_and_a_concentration_in_one_rule():
    # B is in substance units: 0 = B - A means that the amount of B is the concentration of A.
    kinds = species("A", "V", 'initialAmount="8"', constant="true") + species("B", "V", amounts=True)
    lists = [listed("Compartments", compartment("V", "2")), listed("Species", kinds)]
    model = read_sbml(sbml(*lists, listed("Rules", zero(apply("minus", "B", "A")))))
    assert same(model.expand(symbol("B")), symbol("A") / symbol("V"))


def test_a_determined_size_turns_amounts_into_concentrations():
    space = listed("Compartments", compartment("V", "7", constant=False))
    kinds = listed("Species", species("A", "V", 'initialAmount="8"'))
    law = apply("times", "k", "A", "V")
    lists = [space, kinds, listed("Parameters", parameter("k", "0.5"))]
    lists += [listed("Rules", zero(apply("minus", "V", apply("plus", "1", TIME))))]
    model = read_sbml(sbml(*lists, listed("Reactions", reaction("J", reference("A"), "", law))))
    assert model.assignments["V"] == 1 + time
    assert same(model.expand(model.observables["[A]"]), symbol("A") / (1 + time))
    expected = torch.tensor([[8 * maths.exp(-t / 2)] for t in TIMES], dtype=torch.float64)
    torch.testing.assert_close(table(model, ["A"]), expected, rtol=1e-8, atol=1e-8)


def test_a_species_and_its_size_are_determined_together():
    # 0 = [A] - V and 0 = [A] + V - 2: [A] = V = 1, so the amount is 1.
    lists = [listed("Compartments", compartment("V", "7", constant=False)), listed("Species", species("A", "V"))]
    rules = [zero(apply("minus", "A", "V")), zero(apply("minus", apply("plus", "A", "V"), "2"))]
    model = read_sbml(sbml(*lists, listed("Rules", *rules)))
    assert (model.expand(symbol("V")), model.expand(symbol("A"))) == (1, 1)


def test_a_determined_stoichiometry_scales_the_reaction():
    # dX/dt = n k with 0 = X - n: exponential growth.
    space = listed("Compartments", compartment("V"))
    kinds = listed("Species", species("X", "V", 'initialAmount="3"'))
    product = reference("X", identity="n", constant=False)
    lists = [space, kinds, listed("Parameters", parameter("k", "0.5"))]
    lists += [listed("Rules", zero(apply("minus", "X", "n"))), listed("Reactions", reaction("J", "", product, "k"))]
    expected = torch.tensor([[3 * maths.exp(t / 2)] for t in TIMES], dtype=torch.float64)
    torch.testing.assert_close(table(read_sbml(sbml(*lists)), ["X"]), expected, rtol=1e-8, atol=1e-8)


def test_the_rate_of_a_reaction_may_determine_a_quantity():
    space = listed("Compartments", compartment("V"))
    kinds = listed("Species", species("A", "V", 'initialAmount="8"'))
    law = apply("times", "k", "A")
    lists = [space, kinds, listed("Parameters", parameter("k", "0.5"), variable("x"))]
    lists += [listed("Rules", zero(apply("minus", "x", apply("times", "3", "J"))))]
    model = read_sbml(sbml(*lists, listed("Reactions", reaction("J", reference("A"), "", law))))
    assert same(model.expand(symbol("x")), 3 * symbol("k") * symbol("A") / symbol("V"))


def test_a_quantity_without_a_value_is_the_one_that_is_determined():
    model = read(
        [zero(apply("minus", apply("plus", "q", "r"), "x"))], [variable("q", "1"), variable("r", "2"), variable("x")]
    )
    assert model.assignments == {"x": symbol("q") + symbol("r")}
    assert model.nominal() == {"q": 1.0, "r": 2.0}


def test_a_species_on_the_boundary_stays_where_another_can_follow():
    kinds = species("A", "V", 'initialAmount="2"') + species("B", "V", 'initialAmount="3"', boundary=True)
    lists = [listed("Compartments", compartment("V")), listed("Species", kinds)]
    model = read_sbml(sbml(*lists, listed("Rules", zero(apply("minus", "B", "A")))))
    assert list(model.assignments) == ["A"]
    assert model.nominal()["B"] == 3.0


# Several rules


def test_rules_are_solved_one_after_the_other():
    rules = [zero(apply("minus", "y", apply("times", "x", "x"))), zero(apply("minus", "x", "k"))]
    model = read(rules, [variable("x"), variable("y"), parameter("k", "3")])
    assert model.expand(symbol("y")) == symbol("k") ** 2


def test_rules_that_are_linear_together_are_solved_together():
    # x + a y = 3, b x - y = 1: x = (3 + a) / (1 + a b), y = (3 b - 1) / (1 + a b).
    # z = 1 takes the place of a number.
    rules = [
        zero(apply("minus", apply("plus", "x", apply("times", "a", "y")), "3")),
        zero(apply("minus", apply("minus", apply("times", "b", "x"), "y"), "z")),
        zero(apply("minus", "z", "1")),
    ]
    a, b = symbol("a"), symbol("b")
    model = read(rules, [variable(n) for n in "xyz"] + [parameter("a", "2"), parameter("b", "5")])
    assert same(model.expand(symbol("x")), (3 + a) / (1 + a * b))
    assert same(model.expand(symbol("y")), (3 * b - 1) / (1 + a * b))


def test_assignment_rules_between_algebraic_rules_take_part():
    # y := x / 2 and 0 = x + y - k: x = 2 k / 3. Put in one after the other, they would form a cycle.
    rules = [assigned("y", apply("divide", "x", "2")), zero(apply("minus", apply("plus", "x", "y"), "k"))]
    model = read(rules, [variable("x"), variable("y"), parameter("k", "3")])
    assert same(model.expand(symbol("x")), 2 * symbol("k") / 3)
    assert same(model.expand(symbol("y")), symbol("k") / 3)


def test_a_chain_of_sixty_rules_is_solved_by_elimination():
    # x[i-1] + 3 x[i] + x[i+1] = 0.1, between k on one side and 0 on the other.
    count = 60
    rules = []
    for i in range(count):
        left = f"x{i - 1}" if i else "k"
        right = f"x{i + 1}" if i + 1 < count else "0"
        rules.append(zero(apply("minus", apply("plus", left, apply("times", "3", f"x{i}"), right), "0.1")))
    model = read(rules, [variable(f"x{i}") for i in range(count)] + [parameter("k", "0.2")])
    matrix = 3 * torch.eye(count, dtype=torch.float64)
    matrix += torch.diag(torch.ones(count - 1, dtype=torch.float64), 1)
    matrix += torch.diag(torch.ones(count - 1, dtype=torch.float64), -1)
    right_side = torch.full((count,), 0.1, dtype=torch.float64)
    right_side[0] -= 0.2
    expected = torch.linalg.solve(matrix, right_side)
    actual = [float(model.expand(symbol(f"x{i}")).subs(symbol("k"), 0.2)) for i in range(count)]
    # The matrix has a condition number of 5.
    torch.testing.assert_close(torch.tensor(actual, dtype=torch.float64), expected, rtol=1e-12, atol=1e-14)


# Equations for one unknown

X, Y, T = symbol("x"), symbol("y"), symbol("t")
CASES = (
    (2 * X - Y, Y / 2),
    (Y * (X + 1) + X - T, (T - Y) / (Y + 1)),
    (sympy.Piecewise((X - 1, Y > 0), (X - T, True)), sympy.Piecewise((1, Y > 0), (T, True))),
    (sympy.Piecewise((2 * X, Y > 0), (X - T, True)), sympy.Piecewise((0, Y > 0), (T, True))),
    (X**3 + Y, sympy.cbrt(Y)),
    (2 * sympy.log(X + 1) - Y, sympy.exp(Y / 2) - 1),
    (sympy.sinh(X) - Y, sympy.asinh(Y)),
    (sympy.asinh(Y * X) - 1, sympy.sinh(1) / Y),
    ((2 * X + 1) ** 3 - 27, 1),
)


@pytest.mark.parametrize("equation", [case[0] for case in CASES], ids=str)
@pytest.mark.parametrize("sign", [1, -1])
def test_a_solution_solves_its_equation(equation, sign):
    solution = solve_one(equation, X)
    assert solution is not None
    for y, t in ((0.7, 2.5), (1.9, -0.3)):
        value = equation.subs(X, solution).subs({Y: sign * y, T: t})
        # A handful of roundings of numbers near one.
        assert abs(complex(value)) < 1e-13


@pytest.mark.parametrize(
    "equation",
    [
        X**2 - Y,
        X**2,
        X - X**3,
        X * X - X * (X + Y),
        sympy.exp(X) - Y,
        sympy.sqrt(X) - Y,
        sympy.tanh(X) - Y,
        1 / X - Y,
        X / (X + 1) - Y,
        sympy.Abs(X) - Y,
        sympy.floor(X) - Y,
        X + sympy.cos(X),
        Y - 1,
        X * (Y - Y * T / T),
        X * (0.1 + 0.2 - sympy.Float(0.3)) * 0 - 1,
        X * (Y * (T + 1) - Y * T - Y) - 1,
        sympy.Piecewise((X - 1, X > 0), (X - 2, True)),
        sympy.Piecewise((X - 1, Y > 0), (T, True)),
        X * (1 + sympy.Piecewise((-1, Y > 0), (1, True))) - 1,
        X**Y - 2,
    ],
    ids=str,
)
def test_what_has_no_or_several_or_conditional_solutions_is_not_solved(equation):
    assert solve_one(sympy.sympify(equation), X) is None


def test_systems_without_a_single_solution_are_not_solved():
    assert solve_linear([X + Y - 1, 2 * X + 2 * Y - 2], [X, Y]) is None
    assert solve_linear([0.1 * X + 0.3 * Y - 1, X + 3 * Y - 2], [X, Y]) is None
    assert solve_linear([T * X + Y - 1, T * T * X + T * Y - T], [X, Y]) is None
    assert solve_linear([X * Y - 1, X + Y - 2], [X, Y]) is None


def test_only_the_determinant_is_divided_by():
    # At t = 0 the first factor vanishes, and the system [[t, y], [1, t]] is regular all the same.
    y, factor = symbol("a"), symbol("b")
    solution = solve_linear([T * X + factor * Y - 1, factor * X + T * Y - y], [X, Y])
    assert solution is not None
    at_zero = {name: value.subs(T, 0) for name, value in solution.items()}
    assert same(at_zero[X], y / factor)
    assert same(at_zero[Y], 1 / factor)


# Equations without a formula

X_STATE, Y_STATE, K = symbol("x"), symbol("y"), symbol("k")


def test_a_rule_without_a_formula_stays_an_equation():
    rule = zero(apply("minus", apply("times", "x", "x"), "k"))
    model = read([rule], [variable("x", "3"), parameter("k", "4")])
    assert model.algebraic == {"x": X_STATE**2 - K}
    assert model.initial_values() == {"x": 3}
    assert not model.states[0].nonnegative
    assert model.parameter_names == ("k",)


def test_the_search_begins_at_an_initial_assignment_or_at_one():
    rule = zero(apply("minus", apply("times", "x", "x"), "k"))
    first = listed("InitialAssignments", initially("x", apply("minus", "k")))
    assert read([rule], [variable("x"), parameter("k", "4")], first).initial_values() == {"x": -4}
    assert read([rule], [variable("x"), parameter("k", "4")]).initial_values() == {"x": 1}


def test_equations_that_only_hold_together_are_kept_together():
    rules = [zero(apply("minus", apply("times", "x", "y"), "1")), zero(apply("minus", "x", apply("exp", "y")))]
    model = read(rules, [variable("x", "2"), variable("y", "3")])
    found = set(model.algebraic.values())
    assert found == {X_STATE * Y_STATE - 1, X_STATE - sympy.exp(Y_STATE)}
    assert set(model.algebraic) == {"x", "y"}


def test_a_species_without_a_formula_is_an_amount():
    kinds = species("A", "V", 'initialConcentration="3"')
    lists = [listed("Compartments", compartment("V", "2")), listed("Species", kinds)]
    lists += [listed("Rules", zero(apply("minus", apply("exp", "A"), "5")))]
    model = read_sbml(sbml(*lists))
    assert model.algebraic == {"A": sympy.exp(symbol("A") / symbol("V")) - 5}
    assert model.initial_values() == {"A": 6}
    assert model.states[0].nonnegative


def test_what_follows_from_an_equation_without_a_formula_is_still_a_formula():
    rules = [zero(apply("minus", apply("exp", "x"), "k")), zero(apply("minus", "y", apply("times", "2", "x")))]
    model = read(rules, [variable("x"), variable("y"), parameter("k", "4")])
    assert model.algebraic == {"x": sympy.exp(X_STATE) - K}
    assert model.assignments == {"y": 2 * X_STATE}


def test_an_initial_value_that_needs_the_solution_is_refused():
    rules = [zero(apply("minus", apply("exp", "x"), "k")), assigned("z", "x"), rate("y", "1")]
    parameters = [variable("x"), variable("y"), variable("z"), parameter("k", "4")]
    with pytest.raises(UnsupportedSBML, match="`y`: its initial value depends on `x`"):
        read(rules, parameters, listed("InitialAssignments", initially("y", "z")))


def test_the_value_at_another_time_is_no_unknown():
    rule = zero(apply("minus", "x", apply("times", "2", delayed("s", "1"))))
    model = read([rule, rate("s", "1")], [variable("x", "1"), variable("s", "1")])
    assert model.assignments == {"x": 2 * delay(symbol("s"), 1)}


def test_a_quantity_that_depends_on_what_it_was_stays_an_equation():
    rule = zero(apply("minus", apply("plus", "x", delayed("x", "1")), TIME))
    model = read([rule], [variable("x", "0")])
    assert model.algebraic == {"x": X_STATE + delay(X_STATE, 1) - time}
    assert model.assignments == {}


def test_a_delay_that_depends_on_the_unknown_is_refused():
    rule = zero(apply("minus", "x", delayed("s", "x")))
    with pytest.raises(UnsupportedSBML, match="algebraic rule number 1: it does not determine `x`"):
        read([rule, rate("s", "1")], [variable("x", "1"), variable("s", "1")])


def test_a_quantity_that_events_assign_is_left_to_them():
    text = sbml(
        listed("Parameters", variable("x", "1"), variable("y", "2")),
        listed("Rules", zero(apply("minus", apply("plus", "x", "y"), "3"))),
        listed("Events", event("e", apply("gt", TIME, "1"), {"x": "2"})),
    )
    model = read_sbml(text)
    assert model.assignments == {"y": 3 - X_STATE}
    assert model.state_names == ("x",)


def test_an_event_on_what_a_rule_determines_is_refused():
    text = sbml(
        listed("Parameters", variable("x", "1")),
        listed("Rules", zero(apply("minus", "x", TIME))),
        listed("Events", event("e", apply("gt", TIME, "1"), {"x": "2"})),
    )
    with pytest.raises(UnsupportedSBML, match="it determines `x`, which an event assigns"):
        read_sbml(text)


def test_an_equation_holds_at_all_times():
    # 0 = x exp(x) - s with s = t + e: x is Lambert's function of s, which is 1 at s = e.
    rules = [zero(apply("minus", apply("times", "x", apply("exp", "x")), "s")), rate("s", "1")]
    model = read(rules, [variable("x", "0.9"), variable("s", repr(maths.e))])
    assert set(model.algebraic) == {"x"}
    solution = simulate(model, TIMES, tolerance=TIGHT).check()
    x = solution.states[:, model.state_names.index("x")].tolist()
    # The solver's relative tolerance is 1e-10, which adds up over some tens of steps.
    assert x == pytest.approx([float(sympy.LambertW(t + maths.e)) for t in TIMES], rel=1e-8)


def test_an_equation_is_written_and_read_back():
    rules = [zero(apply("minus", apply("times", "x", "x"), "k")), rate("y", apply("minus", "x"))]
    model = read(rules, [variable("x", "3"), variable("y", "1"), parameter("k", "4")])
    assert read_sbml(write_sbml(model)) == model
    linear = KineticModel("m", model.states, model.parameters, rates=model.rates, algebraic={"x": X_STATE - K})
    assert read_sbml(write_sbml(linear)) == linear


# Refusals

EITHER = zero(apply("minus", "x", "y"), "either")
TWO = zero(apply("minus", "x", "y"), "two")
TWICE = zero(apply("minus", apply("exp", apply("minus", "x", "y")), "1"), "twice")
SINGULAR = zero(apply("times", apply("minus", "k", "1"), "x"))
CANCELLING = zero(apply("times", apply("minus", apply("plus", "k", "l"), "0.3"), "x"))
IDLE = zero(apply("times", apply("minus", "y", "y"), "x"))


@pytest.mark.parametrize(
    ("rules", "parameters", "part"),
    [
        ([EITHER], [variable("x", "1"), variable("y", "1")], "`either`: it may determine any of `x`, `y`"),
        ([EITHER], [variable("x"), variable("y")], "`either`: it may determine any of `x`, `y`"),
        ([TWO, TWICE], [variable("x"), variable("y")], "`two` together with .*`twice`: they do not determine all of"),
        ([SINGULAR], [variable("x"), parameter("k", "1")], "algebraic rule number 1: it does not determine `x`"),
        ([CANCELLING], [variable("x"), parameter("k", "0.1"), parameter("l", "0.2")], "does not determine `x`"),
        ([IDLE], [variable("x"), parameter("y", "1")], "does not determine `x`"),
    ],
)
def test_rules_that_are_refused_are_named(rules, parameters, part):
    with pytest.raises(UnsupportedSBML, match=part):
        read(rules, parameters)


def test_a_rule_on_what_reactions_move_is_overdetermined():
    # The standard forbids it; the reactions may conserve the total, and nothing in the file says so.
    kinds = species("A", "V", 'initialAmount="1"') + species("B", "V", 'initialAmount="2"')
    lists = [listed("Compartments", compartment("V")), listed("Species", kinds)]
    lists += [listed("Rules", zero(apply("minus", apply("plus", "A", "B"), "3")))]
    lists += [listed("Reactions", reaction("J", reference("A"), reference("B"), "A"))]
    with pytest.raises(InvalidSBML, match="overdetermined"):
        read_sbml(sbml(*lists))


# What the model is good for


def test_a_solved_model_is_written_and_read_back():
    rules = [zero(apply("minus", apply("plus", apply("power", "x", "3"), "S"), "k")), rate("S", apply("minus", "x"))]
    model = read(rules, [variable("x"), variable("S", "0.1"), parameter("k", "2")])
    assert read_sbml(write_sbml(model)) == model


def test_gradients_through_a_determined_quantity_agree_with_finite_differences():
    # x + a y = S, b x - y = 1, dS/dt = -x y: nothing moves but what the two rules determine.
    rules = [
        zero(apply("minus", apply("plus", "x", apply("times", "a", "y")), "S")),
        zero(apply("minus", apply("minus", apply("times", "b", "x"), "y"), "1")),
        rate("S", apply("minus", apply("times", "x", "y"))),
    ]
    names = [variable("x"), variable("y"), variable("S", "3"), parameter("a", "0.7"), parameter("b", "1.3")]
    model = read(rules, names)
    nominal = torch.tensor(list(model.nominal().values()), dtype=torch.float64)

    def outputs(parameters: torch.Tensor) -> torch.Tensor:
        return table(model, ["S", "x", "y"], parameters)

    jacobian = torch.autograd.functional.jacobian(outputs, nominal)
    for column in range(len(nominal)):
        step = torch.zeros_like(nominal)
        step[column] = 1e-5
        difference = (outputs(nominal + step) - outputs(nominal - step)) / 2e-5
        # Central differences of solutions with an error near 1e-10: 1e-10 / 1e-5, plus the step squared.
        torch.testing.assert_close(jacobian[..., column], difference, rtol=1e-5, atol=1e-5)
    assert (jacobian.abs().amax(dim=(0, 1)) > 0.1).all()
