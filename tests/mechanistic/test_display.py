"""What a notebook shows of a model."""

import re
from html.parser import HTMLParser

import pytest
from sympy import Symbol, exp, symbols

from mechanistic import library
from mechanistic.display import equations_latex, expression_latex, model_html, name_latex
from mechanistic.model import Event, KineticModel, Parameter, Reaction, State, delay, symbol, time

VOID = {"br"}
NAMES = [name for name in library.__all__ if name != "closed_form"]


class Balance(HTMLParser):
    """Collects tags and text, and fails when a tag closes that is not open."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.text, self.links = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name == "href"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def parsed(html):
    page = Balance()
    page.feed(html)
    page.close()
    assert page.open == []
    return page


@pytest.mark.parametrize("name", NAMES)
def test_every_library_model_is_shown_in_balanced_html(name):
    model = getattr(library, name)()
    page = parsed(model._repr_html_())
    text = "".join(page.text)
    for parameter in model.parameters:
        assert parameter.name in text
        assert parameter.description in text
    for state in model.states:
        assert state.name in text
    assert model.name in text


@pytest.mark.parametrize("name", NAMES)
def test_formulas_have_balanced_braces(name):
    for formula in re.findall(r"\\\((.*?)\\\)</td>", model_html(getattr(library, name)())):
        depth = 0
        for brace in re.findall(r"(?<!\\)[{}]", formula):
            depth += 1 if brace == "{" else -1
            assert depth >= 0
        assert depth == 0


def test_names_become_symbols():
    assert name_latex("k") == "k"
    assert name_latex("alpha") == r"\alpha"
    assert name_latex("k12") == "k_{12}"
    assert name_latex("beta_max") == r"\beta_{\mathrm{max}}"
    assert name_latex("pSTAT5_cyt") == r"\mathrm{pSTAT5}_{\mathrm{cyt}}"
    assert name_latex("_x") == r"\mathrm{\_x}"
    assert name_latex("a_b_c") == r"a_{\mathrm{b\_c}}"


def test_equations_are_one_aligned_block():
    text = equations_latex(library.one_compartment_oral())
    assert text.startswith("\\begin{aligned}")
    assert text.endswith("\\end{aligned}")
    assert text.count("\\frac{\\mathrm{d}\\,") == 2
    assert text.count("\\\\\n") == 1


def test_time_and_a_parameter_called_time_look_different():
    assert expression_latex(exp(time)) == "e^{t}"
    assert expression_latex(symbol("time")) == r"\mathrm{time}"


def test_foreign_names_stay_text():
    """Names of a file may hold HTML, LaTeX and dollar signs; none of them may take effect."""
    evil = "<img src=x onerror=alert(1)>"
    state, parameter = Symbol("A$x$"), Symbol(r"\href{javascript:1}{k}")
    model = KineticModel(
        evil,
        (State(state.name, unit=evil),),
        (Parameter(parameter.name, 1.0, unit=evil, description="costs $5 & <b>more</b> $"),),
        (Reaction(evil, {state.name: -1}, parameter * state),),
        observables={evil: state},
        source=f'{evil} doi:10.1000/"onmouseover="alert(1)',
        time_unit=evil,
    )
    page = parsed(model_html(model))
    assert "img" not in page.tags
    assert "b" not in page.tags
    assert page.links == []
    formulas = re.findall(r"\\\((.*?)\\\)</td>", model_html(model))
    assert formulas
    for formula in formulas:
        assert r"\href" not in formula
        assert not re.search(r"(?<!\\)\$", formula)


def test_dois_become_links():
    page = parsed(model_html(library.friberg_neutropenia()))
    assert page.links == [
        "https://doi.org/10.1200/JCO.2002.02.140",
        "https://doi.org/10.1007/BF02353487",
    ]


def test_long_tables_are_closed_and_cut():
    x = symbols("x")
    small = KineticModel("small", (State("x"),), reactions=[Reaction("r", "x ->", x)])
    assert "<details open>" in model_html(small)
    large = KineticModel("large", (State("x"),), reactions=[Reaction(f"r{i}", "x ->", x) for i in range(500)])
    html = model_html(large)
    assert "… and 300 more" in html
    assert "<details><summary>Reactions" in html
    parsed(html)


def test_sections_without_content_are_left_out():
    html = model_html(KineticModel("bare", (State("x"),)))
    for title in ("Reactions", "Parameters", "Observables", "Assignments", "Rate rules"):
        assert f"<summary>{title}</summary>" not in html
    assert r"\(x\)" in html  # a state that nothing moves is its own conserved total


def test_conserved_totals_are_shown():
    html = model_html(library.kholodenko_mapk())
    assert "<summary>Conserved totals</summary>" in html
    assert "total_MKKK" in html


A, B, TAU = symbol("A"), symbol("B"), symbol("tau")
BUSY = KineticModel(
    "busy",
    [State("A", 1.0), State("B"), State("x", 2.0)],
    [Parameter("tau", 1.0)],
    [Reaction("slow", "A -> B", delay(A, TAU)), Reaction("quick", "A -> 2 B", A - B, fast=True)],
    events=[
        Event("first", (time >= 2) & (A < 3), {"A": A + 1, "B": 0}, TAU, 2, False, False, False),
        Event("second", A > B, {"B": 3}),
    ],
    algebraic={"x": symbol("x") ** 3 - A},
)


def section(title, model=BUSY):
    page = parsed(model_html(model))
    text = " ".join(page.text)
    return text.partition(f"{title} ")[2]


def test_an_event_says_when_what_and_how():
    text = section("Events").partition("Algebraic equations")[0]
    for part in (
        r"\(t \geq 2 \wedge A < 3\)",
        r"\(A \leftarrow A + 1\)",
        r"\(B \leftarrow 0\)",
        r"after \(\tau\)",
        "with the values when it happens",
        r"priority \(2\)",
        "called off when the condition ends",
        "also when the condition holds at the start",
    ):
        assert part in text
    # An event without anything special has nothing more to say.
    assert text.rstrip().endswith(r"\(B \leftarrow 3\)")


def test_fast_reactions_and_algebraic_equations_are_told_from_others():
    assert r"quick  (fast) \(A \rightleftharpoons 2 B\) \(A - B = 0\)" in section("Reactions")
    assert r"x \(0 = - A + x^{3}\)" in section("Algebraic equations")
    assert "2 events · 1 algebraic equations" in " ".join(parsed(model_html(BUSY)).text)


@pytest.mark.parametrize(
    ("expression", "shown"),
    [
        (delay(A, TAU), r"A\left(t - \tau\right)"),
        (delay(A, TAU) ** 2, r"A\left(t - \tau\right)^{2}"),
        (delay(A * B, TAU + 1), r"\left[A\,B\right]_{t - \left(\tau + 1\right)}"),
        (delay(delay(A, 2), TAU), r"\left[A\left(t - 2\right)\right]_{t - \tau}"),
    ],
)
def test_a_delay_is_shown_as_an_earlier_time(expression, shown):
    assert expression_latex(expression) == shown


def test_the_block_of_equations_tells_constraints_from_derivatives():
    lines = equations_latex(BUSY).splitlines()[1:-1]
    assert [line.removesuffix(r" \\") for line in lines] == [
        r"\frac{\mathrm{d}\, A}{\mathrm{d}\, t} &= - w_{\mathrm{quick}} - A\left(t - \tau\right)",
        r"\frac{\mathrm{d}\, B}{\mathrm{d}\, t} &= 2\,w_{\mathrm{quick}} + A\left(t - \tau\right)",
        r"0 &= A - B",
        r"0 &= - A + x^{3}",
        r"t \geq 2 \wedge A < 3 &\Rightarrow A \leftarrow A + 1, B \leftarrow 0",
        r"A > B &\Rightarrow B \leftarrow 3",
    ]


def test_foreign_names_of_events_stay_text():
    evil = "<img src=x onerror=alert(1)>"
    page = parsed(model_html(KineticModel("m", [State("A")], events=[Event(evil, time > 1, {"A": 1})])))
    assert "img" not in page.tags
    assert evil in page.text
