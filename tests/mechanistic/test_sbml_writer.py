"""Models written as SBML: what is read back is equal, whatever the model holds."""

import dataclasses

import libsbml
import pytest
import sympy
from hypothesis import given
from hypothesis import strategies as st
from sympy import Rational

from mechanistic import library
from mechanistic.errors import InvalidSBML, ModelError
from mechanistic.model import FrozenMap, KineticModel, Parameter, Reaction, State, symbol, time
from mechanistic.sbml import read_sbml, write_sbml
from tests.mechanistic.test_sbml_reader import BENCHMARKS
from tests.shared import shared_file

A, B, K = symbol("A"), symbol("B"), symbol("k")


def assert_returns(model: KineticModel) -> None:
    back = read_sbml(write_sbml(model))
    for field in dataclasses.fields(KineticModel):
        assert getattr(back, field.name) == getattr(model, field.name), field.name
        if isinstance(getattr(model, field.name), FrozenMap):
            assert list(getattr(back, field.name)) == list(getattr(model, field.name))
    assert back == model
    assert hash(back) == hash(model)


AWKWARD = KineticModel(
    "a model, with <marks> & “quotes”\nin two lines",
    [
        State("A", 2.0, "nmol", scale=3.5),
        State("B", Rational(1, 3)),
        State("lambda", 0.1 + 0.2, nonnegative=False),
        State("time", 3 * K, nonnegative=False),
        State("still", 0),
        State("half", sympy.sqrt(2) / 2),
        State("huge", sympy.Integer(10) ** 18),
        State("[odd name]", sympy.Float(1e-300)),
    ],
    [
        Parameter("k", 0.1 + 0.2, "1/h", 'a <rate>, "k" & more\tµ'),
        Parameter("r1.k", 1e300),
        Parameter("pi", -0.0),
        Parameter("amounts", 1.0, description="amounts"),
        Parameter("Concentration", 7.0, description="Concentration"),
        Parameter("9lives", 9.0),
        Parameter("r1_k", 2.0),
        Parameter("β", 1.5),
    ],
    [
        Reaction("k", "A + B -> 2 lambda", symbol("r1.k") * A * B + symbol("r1_k")),
        Reaction("r1", {"A": Rational(2, 3), "lambda": sympy.Rational(1, 10**12)}, K * symbol("total") * symbol("β")),
        Reaction("idle", {}, K * symbol("9lives")),
        Reaction("r 1", "-> A", sympy.sign(time - 1) * symbol("amounts")),
    ],
    rates={"time": -symbol("time") + symbol("pi"), "[odd name]": sympy.Mod(time, 24)},
    assignments={"total": A + B, "twice": 2 * symbol("total"), "Cell": sympy.Float(3.0)},
    observables={"[A]": A / symbol("Cell"), "sin": sympy.sin(time), "r1": symbol("twice")},
    source="doi:10.1000/1 & “friends”",
    time_unit="h",
)


def test_a_model_of_awkward_names_and_numbers_returns_equal():
    assert_returns(AWKWARD)


def test_what_is_written_is_valid_for_others():
    document = libsbml.readSBMLFromString(write_sbml(AWKWARD))
    document.setConsistencyChecks(libsbml.LIBSBML_CAT_UNITS_CONSISTENCY, False)
    document.checkConsistency()
    log = document.getErrorLog()
    errors = [log.getError(i) for i in range(log.getNumErrors())]
    assert [e.getMessage() for e in errors if e.getSeverity() >= libsbml.LIBSBML_SEV_ERROR] == []
    assert (document.getLevel(), document.getVersion()) == (3, 2)


def library_models():
    return [name for name in library.__all__ if callable(getattr(library, name))]


@pytest.mark.parametrize("name", library_models())
def test_models_of_the_library_return_equal(name):
    assert_returns(getattr(library, name)())


@pytest.mark.parametrize("name", [name for name in BENCHMARKS if name != "Chen_MSB2009"])
def test_published_pathways_return_equal(name):
    assert_returns(read_sbml(shared_file(f"benchmark_models/{name}/model_{name}.xml")))


def test_the_largest_published_pathway_returns_equal():
    assert_returns(read_sbml(shared_file("benchmark_models/Chen_MSB2009/model_Chen_MSB2009.xml")))


CASES = ["00004", "00031", "00036", "00090", "00115", "00190", "01516", "01562", "01488", "01452"]
CASES += ["00871", "01053", "00962", "00997", "00938", "01400"]  # fast reactions, priorities, delays


@pytest.mark.parametrize("case", CASES)
def test_cases_of_the_test_suite_return_equal(case):
    paths = list(shared_file("conformance/sbml/cases").glob(f"{case}/*.xml"))
    if not paths:
        pytest.skip(f"case {case} is not among the shared cases")
    assert_returns(read_sbml(paths[0]))


@given(st.floats(min_value=-1e300, max_value=1e300, allow_subnormal=False), st.floats(1e-300, 1e300))
def test_every_double_returns_to_the_last_bit(value, initial):
    states = [State("A", initial), State("B", sympy.Float(value) * K)]
    assert_returns(KineticModel("m", states, [Parameter("k", value)]))


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), st.text(min_size=1, max_size=10))
def test_every_text_returns(text, name):
    name = f"n{name}".encode("utf-8", errors="ignore").decode()
    quantities = [Parameter("k", 1.0, text, text), Parameter(name, 2.0) if name != "k" else Parameter("l", 2.0)]
    assert_returns(KineticModel(text, [State("A", symbol(quantities[1].name), text)], quantities, source=text))


@given(st.fractions(-5, 5, max_denominator=50))
def test_every_stoichiometry_returns_exactly(count):
    exact = Rational(count.numerator, count.denominator)
    assert_returns(KineticModel("m", [State("A")], [Parameter("k", 1.0)], [Reaction("r", {"A": exact}, K)]))


def test_everything_that_cannot_be_written_is_listed():
    model = KineticModel(
        "m",
        [State("A", sympy.erf(K))],
        [Parameter("k", float("inf"))],
        [Reaction("r", "A ->", sympy.gamma(A))],
        observables={"o": sympy.Piecewise((A, A > 1))},
    )
    with pytest.raises(ModelError) as refusal:
        write_sbml(model)
    places = [problem.partition(":")[0] for problem in refusal.value.problems]
    assert places == ["initial value of `A`", "parameter `k`", "observable `o`", "rate of reaction `r`"]


def test_a_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "model.xml"
    path.write_text("older")
    text = write_sbml(AWKWARD, path)
    assert path.read_text("utf-8") == text
    with pytest.raises(ModelError):
        write_sbml(KineticModel("m", [State("A", sympy.erf(K))], [Parameter("k", 1.0)]), path)
    assert path.read_text("utf-8") == text
    assert [p.name for p in tmp_path.iterdir()] == ["model.xml"]


def test_notes_that_give_one_name_twice_are_invalid():
    text = write_sbml(KineticModel("m", [State("a b"), State("c d")]))
    with pytest.raises(InvalidSBML, match="`a b`"):
        read_sbml(text.replace('name="c d"', 'name="a b"'))


def test_a_changed_number_wins_over_our_notes():
    text = write_sbml(KineticModel("m", [State("A", 2.0)]))
    assert read_sbml(text.replace('initialAmount="2.0"', 'initialAmount="2.5"')).initial_values() == {"A": 2.5}


def test_a_changed_definition_wins_over_our_notes():
    model = KineticModel("m", [State("A")], observables={"o": sympy.sign(A)})
    text = write_sbml(model).replace('<cn type="integer"> -1 </cn>', '<cn type="integer"> -7 </cn>')
    assert read_sbml(text).observables["o"] == sympy.Piecewise((1, A > 0), (-7, A < 0), (0, True))


def test_a_folder_that_is_not_there_is_named_as_it_was_given(tmp_path):
    path = tmp_path / "nowhere" / "model.xml"
    with pytest.raises(FileNotFoundError) as failure:
        write_sbml(KineticModel("m", [State("A")]), path)
    assert failure.value.filename == str(path)
