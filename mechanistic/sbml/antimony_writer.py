"""Kinetic models written as Antimony, by way of SBML.

Smith et al. (2009), Antimony: a modular model definition language, doi:10.1093/bioinformatics/btp401.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import libsbml
from sympy import Float

from mechanistic.errors import ListedError, ModelError
from mechanistic.model import KineticModel
from mechanistic.sbml.annotation import escaped
from mechanistic.sbml.antimony import read_antimony
from mechanistic.sbml.mathematics import literal
from mechanistic.sbml.reader import read_sbml
from mechanistic.sbml.writer import Written, replace_file, written

_NOISE = re.compile(r"^// Created by.*\n|^  // Compartment initializations:\n  \w+ = ;\n\n", re.MULTILINE)
"""The version of the library, and a compartment without a size."""


def write_antimony(model: KineticModel, path: str | Path | None = None) -> str:
    """The model as Antimony text, which `read_antimony` reads back to a model with the same equations.

    States are species in amounts. Antimony has no place for, and the model that comes back is without: units as text,
    scales, states that may be negative, the source and the unit of time (all of which stand in comments), the
    difference between an observable and an assignment, and names that are no ids of Antimony (`gamma` becomes `gamma_`,
    `[A]` becomes `A`). Numbers keep 15 significant digits, a
    fractional stoichiometry becomes a named constant, and `sign` and `Mod` come back written out. `write_sbml` keeps
    all of this.

    Args:
        model: any kinetic model without fast reactions.
        path: file to write as well; it is replaced as a whole or not at all.

    Raises:
        ModelError: lists fast reactions, of which Antimony would make slow ones, every expression that has no
            counterpart, and what does not come back: an algebraic equation that may determine several states, say.
    """
    fast = [
        f"reaction `{r.name}` is fast, which Antimony cannot say; use `write_sbml`" for r in model.reactions if r.fast
    ]
    if fast:
        raise ModelError(f"the model `{model.name}` cannot be written as Antimony:", fast)
    source = written(model)
    renamed = source.identities - _identities(_converted(model, _prepared(source.text)).back)
    source = written(model, renamed) if renamed else source
    prepared = _prepared(source.text)
    text = _completed(model, source, _converted(model, prepared))
    _check(model, text, prepared)
    if path is not None:
        replace_file(Path(path), text)
    return text


class _Conversion(NamedTuple):
    """The text of the library, and the SBML that it makes of what it read; words of the language are renamed there."""

    text: str
    back: str


def _converted(model: KineticModel, sbml: str) -> _Conversion:
    # The library is imported on use: it takes longer to load than the rest of this package.
    import antimony

    try:
        antimony.clearPreviousLoads()
        if antimony.loadSBMLString(sbml) < 0:
            problem = antimony.getLastError().strip()
            raise ModelError(f"the model `{model.name}` cannot be written as Antimony:", [problem])
        name = antimony.getMainModuleName()
        return _Conversion(str(antimony.getAntimonyString(name)), str(antimony.getSBMLString(name)))
    finally:
        antimony.clearPreviousLoads()


def _check(model: KineticModel, text: str, sbml: str) -> None:
    """Refuses a text that does not say what the file says: the library drops what it cannot write, without a word."""
    try:
        found, expected = read_antimony(text), read_sbml(sbml)
    except ListedError as error:
        raise ModelError(f"the model `{model.name}` cannot be written as Antimony:", error.problems) from error
    came, went = _equations(found), _equations(expected)
    lost = [f"its {part} do not come back" for part, content in went.items() if came[part] != content]
    if lost:
        raise ModelError(f"the model `{model.name}` cannot be written as Antimony; use `write_sbml`:", lost)


def _equations(model: KineticModel) -> dict[str, Any]:
    """Everything that a simulation depends on; whole numbers are integers, whichever way they were written."""

    def plain(expression: Any) -> Any:
        return expression.xreplace({number: literal(float(number)) for number in expression.atoms(Float)})

    return {
        "states": [(state.name, plain(state.initial)) for state in model.states],
        "parameters": [(parameter.name, parameter.value) for parameter in model.parameters],
        "reactions": [(r.name, r.stoichiometry, plain(r.rate)) for r in model.reactions],
        "rates": {name: plain(value) for name, value in model.rates.items()},
        "assignments": {name: plain(value) for name, value in model.assignments.items()},
        "events": [event.rewritten(plain) for event in model.events],
        "algebraic equations": {name: plain(value) for name, value in model.algebraic.items()},
    }


def _prepared(text: str) -> str:
    """The file for the library, with nothing in it that Antimony has no place for.

    A size of the compartment that only holds the states would come back as a parameter; and the library writes
    backslashes in names as they are, but reads them as the beginning of an escape.
    """
    document = libsbml.readSBMLFromString(text)
    model = document.getModel()
    model.getCompartment(0).unsetSize()
    elements = document.getListOfAllElements()
    for element in [model, *(elements.get(i) for i in range(elements.getSize()))]:
        element.unsetAnnotation()
        if "\\" in element.getName():
            element.setName(element.getName().replace("\\", "\\\\"))
        if getattr(element, "isSetMath", bool)():
            element.setMath(_without_lone_fractions(element.getMath()))
    return str(libsbml.writeSBMLToString(document))


def _without_lone_fractions(node: libsbml.ASTNode) -> libsbml.ASTNode:
    """`f(2/3)` as `f(2*(1/3))`: the parser of libsbml takes `(2/3)` for one number, and `f` before it for a name."""
    copy = node.deepCopy()
    for i in range(node.getNumChildren()):
        child = node.getChild(i)
        numbers = child.getNumChildren() == 2 and all(child.getChild(j).isInteger() for j in range(2))
        if child.getType() == libsbml.AST_DIVIDE and numbers and node.isFunction():
            product = libsbml.ASTNode(libsbml.AST_TIMES)
            one = libsbml.ASTNode(libsbml.AST_INTEGER)
            one.setValue(1)
            fraction = child.deepCopy()
            fraction.replaceChild(0, one, True)
            product.addChild(child.getChild(0).deepCopy())
            product.addChild(fraction)
            copy.replaceChild(i, product, True)
        else:
            copy.replaceChild(i, _without_lone_fractions(child), True)
    return copy


def _identities(text: str) -> set[str]:
    document = libsbml.readSBMLFromString(text)
    elements = document.getListOfAllElements()
    return {document.getModel().getId(), *(elements.get(i).getIdAttribute() for i in range(elements.getSize()))}


def _completed(model: KineticModel, source: Written, conversion: _Conversion) -> str:
    """The text with states and parameters in their order, and with what it cannot say in comments."""
    head = [f"// {line}" for line in _remarks(model, source)]
    states, parameters = ([source.ids[name] for name in names] for names in (model.state_names, model.parameter_names))
    document = libsbml.readSBMLFromString(conversion.back)
    species = document.getModel().getListOfSpecies()
    sorted_otherwise = [species.get(i).getId() for i in range(species.size())] != states
    declared = [f"  species {', '.join(states)};"] if sorted_otherwise else []
    declared += [f"  const {', '.join(parameters)};"] if parameters else []
    first, rest = _NOISE.sub("", conversion.text.lstrip()).split("\n", 1)
    return "\n".join([*head, first, *declared, rest])


def _remarks(model: KineticModel, source: Written) -> Iterator[str]:
    yield escaped(model.name)
    if model.source:
        yield escaped(model.source)
    yield "States are amounts" + (f"; the unit of time is {escaped(model.time_unit)}." if model.time_unit else ".")
    for state in model.states:
        parts = [state.unit, "" if state.scale is None else f"scale {state.scale:g}"]
        parts += [] if state.nonnegative else ["may be negative"]
        if any(parts):
            yield f"{source.ids[state.name]}: {escaped(', '.join(filter(None, parts)))}"
    for parameter in model.parameters:
        if parameter.unit:
            yield f"{source.ids[parameter.name]}: {escaped(parameter.unit)}"
    if model.observables:
        yield f"Observables: {', '.join(source.ids[name] for name in model.observables)}"
    for name, identity in source.ids.items():
        if identity != name:
            yield f"{identity} is called {escaped(name)}"
