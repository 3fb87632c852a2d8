"""Models written in Antimony."""

import pytest
import sympy

from mechanistic.errors import InvalidSBML, UnsupportedSBML
from mechanistic.model import symbol
from mechanistic.sbml import read_antimony

DECAY = """
model decay
  compartment V = 2;
  species S in V, P in V;
  J: S -> 2 P; k*S;
  S = 8; P = 0; k = 0.5;
end
"""


def test_a_text_is_read():
    model = read_antimony(DECAY)
    k, s, v = symbol("k"), symbol("S"), symbol("V")
    assert model.name == "decay"
    assert model.state_names == ("S", "P")
    assert dict(model.derivatives()) == {"S": -k * s / v, "P": 2 * k * s / v}
    # Antimony's value of a species is its concentration.
    assert model.initial_values() == {"S": 16.0, "P": 0.0}


@pytest.mark.parametrize("suffix", [".ant", ".txt"])
def test_a_file_is_read(tmp_path, suffix):
    path = tmp_path / f"decay{suffix}"
    path.write_text(DECAY)
    assert read_antimony(path) == read_antimony(str(path)) == read_antimony(DECAY)


def test_rules_and_one_line_texts():
    model = read_antimony("x = 1; k = 2; x' = -k*x; y := x^2")
    x, k = symbol("x"), symbol("k")
    assert model.rates == {"x": -k * x}
    assert model.assignments == {"y": x**2}
    assert isinstance(model.assignments["y"].exp, sympy.Integer)


def test_a_mistake_is_shown_with_its_line_and_is_forgotten():
    with pytest.raises(InvalidSBML, match="line 3"):
        read_antimony("S = 1\nk = 2\nJ: S -> ; k*\n")
    assert read_antimony(DECAY).name == "decay"


def test_models_read_before_are_not_seen():
    read_antimony(DECAY)
    with pytest.raises(InvalidSBML):
        read_antimony("model big\n  d: decay();\nend")


def test_what_is_no_text_of_a_model_says_so(tmp_path):
    empty = tmp_path / "empty.ant"
    empty.write_text("\n")
    with pytest.raises(InvalidSBML, match=r"`empty\.ant` cannot be read:\n  - it is empty"):
        read_antimony(empty)
    with pytest.raises(InvalidSBML, match=r"if this is a path, end it in \.ant or \.txt"):
        read_antimony("decay.antimony")


def test_what_is_not_supported_is_listed():
    with pytest.raises(UnsupportedSBML) as refusal:
        read_antimony("J: S -> P; k*S; k := normal(1, 2); S = 1; P = 0; q := uniform(0, 1)")
    _, *problems = refusal.value.problems
    drawn = {"k": "normal", "q": "uniform"}
    assert problems == [f"assignment rule of `{name}`: `{law}` is not supported" for name, law in drawn.items()]
