"""Models written as Antimony: the equations come back the same, and only what the docstring names is lost."""

from dataclasses import replace

import antimony
import libsbml
import numpy as np
import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import Rational

from mechanistic import library
from mechanistic.errors import ModelError
from mechanistic.model import Event, KineticModel, Parameter, Reaction, State, delay, symbol, time
from mechanistic.sbml import read_antimony, write_antimony
from tests.mechanistic.test_sbml_writer import AWKWARD, library_models

A, B, K = symbol("A"), symbol("B"), symbol("k")
RENAMED = {
    "friberg_neutropenia": {"gamma": "gamma_"},
    "lotka_volterra": {"gamma": "gamma_"},
    "organoid_gompertz": {"volume": "volume_", "growth": "growth"},
    "organoid_logistic": {"volume": "volume_", "growth": "growth"},
}
"""Words of the language that name something in a model of the library."""


def kept(model: KineticModel, names: dict[str, str] | None = None) -> KineticModel:
    """What of a model Antimony has a place for, with other names."""
    names = names or {}
    other = {symbol(old): symbol(new) for old, new in names.items()}
    rules = {**model.assignments, **model.observables}
    # Quantities and reactions share one set of ids.
    taken = {*model.state_names, *model.parameter_names, *rules}
    return replace(
        model,
        states=[State(s.name, s.initial.xreplace(other)) for s in model.states],
        parameters=[Parameter(names.get(p.name, p.name), p.value, "", p.description) for p in model.parameters],
        reactions=[
            Reaction(f"{r.name}_2" if r.name in taken else r.name, r.stoichiometry, r.rate.xreplace(other))
            for r in model.reactions
        ],
        rates={name: rate.xreplace(other) for name, rate in model.rates.items()},
        assignments={name: value.xreplace(other) for name, value in rules.items()},
        observables={},
        source="",
        time_unit="",
    )


@pytest.mark.parametrize("name", library_models())
def test_models_of_the_library_come_back_with_equal_equations(name):
    model = getattr(library, name)()
    back = read_antimony(write_antimony(model))
    assert back == kept(model, RENAMED.get(name))
    assert back.initial_values() == model.initial_values()
    assert list(back.nominal().values()) == list(model.nominal().values())


def test_what_has_no_place_stands_in_comments():
    text = write_antimony(replace(AWKWARD, source="Nobody 2000"))
    comments = [line.removeprefix("// ") for line in text.splitlines() if line.startswith("// ")]
    for line in ("Nobody 2000", "A: nmol, scale 3.5", "k: 1/h", "_9lives is called 9lives"):
        assert line in comments
    assert "States are amounts; the unit of time is h." in comments
    assert any(line.startswith("Observables: ") for line in comments)


def test_awkward_names_and_numbers_keep_their_equations():
    """Derivatives of both models, evaluated at the same numbers."""
    back = read_antimony(write_antimony(AWKWARD))
    assert len(back.states) == len(AWKWARD.states)
    assert back.stoichiometry() == AWKWARD.stoichiometry()
    draws = np.random.default_rng(0).uniform(0.5, 2.0, (3, len(AWKWARD.states)))
    for values in draws:
        found = []
        for model in (AWKWARD, back):
            names = [*model.state_names, *model.parameter_names]
            numbers = [*values, *np.linspace(0.5, 2.0, len(model.parameters))]
            at = {symbol(name): number for name, number in zip(names, numbers, strict=True)} | {time: 0.75}
            found.append([float(model.expand(rate).subs(at)) for rate in model.derivatives().values()])
        np.testing.assert_allclose(found[0], found[1], rtol=1e-13)


NUMBERS = st.sampled_from([sympy.Integer(2), sympy.Integer(-3), Rational(2, 7), Rational(-1, 2), sympy.Float(1.25)])
TERMS = st.recursive(
    st.one_of(NUMBERS, st.sampled_from([A, B, K, time])),
    lambda inner: st.one_of(
        st.builds(lambda a, b: a + b, inner, inner),
        st.builds(lambda a, b: a * b, inner, inner),
        st.builds(lambda a, b: a / (1 + b**2), inner, inner),
        st.builds(lambda a, n: a**n, inner, st.sampled_from([2, 3, -1])),
        st.builds(lambda a, b: sympy.Piecewise((a, b < A), (b, True)), inner, inner),
        st.builds(lambda a: sympy.exp(-(a**2)), inner),
    ),
    max_leaves=8,
).filter(lambda e: e.is_finite is not False and not e.has(sympy.nan, sympy.zoo, sympy.oo))


@given(TERMS)
@settings(max_examples=60, deadline=None)
def test_every_expression_keeps_its_value(rate):
    model = KineticModel("m", [State("A"), State("B")], [Parameter("k", 1.0)], [Reaction("r", "A -> B", rate)])
    back = read_antimony(write_antimony(model)).reactions[0].rate
    for values in ((0.5, 2.0, 1.5, 0.25), (2.0, 0.5, -1.5, 4.0)):
        at = dict(zip((A, B, K, time), map(sympy.Float, values), strict=True))
        expected, found = rate.subs(at), back.subs(at)
        assert expected == found or abs(expected - found) <= 1e-12 * abs(expected)


@given(st.text(st.characters(exclude_categories=["C", "Z"], include_characters=' \\"`;/'), max_size=20))
@settings(max_examples=60, deadline=None)
def test_no_text_can_break_out(text):
    """Foreign names and descriptions stay what they are; none of them becomes a statement."""
    model = KineticModel(text, [State("A", 1)], [Parameter("k", 0.5, text, text)], [Reaction("r", "A ->", K * A)])
    back = read_antimony(write_antimony(model))
    assert back.nominal() == {"k": 0.5}
    assert back.reactions == model.reactions
    assert back.parameters[0].description.strip() in ("", text.strip())


def test_events_are_written_whole():
    event = Event(
        "e",
        sympy.And(time >= 2, A < 3),
        {"B": 0, "A": A + B},
        delay=K,
        priority=2,
        persistent=False,
        initially=False,
        values_at_trigger=False,
    )
    states, parameters = [State("A", 1), State("B", 2)], [Parameter("k", 1.0)]
    text = write_antimony(KineticModel("m", states, parameters, events=[event]))
    antimony.clearPreviousLoads()
    assert antimony.loadAntimonyString(text) >= 0
    document = libsbml.readSBMLFromString(antimony.getSBMLString("m"))
    antimony.clearPreviousLoads()
    written = document.getModel().getEvent(0)
    trigger = written.getTrigger()
    assert (trigger.getInitialValue(), trigger.getPersistent()) == (False, False)
    assert not written.getUseValuesFromTriggerTime()
    parts = [trigger, written.getDelay(), written.getPriority()]
    parts += [written.getEventAssignment(i) for i in range(2)]
    formulas = [libsbml.formulaToL3String(part.getMath()) for part in parts]
    assert formulas == ["(time >= 2) && (A < 3)", "k", "2", "0", "A + B"]


def test_events_and_delays_come_back_equal():
    model = KineticModel(
        "late",
        [State("A", 1), State("B", 2)],
        [Parameter("k", 1.0)],
        [Reaction("r", "A -> B", K * delay(A, K / 2) + delay(A * B + time, 2))],
        events=[
            Event("first", (time > 2) | ((B >= K) & (A < 3)), {"B": 0, "A": A + B}, K, 3 * K, False, False, False),
            Event("second", delay(A, 1) > 1, {"A": 1}),
        ],
    )
    assert read_antimony(write_antimony(model)) == model


def test_states_and_parameters_keep_their_order():
    names = ("S3", "S1", "S2")
    rates = {"S1": symbol("S3") * symbol("k2"), "S2": symbol("S3") * symbol("k1"), "S3": -symbol("S3")}
    model = KineticModel(
        "m", [State(name) for name in names], [Parameter("k1", 1.0), Parameter("k2", 2.0)], rates=rates
    )
    back = read_antimony(write_antimony(model))
    assert (back.state_names, back.parameter_names) == (names, ("k1", "k2"))


def test_a_stoichiometry_of_many_digits_is_refused():
    """The library writes six of them."""
    reaction = Reaction("r", {"A": Rational("6.02214179")}, K)
    with pytest.raises(ModelError, match="reactions do not come back"):
        write_antimony(KineticModel("m", [State("A")], [Parameter("k", 1.0)], [reaction]))


def test_an_algebraic_equation_comes_back_where_it_is_evident_what_it_determines():
    states, decay = [State("A", 1), State("B")], Reaction("r", "A ->", A)
    model = KineticModel("m", states, reactions=[decay], algebraic={"B": B**3 + B - A})
    text = write_antimony(model)
    assert "0 = B + B^3 + -1*A" in text
    assert read_antimony(text).algebraic == model.algebraic
    with pytest.raises(ModelError, match="may determine any of `A`, `B`"):
        write_antimony(replace(model, reactions=[]))


def test_fast_reactions_are_refused_by_name():
    reactions = [Reaction("quick", "A -> B", A - B, fast=True), Reaction("slow", "A ->", A)]
    with pytest.raises(ModelError, match="`quick` is fast") as refusal:
        write_antimony(KineticModel("m", [State("A"), State("B")], reactions=reactions))
    assert len(refusal.value.problems) == 1


def test_what_cannot_be_written_is_listed():
    with pytest.raises(ModelError, match="gamma"):
        write_antimony(KineticModel("m", [State("A")], [], [Reaction("r", "A ->", sympy.gamma(A))]))


def test_a_file_is_written(tmp_path):
    path = tmp_path / "model.ant"
    model = library.one_compartment_oral()
    assert write_antimony(model, path) == path.read_text("utf-8")
    assert read_antimony(path) == kept(model)
