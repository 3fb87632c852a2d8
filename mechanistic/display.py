"""Models as people read them: equations as LaTeX, and one HTML page a model for notebooks.

Names, units and descriptions come from foreign files. As text they are escaped and kept away from MathJax; inside
mathematics every character outside letters and digits is replaced by a command that prints it.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from html import escape
from typing import TypeVar

import sympy
from sympy import Basic, Dummy, Expr, Rational

from mechanistic.conservation import conserved_totals
from mechanistic.model import Event, KineticModel, TimeSymbol, delay

T = TypeVar("T")

# Longer tables start closed, and very long ones show their beginning only.
_OPEN_ROWS = 12
_MOST_ROWS = 200

_GREEK = re.compile(
    "alpha|beta|gamma|delta|epsilon|zeta|eta|theta|kappa|lambda|mu|nu|xi|pi|rho|sigma|tau|phi|chi|psi|omega|"
    "Gamma|Delta|Theta|Lambda|Xi|Pi|Sigma|Phi|Psi|Omega"
)
_COMMANDS = {
    "\\": r"\backslash ",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\wedge ",
    "~": r"\sim ",
    "<": r"\lt ",
    ">": r"\gt ",
    " ": r"\ ",
    "'": r"{}^{\prime}",
}

_STYLE = """
.kinetwin-model {max-width: 64em; line-height: 1.45}
.kinetwin-model h3 {margin: 0.2em 0}
.kinetwin-model p {margin: 0.2em 0 0.6em 0; opacity: 0.8}
.kinetwin-model details {margin: 0.3em 0; border: 1px solid rgba(128,128,128,0.35); border-radius: 6px}
.kinetwin-model summary {cursor: pointer; padding: 0.35em 0.8em; font-weight: 600; background: rgba(128,128,128,0.12)}
.kinetwin-model .scroll {overflow-x: auto; padding: 0.2em 0.8em 0.6em 0.8em}
.kinetwin-model table {border-collapse: collapse; background: transparent; color: inherit; margin: 0.3em 0}
.kinetwin-model th, .kinetwin-model td {text-align: left; vertical-align: middle; padding: 0.25em 1em 0.25em 0; \
border: none; border-bottom: 1px solid rgba(128,128,128,0.2); background: transparent; color: inherit}
.kinetwin-model th {font-weight: 600; opacity: 0.7}
.kinetwin-model code {background: transparent; color: inherit; padding: 0}
""".strip()


def name_latex(name: str) -> str:
    r"""A name as LaTeX: Greek letters by name, last digits or what follows the first underscore as an index."""
    numbered = re.fullmatch(r"([A-Za-z]+)(\d+)", name)
    base, index = numbered.groups() if numbered else name.split("_", 1) if "_" in name.strip("_") else (name, "")
    if not base or not index:
        base, index = name, ""
    shown = _word(base)
    return f"{shown}_{{{_word(index)}}}" if index else shown


def _word(text: str) -> str:
    if _GREEK.fullmatch(text):
        return f"\\{text}"
    printed = "".join(_COMMANDS.get(character, character) for character in text)
    return printed if text.isdigit() or (len(text) == 1 and text.isalpha()) else f"\\mathrm{{{printed}}}"


def expression_latex(expression: Basic, names: Mapping[Basic, str] | None = None) -> str:
    r"""An expression or condition of a model as LaTeX; time is `t`, and a delay is written `A\left(t - 2\right)`.

    Args:
        expression: what to show.
        names: LaTeX for some of its symbols, in place of what their names say.
    """
    shown = {s: "t" if isinstance(s, TimeSymbol) else name_latex(s.name) for s in expression.free_symbols}
    # An outer delay is replaced as a whole, whatever delays stand in it.
    past = {call: Dummy() for call in expression.atoms(delay)}
    shown |= {dummy: _delay_latex(call) for call, dummy in past.items()} | dict(names or {})
    return str(sympy.latex(expression.xreplace(past), symbol_names=shown, mul_symbol=r"\,"))


def _delay_latex(call: Expr) -> str:
    value, lag = call.args
    shown, back = expression_latex(value), expression_latex(lag)
    at = f"t - \\left({back}\\right)" if lag.is_Add else f"t - {back}"
    return f"{shown}\\left({at}\\right)" if value.is_Symbol else f"\\left[{shown}\\right]_{{{at}}}"


def equations_latex(model: KineticModel) -> str:
    r"""The equations, and the assignments that they use, as one LaTeX `aligned` block.

    A fast reaction has a rate of zero at all times, and whatever flux that takes: `w` with its name. Source for people:
    print it, or show it with `IPython.display.Math`.
    """
    lines = [f"{_derivative(name)} &= {value}" for name, value in _right_sides(model).items()]
    constraints = [reaction.rate for reaction in model.reactions if reaction.fast] + list(model.algebraic.values())
    lines += [f"0 &= {expression_latex(value)}" for value in constraints]
    lines += [f"{name_latex(name)} &= {expression_latex(value)}" for name, value in model.assignments.items()]
    for event in model.events:
        lines.append(f"{expression_latex(event.trigger)} &\\Rightarrow {', '.join(_settings(event))}")
    return "\\begin{aligned}\n" + " \\\\\n".join(lines) + "\n\\end{aligned}"


def _right_sides(model: KineticModel) -> dict[str, str]:
    """Derivative of each state that has one."""
    names = {Dummy(): f"w_{{{_word(reaction.name)}}}" for reaction in model.reactions if reaction.fast}
    fluxes = list(zip(names, (reaction for reaction in model.reactions if reaction.fast), strict=True))
    slow = replace(model, reactions=tuple(reaction for reaction in model.reactions if not reaction.fast))
    return {
        name: expression_latex(
            sympy.Add(value, *(reaction.stoichiometry.get(name, 0) * flux for flux, reaction in fluxes)), names
        )
        for name, value in slow.derivatives().items()
        if name not in model.algebraic
    }


def _derivative(name: str) -> str:
    return f"\\frac{{\\mathrm{{d}}\\, {name_latex(name)}}}{{\\mathrm{{d}}\\, t}}"


def _settings(event: Event) -> list[str]:
    return [f"{name_latex(name)} \\leftarrow {expression_latex(value)}" for name, value in event.assignments.items()]


def model_html(model: KineticModel) -> str:
    """The model as one block of HTML with MathJax formulas, for notebooks; readable on light and dark pages."""
    sections = [
        _section("Reactions", ("", "equation", "rate"), _reaction_rows(model)),
        _section("Events", ("", "when", "what", "how"), _event_rows(model)),
        _section("Rate rules", ("equation",), _equation_rows(model.rates, derivative=True)),
        _section("Algebraic equations", ("determines", "equation"), _algebraic_rows(model)),
        _section("Assignments", ("equation",), _equation_rows(model.assignments)),
        _section("Observables", ("equation",), _equation_rows(model.observables)),
        _section("Conserved totals", ("", "constant"), _total_rows(model)),
        _section("States", ("", "at the start", "unit", "scale", "may be negative"), _state_rows(model)),
        _section("Parameters", ("", "value", "unit", "meaning"), _parameter_rows(model)),
    ]
    counts = f"{len(model.states)} states · {len(model.parameters)} parameters · {len(model.reactions)} reactions"
    counts += f" · {len(model.events)} events" if model.events else ""
    counts += f" · {len(model.algebraic)} algebraic equations" if model.algebraic else ""
    unit = f" · time in {model.time_unit}" if model.time_unit else ""
    source = f"<br>{_linked(model.source)}" if model.source else ""
    return (
        f'<div class="kinetwin-model"><style>{_STYLE}</style><h3>{_text(model.name)}</h3>'
        f"<p>{_text(counts + unit)}{source}</p>{''.join(sections)}</div>"
    )


def _section(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table that opens by a click; nothing when it has no row."""
    if not rows:
        return ""
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return (
        f"<details{' open' if len(rows) <= _OPEN_ROWS else ''}><summary>{escape(title)}</summary>"
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></details>'
    )


def _shown(items: Sequence[T], columns: int) -> tuple[Sequence[T], list[list[str]]]:
    """The items to show, and a last row that says how many were left out."""
    rest = len(items) - _MOST_ROWS
    return items[:_MOST_ROWS], [[f"… and {rest} more", *[""] * (columns - 1)]] if rest > 0 else []


def _reaction_rows(model: KineticModel) -> list[list[str]]:
    shown, more = _shown(model.reactions, 3)
    rows = [
        [
            _code(r.name) + (" (fast)" if r.fast else ""),
            _math(_arrow(r.stoichiometry, r"\rightleftharpoons" if r.fast else r"\longrightarrow")),
            _math(expression_latex(r.rate) + (" = 0" if r.fast else "")),
        ]
        for r in shown
    ]
    return rows + more


def _event_rows(model: KineticModel) -> list[list[str]]:
    shown, more = _shown(model.events, 4)
    rows = [
        [
            _code(event.name),
            _math(expression_latex(event.trigger)),
            "<br>".join(map(_math, _settings(event))),
            "<br>".join(_manner(event)),
        ]
        for event in shown
    ]
    return rows + more


def _manner(event: Event) -> Iterable[str]:
    """What an event does differently from one that happens at once, in words."""
    if event.delay != 0:
        yield f"after {_math(expression_latex(event.delay))}"
        yield f"with the values {'when triggered' if event.values_at_trigger else 'when it happens'}"
    if event.priority is not None:
        yield f"priority {_math(expression_latex(event.priority))}"
    if not event.persistent:
        yield "called off when the condition ends"
    if not event.initially:
        yield "also when the condition holds at the start"


def _algebraic_rows(model: KineticModel) -> list[list[str]]:
    shown, more = _shown(tuple(model.algebraic.items()), 2)
    return [[_code(name), _math(f"0 = {expression_latex(value)}")] for name, value in shown] + more


def _arrow(stoichiometry: Mapping[str, Rational], arrow: str) -> str:
    def side(sign: int) -> str:
        terms = [
            f"{'' if abs(count) == 1 else sympy.latex(abs(count)) + ' '}{name_latex(name)}"
            for name, count in stoichiometry.items()
            if sign * count > 0
        ]
        return " + ".join(terms) or r"\varnothing"

    return f"{side(-1)} {arrow} {side(1)}"


def _equation_rows(equations: Mapping[str, Expr], *, derivative: bool = False) -> list[list[str]]:
    shown, more = _shown(tuple(equations), 1)
    rows = []
    for name in shown:
        left = _derivative(name) if derivative else name_latex(name)
        rows.append([_math(f"{left} = {expression_latex(equations[name])}")])
    return rows + more


def _total_rows(model: KineticModel) -> list[list[str]]:
    shown, more = _shown(conserved_totals(model), 2)
    return [[_code(total.name), _math(expression_latex(total.expression))] for total in shown] + more


def _state_rows(model: KineticModel) -> list[list[str]]:
    shown, more = _shown(model.states, 5)
    rows = [
        [
            _code(state.name),
            _math(expression_latex(state.initial)),
            _text(state.unit),
            "" if state.scale is None else f"{state.scale:.6g}",
            "" if state.nonnegative else "yes",
        ]
        for state in shown
    ]
    return rows + more


def _parameter_rows(model: KineticModel) -> list[list[str]]:
    shown, more = _shown(model.parameters, 4)
    return [[_code(p.name), f"{p.value:.6g}", _text(p.unit), _text(p.description)] for p in shown] + more


def _math(latex: str) -> str:
    return f"\\({escape(latex, quote=False)}\\)"


def _code(name: str) -> str:
    """A name as text; MathJax leaves `code` alone, so that a dollar sign in it stays one."""
    return f"<code>{escape(name)}</code>"


def _text(text: str) -> str:
    return f'<span class="tex2jax_ignore mathjax_ignore">{escape(text)}</span>' if text else ""


def _linked(source: str) -> str:
    """Foreign text with its DOIs as links."""
    parts: Iterable[str] = re.split(r"(doi:10\.\d{4,9}/[^\s;,<>\"']+[^\s;,.<>\"'])", source)
    return "".join(
        f'<a href="https://doi.org/{escape(part[4:])}">{escape(part)}</a>'
        if part.startswith("doi:10.")
        else _text(part)
        for part in parts
    )
