"""The immutable model: identity by content, exact stoichiometry, and errors that list everything."""

import copy
import pickle
import subprocess
import sys

import pytest
import sympy
from hypothesis import given
from hypothesis import strategies as st
from sympy import Function, Piecewise, Rational, symbols

from mechanistic.errors import ModelError
from mechanistic.model import (
    Event,
    FrozenMap,
    KineticModel,
    Parameter,
    Reaction,
    State,
    canonical,
    delay,
    format_equation,
    parse_equation,
    symbol,
    time,
)

A, B, k, q, V = symbols("A B k q V")


def two_states(**changes):
    options = {
        "name": "pair",
        "states": (State("A", q, unit="mg"), State("B")),
        "parameters": (Parameter("k", 0.5, "1/h"), Parameter("q", 3.0, "mg"), Parameter("V", 2.0, "L")),
        "reactions": (Reaction("go", "A -> 2 B", k * A / V), Reaction("gone", "B ->", k * B)),
        "observables": {"c": A / V},
    }
    return KineticModel(**(options | changes))


def test_symbols_are_matched_by_name_whatever_their_assumptions():
    loose, positive = symbols("k"), symbols("k", positive=True)
    assert canonical(loose) == canonical(positive) == symbol("k")
    assert two_states() == two_states(observables={"c": sympy.Symbol("A", integer=True) / V})


def test_time_is_not_a_parameter_called_time():
    assert time != symbol("time")
    model = KineticModel("clock", (State("x"),), (Parameter("time", 2.0),), rates={"x": symbol("time") * time})
    assert model.derivatives()["x"].free_symbols == {time, symbol("time")}
    assert canonical(sympy.Symbol("time")) == symbol("time")


@pytest.mark.parametrize("wrong", ["k*A", None, True, A > B, sympy.eye(2)])
def test_text_and_relations_are_no_expressions(wrong):
    with pytest.raises(TypeError):
        canonical(wrong)


@given(st.dictionaries(st.text(max_size=3), st.integers(), max_size=5))
def test_equal_mappings_hash_alike(items):
    backwards = dict(reversed(list(items.items())))
    assert FrozenMap(items) == FrozenMap(backwards) == items
    assert hash(FrozenMap(items)) == hash(FrozenMap(backwards))
    assert list(FrozenMap(items)) == list(items)


def test_a_model_is_its_content():
    model = two_states()
    assert model == two_states()
    assert hash(model) == hash(two_states())
    changes = (
        {"name": "other"},
        {"source": "somewhere"},
        {"time_unit": "h"},
        {"observables": {}},
        {"states": (State("A", q + 1, unit="mg"), State("B"))},
        {"states": (State("A", q, unit="mg"), State("B", nonnegative=False))},
        {"reactions": (Reaction("go", "A -> 2 B", k * A / V), Reaction("gone", "B ->", 2 * k * B))},
    )
    assert len({model, *(two_states(**change) for change in changes)}) == 1 + len(changes)
    assert model != "pair"


def test_the_order_of_observables_is_content():
    """Compiled columns follow it, so models that differ in it must not share a cache entry."""
    first = KineticModel("m", (State("A"),), observables={"x": A, "y": 2 * A})
    second = KineticModel("m", (State("A"),), observables={"y": 2 * A, "x": A})
    assert first != second


def test_models_survive_copies_pickles_and_another_process():
    model = two_states(rates={}, assignments={"half": A / 2})
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert twin == model
        assert hash(twin) == hash(model)
    code = (
        "from sympy import symbols; from mechanistic.model import *; A, k = symbols('A k'); "
        "print(KineticModel('m', (State('A'),), (Parameter('k', 1),), (Reaction('r', 'A ->', k*A),)).digest)"
    )
    here = KineticModel("m", (State("A"),), (Parameter("k", 1),), (Reaction("r", "A ->", k * A),)).digest
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert there.stdout.strip() == here


def test_models_cannot_be_changed():
    model = two_states()
    with pytest.raises(AttributeError):
        model.name = "other"
    with pytest.raises(TypeError):
        model.observables["c"] = A
    with pytest.raises(AttributeError):
        model.states[0].name = "Z"


COEFFICIENTS = st.fractions(min_value=-5, max_value=5, max_denominator=20).filter(lambda value: value != 0)
STATE_NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,4}", fullmatch=True)


@given(st.dictionaries(STATE_NAMES, COEFFICIENTS, max_size=5))
def test_equations_survive_a_round_trip(net):
    exact = {name: Rational(value.numerator, value.denominator) for name, value in net.items()}
    assert parse_equation(format_equation(exact)) == exact


@pytest.mark.parametrize(
    ("text", "net"),
    [
        ("2 A + B -> C", {"A": -2, "B": -1, "C": 1}),
        ("-> A", {"A": 1}),
        ("A ->", {"A": -1}),
        ("2A -> A", {"A": -1}),
        ("2*A -> B", {"A": -2, "B": 1}),
        ("0.5 A -> 1/3 B", {"A": Rational(-1, 2), "B": Rational(1, 3)}),
        ("A + A -> B", {"A": -2, "B": 1}),
    ],
)
def test_equations_are_read(text, net):
    assert parse_equation(text) == net


def test_a_catalyst_drops_out():
    assert Reaction("r", "A + E -> B + E", k).stoichiometry == {"A": -1, "B": 1}


@pytest.mark.parametrize("text", ["A", "A -> B -> C", "A + -> B", "3 -> B", "A & B -> C", "1/0 A -> B", "-2 A -> B"])
def test_unreadable_equations_are_refused(text):
    with pytest.raises(ModelError, match="cannot be read"):
        Reaction("r", text, k)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), k, sympy.pi])
def test_coefficients_are_exact_numbers(value):
    with pytest.raises(ModelError, match="finite number"):
        Reaction("r", {"A": value}, k)


def test_decimal_coefficients_are_the_fractions_they_mean():
    reaction = Reaction("r", {"A": -0.1, "B": 1.5, "C": 0}, k)
    assert reaction.stoichiometry == {"A": Rational(-1, 10), "B": Rational(3, 2)}
    assert reaction.equation == "1/10 A -> 3/2 B"


@pytest.mark.parametrize("trigger", ["A > 3", 1, A, None, A == 3, True])
def test_a_trigger_is_a_condition(trigger):
    with pytest.raises(TypeError, match="expected a condition such as"):
        Event("e", trigger, {"A": 0})


@pytest.mark.parametrize("assignments", [["A"], A, {A: 0}])
def test_new_values_go_by_the_names_of_states(assignments):
    with pytest.raises(TypeError, match="event `e`: expected the new values by the name of their state"):
        Event("e", A > 3, assignments)


def test_the_past_of_a_text_is_refused():
    with pytest.raises(TypeError, match="'A' is text"):
        delay("A", 1)
    with pytest.raises(TypeError, match="'1' is text"):
        delay(A, "1")


def test_derivatives_are_stoichiometry_times_rates_plus_rules():
    model = KineticModel(
        "mixed",
        (State("A"), State("B"), State("x")),
        (Parameter("k", 1.0),),
        (Reaction("r1", "A -> 2 B", k * A), Reaction("r2", "B -> A", k * B)),
        rates={"x": -symbols("x") * time},
    )
    rates = sympy.Matrix([reaction.rate for reaction in model.reactions])
    product = model.stoichiometry() * rates
    derivatives = list(model.derivatives().values())
    assert sympy.simplify(sympy.Matrix(derivatives[:2]) - product[:2, :]) == sympy.zeros(2, 1)
    assert derivatives[2] == -symbol("x") * time


def test_assignments_are_ordered_and_written_out():
    a, b, c = symbols("a b c")
    model = KineticModel(
        "chain", (State("A"),), (Parameter("k", 2.0),), assignments={"c": b + a, "b": 3 * a, "a": k * A}
    )
    assert list(model.assignments) == ["a", "b", "c"]
    assert sympy.expand(model.expand(c)) == 4 * symbol("k") * symbol("A")
    assert model.expand(c).free_symbols == {symbol("k"), symbol("A")}


def test_initial_values_go_through_assignments_and_conditions():
    w = symbols("w")
    model = KineticModel(
        "start",
        (State("A", 2 * w), State("B", Piecewise((q, k > 1), (w, True))), State("C", sympy.exp(-time) / 3)),
        (Parameter("k", 0.5), Parameter("q", 7.0)),
        assignments={"w": k + q},
    )
    assert model.initial_values() == {"A": 15.0, "B": 7.5, "C": 1.0 / 3.0}


def test_undefined_initial_values_are_listed():
    model = KineticModel(
        "bad", (State("A", 1 / k), State("B", sympy.sqrt(-q - 1)), State("C")), (Parameter("k", 0), Parameter("q", 0))
    )
    with pytest.raises(ModelError) as caught:
        model.initial_values()
    assert len(caught.value.problems) == 2


def test_all_problems_are_listed_at_once():
    with pytest.raises(ModelError) as caught:
        KineticModel(
            "wrong",
            (State("A", B), State("A"), State("B", Function("f")(k))),
            (Parameter("kcat", 1.0),),
            (Reaction("r", "A -> C", symbols("kcta") * A), Reaction("r", "B ->", sympy.nan)),
            rates={"B": 1, "D": 1},
            observables={"kcat": A},
        )
    text = str(caught.value)
    for expected in (
        "`A` names more than one quantity",
        "`r` names more than one reaction",
        "observable `kcat` has the name of a quantity",
        "`kcta` is not defined (did you mean `kcat`?)",
        "the function `f` has no meaning",
        "the expression is undefined",
        "`C` is not a state",
        "rate rule of `D`: not a state",
        "`B` already has a rate rule",
        "initial value of `A`: depends on states (B)",
        "initial value of `B`: `k` is not defined",
    ):
        assert expected in text
    assert len(caught.value.problems) >= 11


def test_a_cycle_of_assignments_is_shown():
    a, b = symbols("a b")
    with pytest.raises(ModelError, match=r"(a -> b -> a|b -> a -> b)"):
        KineticModel("loop", (State("A"),), assignments={"a": b, "b": a, "c": a})


def test_other_values_make_another_model():
    model = two_states()
    changed = model.with_values(k=9.0)
    assert changed.nominal() == {"k": 9.0, "q": 3.0, "V": 2.0}
    assert changed.parameters[0].unit == "1/h"
    assert model.nominal()["k"] == 0.5
    assert changed.with_values(k=0.5) == model
    with pytest.raises(ModelError, match="`kk` is not a parameter"):
        model.with_values(kk=1.0)


def test_promotion_names_a_sub_expression():
    model = two_states()
    promoted = model.promote(k / V, "rate", unit="1/h/L")
    assert promoted.nominal()["rate"] == 0.25
    assert promoted.reactions[0].rate == symbol("rate") * symbol("A")
    assert promoted.reactions[1] == model.reactions[1]
    assert promoted.parameters[-1].unit == "1/h/L"
    # Written back, the promoted model is the old one.
    back = promoted.reactions[0].rate.xreplace({symbol("rate"): canonical(k / V)})
    assert sympy.simplify(back - model.reactions[0].rate) == 0


def test_promotion_evaluates_states_at_the_start():
    assert two_states().promote(k * A / V, "flux").nominal()["flux"] == pytest.approx(0.5 * 3.0 / 2.0, rel=1e-15)


def test_promotion_of_what_is_not_there_is_refused():
    with pytest.raises(ModelError, match="does not occur"):
        two_states().promote(k**3, "rate")
    with pytest.raises(ModelError, match="more than one quantity"):
        two_states().promote(k / V, "q")


def test_repr_is_short():
    assert repr(two_states()) == "KineticModel('pair': 2 states, 3 parameters, 2 reactions)"


def test_initial_values_take_floors_of_parameters():
    model = KineticModel("m", (State("a", sympy.floor(symbol("p")) + 1),), (Parameter("p", 2.5),))
    assert model.initial_values() == {"a": 3.0}
