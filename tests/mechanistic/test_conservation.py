"""Conserved totals and positivity: exact identities, and verdicts that numbers confirm."""

import time as clock
from dataclasses import replace

import numpy as np
import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import Matrix, Piecewise, Rational, cos, exp, log, sqrt, symbols, tanh

from mechanistic import library
from mechanistic.conservation import (
    Outcome,
    check_positivity,
    conserved_totals,
    left_null_space,
)
from mechanistic.model import Event, KineticModel, Parameter, Reaction, State, delay, symbol, time

MATRICES = st.integers(1, 6).flatmap(
    lambda rows: st.integers(1, 6).flatmap(
        lambda columns: st.lists(
            st.lists(st.integers(-3, 3), min_size=columns, max_size=columns), min_size=rows, max_size=rows
        )
    )
)


def network(*equations, **options):
    """A model with mass action along the equations."""
    names = dict.fromkeys(s for e in equations for s in Reaction("r", e, 1).stoichiometry)
    states = [State(name) for name in names]
    return KineticModel(
        "network", states, reactions=[Reaction(f"r{i}", e, 1) for i, e in enumerate(equations)], **options
    )


def texts(model):
    return [str(total) for total in conserved_totals(model)]


@given(MATRICES)
@settings(max_examples=100, deadline=None)
def test_the_left_null_space_annihilates_and_has_the_full_dimension(rows):
    matrix = Matrix(rows)
    basis = left_null_space(rows)
    assert len(basis) == matrix.rows - matrix.rank()
    for vector in basis:
        assert all(isinstance(value, int) for value in vector)
        assert not any(Matrix([vector]) * matrix)
        assert np.gcd.reduce(vector) == 1
        assert next(value for value in vector if value) > 0
    if basis:
        assert Matrix(basis).rank() == len(basis)


@given(MATRICES)
@settings(max_examples=60, deadline=None)
def test_totals_span_the_whole_left_null_space(rows):
    states = [State(f"S{i}") for i in range(len(rows))]
    reactions = [Reaction(f"r{j}", {f"S{i}": row[j] for i, row in enumerate(rows)}, 1) for j in range(len(rows[0]))]
    model = KineticModel("random", states, reactions=reactions)
    totals = conserved_totals(model)
    vectors = Matrix([[total.weights.get(s.name, 0) for s in states] for total in totals]) if totals else None
    expected = Matrix(rows).rows - Matrix(rows).rank()
    assert len(totals) == expected
    if vectors is not None:
        assert vectors.rank() == expected
        assert not any(vectors * model.stoichiometry())
        assert len({total.name for total in totals}) == expected


def test_rational_stoichiometry_is_exact():
    rows = [[Rational(1, 3)], [Rational(-1, 7)]]
    assert left_null_space(rows) == ((3, 7),)


def test_without_reactions_every_state_is_a_total():
    assert texts(KineticModel("still", (State("A"), State("B")))) == ["A", "B"]
    assert left_null_space(sympy.zeros(0, 0)) == ()
    assert left_null_space(sympy.zeros(2, 0)) == ((1, 0), (0, 1))


def test_totals_read_as_a_biologist_writes_them():
    dimers = network("STAT -> pSTAT", "2 pSTAT -> pSTAT_pSTAT", "pSTAT_pSTAT -> 2 STAT")
    assert texts(dimers) == ["STAT + pSTAT + 2 pSTAT_pSTAT"]
    total = conserved_totals(dimers)[0]
    stat, single, double = symbols("STAT pSTAT pSTAT_pSTAT", real=True)
    assert total.expression == stat + single + 2 * double
    assert total.name == "total_STAT"
    enzyme = network("E + S -> ES", "ES -> E + S", "ES -> E + P")
    assert texts(enzyme) == ["E + ES", "S + ES + P"]


def test_a_difference_is_conserved_where_no_sum_is():
    assert texts(network("-> A + B", "A + B ->")) == ["A - B"]


def test_extreme_rays_are_preferred_to_what_elimination_gives():
    """Two moieties that meet in a complex: the plain basis may mix them with signs, the rays do not."""
    for equations in (
        ("A + B -> AB", "AB + C -> ABC", "ABC -> A + B + C"),
        ("A -> X + Y", "X -> B", "Y -> C", "B + C -> A"),
    ):
        for total in conserved_totals(network(*equations)):
            assert all(weight > 0 for weight in total.weights.values())


def test_moieties_of_the_mapk_cascade():
    assert texts(library.huang_ferrell_mapk()) == [
        "KKK + KKKp + KKK_E1 + KKKp_E2 + KK_KKKp + KKp_KKKp",
        "E1 + KKK_E1",
        "E2 + KKKp_E2",
        "KK + KKp + KKpp + KK_KKKp + KKp_KKPase + KKp_KKKp + KKpp_KKPase + K_KKpp + Kp_KKpp",
        "KKPase + KKp_KKPase + KKpp_KKPase",
        "K + Kp + Kpp + K_KKpp + Kp_KPase + Kp_KKpp + Kpp_KPase",
        "KPase + Kp_KPase + Kpp_KPase",
    ]


def test_states_under_a_rate_rule_take_part_only_when_it_is_zero():
    x, y = symbols("x y")
    model = KineticModel("rules", (State("x"), State("y"), State("z")), rates={"x": -x, "y": y - y, "z": 1})
    assert texts(model) == ["y"]


def test_five_hundred_states_take_seconds():
    """Ten blocks of 20 states that turn into one another in a ring and at random, and of 30 complexes of two each."""
    draws = np.random.default_rng(0)
    names = [f"S{i}" for i in range(500)]
    reactions = []
    for block in range(10):
        own = names[50 * block : 50 * block + 50]
        for j in range(80):
            a, b = draws.choice(20, 2, replace=False) if j >= 20 else (j, (j + 1) % 20)
            change = {own[a]: -1, own[b]: -1, own[j]: 1} if 20 <= j < 50 else {own[a]: -1, own[b]: 1}
            reactions.append(Reaction(f"r{block}_{j}", change, 1))
    model = KineticModel("large", [State(name) for name in names], reactions=reactions)
    begin = clock.process_time()
    totals = conserved_totals(model)
    # A third of a second on an idle core of 2024; the bound only catches another order of growth.
    assert clock.process_time() - begin < 10.0
    assert len(totals) == 10
    for block, total in enumerate(totals):
        own = names[50 * block : 50 * block + 50]
        assert total.weights == {name: 1 if i < 20 else 2 for i, name in enumerate(own)}


def one_state(rate, *, equation="-> A", parameters=(("k", 1.0), ("K", 2.0)), others=("B",)):
    """A state `A` that one reaction moves."""
    return KineticModel(
        "one",
        (State("A"), *(State(name) for name in others)),
        tuple(Parameter(name, value) for name, value in parameters),
        (Reaction("move", equation, rate),),
    )


A, B, k, K = symbols("A B k K")


@pytest.mark.parametrize(
    ("equation", "rate"),
    [
        ("A ->", k * A),
        ("A ->", k * A * B / (K + A)),
        ("A ->", k * A**2),
        ("A ->", k * sqrt(A)),
        ("A ->", A * log(K / A)),
        ("A -> B", k * A - K * B),
        ("-> A", k * B**3 / (K**3 + B**3)),
        ("-> A", k * exp(-B * time)),
        ("-> A", k * (B - 1) ** 2),
        ("-> A", k * (1 - B / (K + B))),
        ("-> A", k + (K - k) * 1 / (1 + B)),
        ("-> A", log(1 + k * B)),
        ("-> A", tanh(k * B)),
        ("-> A", abs(B - K)),
        ("-> A", sympy.Max(B - K, 0)),
        ("-> A", Piecewise((0, B < K), (k, True))),
    ],
)
def test_what_biology_writes_is_proven(equation, rate):
    assert check_positivity(one_state(rate, equation=equation)).holds


@pytest.mark.parametrize(
    ("equation", "rate"),
    [
        ("A ->", k),
        ("A ->", k * B),
        ("A -> 2 B", k * A + K * B),
        ("-> A", k - B),
        ("-> A", k * (1 - K * B / (1 + B))),
        ("-> A", log(B + k)),
        ("-> A", Piecewise((k, B < K), (k - B, True))),
        ("-> A", cos(B)),
    ],
)
def test_a_refutation_carries_numbers_that_check(equation, rate):
    model = one_state(rate, equation=equation)
    report = check_positivity(model)
    entry = report.states[0]
    assert not report.holds
    assert entry.outcome is Outcome.REFUTED
    assert entry.reactions == ("move",)
    assert entry.derivative < 0.0
    point = {symbols(name, real=True): value for name, value in entry.counterexample.items()}
    derivative = model.derivatives()["A"].xreplace({symbols("A", real=True): sympy.S.Zero}).xreplace(point)
    assert float(derivative) == pytest.approx(entry.derivative, rel=1e-12)
    assert all(value >= 0.0 for value in entry.counterexample.values())
    assert "`move`" in str(report)


def test_the_culprit_among_several_reactions_is_named():
    model = KineticModel(
        "leak",
        (State("A"), State("B")),
        (Parameter("k", 1.0),),
        (Reaction("good", "A ->", k * A), Reaction("bad", "A -> B", k), Reaction("fine", "-> A", k * B)),
    )
    entries = check_positivity(model).states
    assert [entry.outcome for entry in entries] == [Outcome.REFUTED, Outcome.PROVEN]
    assert entries[0].reactions == ("bad",)
    assert entries[0].at_nominal


def test_reactions_that_cancel_are_proven_together():
    model = KineticModel(
        "exchange",
        (State("A"), State("B")),
        (Parameter("k", 1.0),),
        (Reaction("out", "A -> B", k * B / 2), Reaction("in", "B -> A", k * B)),
    )
    assert check_positivity(model).states[0].outcome is Outcome.PROVEN


def test_what_cannot_be_decided_is_called_unproven():
    """(B - k)^2 written out is a square that signs of terms cannot see, and no number refutes it."""
    report = check_positivity(one_state(B**2 - 2 * k * B + k**2))
    assert report.states[0].outcome is Outcome.UNPROVEN
    assert not report.holds
    assert "unproven" in str(report)


def test_negative_parameters_count_with_their_sign():
    assert check_positivity(one_state(-k * B, parameters=(("k", -1.0),))).holds
    refuted = check_positivity(one_state(k * B, parameters=(("k", -1.0),))).states[0]
    assert refuted.outcome is Outcome.REFUTED
    assert refuted.counterexample["k"] < 0.0


def test_only_non_negative_states_are_judged():
    report = check_positivity(library.van_der_pol())
    assert report.states == ()
    assert report.holds


def test_a_rate_rule_is_judged_as_one():
    model = KineticModel("rule", (State("A"), State("B")), (Parameter("k", 1.0),), rates={"A": B - k * A, "B": -k})
    first, second = check_positivity(model).states
    assert first.outcome is Outcome.PROVEN
    assert (second.outcome, second.reactions) == (Outcome.REFUTED, ("rate rule",))


def test_the_report_escapes_foreign_names():
    model = KineticModel("<b>", (State("<i>"),), reactions=(Reaction("<script>alert(1)</script>", {"<i>": -1}, 1),))
    html = check_positivity(model)._repr_html_()
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert "<i>" not in html


def test_a_state_that_was_not_zero_before_can_be_pulled_below_zero():
    k, x, y = symbol("k"), symbol("x"), symbol("y")
    lagged = delay(x, symbol("lag"))
    parameters = [Parameter("k", 1.0), Parameter("lag", 2.0)]
    # dx/dt = -k x(t - lag) goes through zero: x is still positive a lag before it is zero.
    assert not check_positivity(KineticModel("m", [State("x", 1.0)], parameters, rates={"x": -k * lagged})).holds
    # What flows in from the past of another non-negative state does no harm.
    states = [State("x", 1.0), State("y", 0.0)]
    inflow = KineticModel("m", states, parameters, rates={"x": -k * x, "y": k * lagged - k * y})
    assert check_positivity(inflow).holds


@pytest.mark.parametrize(("change", "holds"), [(symbol("x") / 2, True), (symbol("x") - 1, False)])
def test_what_an_event_sets_counts(change, holds):
    x = symbol("x")
    event = Event("jump", time > 1, {"x": change})
    model = KineticModel("m", [State("x", 1.0)], rates={"x": -x}, events=(event,))
    report = check_positivity(model)
    assert report.holds is holds
    assert holds or "`event jump`" in str(report)


def test_nothing_is_proven_of_an_algebraic_state():
    x, y = symbol("x"), symbol("y")
    model = KineticModel("m", [State("x", 1.0), State("y", 1.0)], rates={"x": -x}, algebraic={"y": y - x + 2})
    assert not check_positivity(model).holds


def exchange(*events, **parts):
    """A and B turn into each other, C decays; the events jump."""
    states = (State("A", 1.0), State("B", 1.0), State("C", 1.0))
    reactions = (Reaction("r", "A -> B", k * A), Reaction("back", "B -> A", B), Reaction("loss", "C ->", symbol("C")))
    return KineticModel("exchange", states, [Parameter("k", 1.0)], reactions, events=events, **parts)


def now(name, assignments, **options):
    """An event whose values are those of the moment at which it happens."""
    return Event(name, time > 1, assignments, values_at_trigger=False, **options)


@pytest.mark.parametrize(
    ("assignments", "kept"),
    [
        ({"A": symbol("A") + 1}, []),
        ({"C": 5}, ["A + B"]),
        ({"A": 0, "B": symbol("A") + symbol("B")}, ["A + B"]),
        ({"A": 0, "B": symbol("B") + symbol("A") / 2}, []),
        ({"A": symbol("A") - k * symbol("C"), "B": symbol("B") + k * symbol("C")}, ["A + B"]),
        ({"A": 0.5 * symbol("A"), "B": symbol("B") + 0.5 * symbol("A")}, ["A + B"]),
        ({"A": symbol("A") * time, "B": symbol("B") / time}, []),
    ],
)
def test_a_total_survives_an_event_that_only_moves_amounts(assignments, kept):
    assert texts(exchange(now("jump", assignments))) == kept


def test_an_event_may_tie_what_reactions_leave_free():
    """Without reactions every state is a total; a transfer leaves the sum."""
    states = (State("A"), State("B"), State("C"))
    move = {"A": symbol("A") / 2, "B": symbol("B") + symbol("A") / 2}
    assert texts(KineticModel("still", states, events=[now("move", move)])) == ["A + B", "C"]


def test_values_older_than_an_event_conserve_nothing():
    move = {"A": symbol("A") - 1, "B": symbol("B") + 1}
    at_trigger = Event("move", time > 1, move)
    assert texts(exchange(at_trigger)) == ["A + B"]
    # Late, or beside another event, the states have changed since the values were computed.
    assert texts(exchange(replace(at_trigger, delay=1))) == []
    assert texts(exchange(at_trigger, now("other", {"C": 1}))) == []
    assert texts(exchange(now("move", move, delay=1), now("other", {"C": 1}))) == ["A + B"]


def test_an_algebraic_state_is_in_no_total_and_a_fast_reaction_is_one_like_others():
    base = exchange()
    states = (*base.states, State("D"))
    assert texts(replace(base, states=states)) == ["A + B", "D"]
    assert texts(replace(base, states=states, algebraic={"D": symbol("D") - symbol("A")})) == ["A + B"]
    fast = (*base.reactions, Reaction("quick", "B -> 2 C", symbol("B") - symbol("C"), fast=True))
    assert texts(replace(base, reactions=fast)) == []
    assert texts(network("A -> B")) == ["A + B"]


def test_fast_reactions_have_to_point_inwards_by_themselves():
    quick = Reaction("quick", "A -> B", A - K * B, fast=True)
    states, parameters = (State("A"), State("B")), [Parameter("K", 2.0), Parameter("k", 1.0)]
    assert check_positivity(KineticModel("m", states, parameters, [quick, Reaction("in", "-> A", k)])).holds
    # A slow inflow cannot make up for what a fast reaction takes.
    taking = Reaction("quick", "A -> B", k - B, fast=True)
    report = check_positivity(KineticModel("m", states, parameters, [taking, Reaction("in", "-> A", 2 * k)]))
    assert report.states[0].outcome is Outcome.UNPROVEN
    assert "quick" in report.states[0].reactions


def test_nothing_is_refuted_by_points_that_satisfy_no_equation():
    """A is drained at a constant rate, and refuted; with an algebraic equation the search cannot tell."""
    drained = KineticModel("m", (State("A"), State("B")), [Parameter("k", 1.0)], [Reaction("out", "A ->", k)])
    assert check_positivity(drained).states[0].outcome is Outcome.REFUTED
    held = replace(drained, algebraic={"B": B - A})
    assert check_positivity(held).states[0].outcome is Outcome.UNPROVEN
