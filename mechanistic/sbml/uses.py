"""What a file uses of SBML, counted, and what libsbml remarks about it."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import libsbml

from mechanistic.model import FrozenMap
from mechanistic.sbml.document import Document

REMARK_LIMIT = 200
"""Most remarks of one kind that are kept; large files repeat the same one for every element."""

_UNKNOWN_UNITS = 99_500
"""libsbml numbers rules of the standard below this, and what it cannot decide about units from here on."""

_CORE_NAMESPACE = "http://www.sbml.org/sbml/level"

_CALLS = {
    libsbml.AST_FUNCTION_DELAY: "delay()",
    libsbml.AST_FUNCTION_PIECEWISE: "piecewise",
    libsbml.AST_FUNCTION_RATE_OF: "rateOf",
    libsbml.AST_NAME_TIME: "time in mathematics",
    libsbml.AST_NAME_AVOGADRO: "avogadro",
}

_CATEGORIES = (
    libsbml.LIBSBML_CAT_GENERAL_CONSISTENCY,
    libsbml.LIBSBML_CAT_IDENTIFIER_CONSISTENCY,
    libsbml.LIBSBML_CAT_MATHML_CONSISTENCY,
    libsbml.LIBSBML_CAT_OVERDETERMINED_MODEL,
    libsbml.LIBSBML_CAT_MODELING_PRACTICE,
    libsbml.LIBSBML_CAT_SBO_CONSISTENCY,
    libsbml.LIBSBML_CAT_UNITS_CONSISTENCY,
)


@final
@dataclass(frozen=True)
class Uses:
    """What a file uses of SBML.

    Attributes:
        level: of SBML, as written.
        version: of the level, as written.
        packages: names of the packages that the file declares, for instance `comp`.
        counts: construct, in words, to how many there are; those that do not occur are left out. Submodels are counted,
            and then what the model is made of once they are put in place.
    """

    level: int
    version: int
    packages: tuple[str, ...]
    counts: FrozenMap[int]

    def __str__(self) -> str:
        packages = f" with {', '.join(self.packages)}" if self.packages else ""
        return f"SBML Level {self.level} Version {self.version}{packages}: {counted(self.counts)}"


def counted(constructs: Mapping[str, int]) -> str:
    """How many there are of each construct, which is named in the plural: `1 event, 2 boundary species`."""
    return ", ".join(f"{count} {_one(name) if count == 1 else name}" for name, count in constructs.items()) or "nothing"


def _one(constructs: str) -> str:
    """The singular of a construct, whose plural is that of its first noun in `s`."""
    if constructs in _CALLS.values():
        return constructs
    noun, preposition, rest = constructs.partition(" with ")
    for plural, single in (("species", "species"), ("ies", "y"), ("s", "")):
        if noun.endswith(plural):
            return f"{noun.removesuffix(plural)}{single}{preposition}{rest}"
    return constructs


@final
@dataclass(frozen=True)
class Remarks:
    """What libsbml remarks about a valid file; each sentence begins with the line.

    Attributes:
        units: units that do not fit.
        unknown: mathematics whose units cannot be told, for lack of declared ones.
        others: everything else: good practice, doubtful constructs.
    """

    units: tuple[str, ...]
    unknown: tuple[str, ...]
    others: tuple[str, ...]


def sbml_uses(source: str | Path) -> Uses:
    """Counts the constructs of an SBML file.

    Args:
        source: path of a file, or its text.

    Raises:
        InvalidSBML, UnsupportedSBML: when the file is not valid, or its submodels cannot be put together.
    """
    document = Document(source)
    written = libsbml.readSBMLFromString(document.text)
    counts = {"submodels": _submodels(written), **_declared(document.model), **_mathematics(document.model)}
    present = FrozenMap({construct: count for construct, count in counts.items() if count})
    return Uses(written.getLevel(), written.getVersion(), _packages(written), present)


def sbml_remarks(source: str | Path) -> Remarks:
    """What libsbml's consistency checks remark about a valid file, units included.

    Raises:
        InvalidSBML, UnsupportedSBML: as `sbml_uses`.
    """
    tree = Document(source).tree
    about_units = (libsbml.LIBSBML_CAT_UNITS_CONSISTENCY,)
    units = _found(tree, about_units)
    others = _found(tree, tuple(category for category in _CATEGORIES if category not in about_units))
    unknown = [sentence for number, sentence in units if number >= _UNKNOWN_UNITS]
    fits_not = [sentence for number, sentence in units if number < _UNKNOWN_UNITS]
    return Remarks(_kept(fits_not), _kept(unknown), _kept(sentence for _, sentence in others))


def _kept(sentences: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(sentences))[:REMARK_LIMIT]


def _found(tree: libsbml.SBMLDocument, categories: tuple[int, ...]) -> list[tuple[int, str]]:
    """Number and sentence of every remark of some categories."""
    for category in _CATEGORIES:
        tree.setConsistencyChecks(category, category in categories)
    log = tree.getErrorLog()
    log.clearLog()
    tree.checkConsistency()
    errors = [log.getError(i) for i in range(log.getNumErrors())]
    return [(e.getErrorId(), f"line {e.getLine()}: {_last_paragraph(e.getMessage())}") for e in errors]


def _last_paragraph(message: str) -> str:
    """libsbml quotes the rule of the standard first, and says what is wrong here last."""
    paragraphs = [" ".join(part.split()) for part in message.strip().split("\n") if part.strip()]
    return paragraphs[-1] if paragraphs else "no message"


def _packages(tree: libsbml.SBMLDocument) -> tuple[str, ...]:
    namespaces = tree.getNamespaces()
    found = []
    for i in range(namespaces.getNumNamespaces()):
        uri, prefix = namespaces.getURI(i), namespaces.getPrefix(i)
        if prefix and uri.startswith(_CORE_NAMESPACE) and not uri.endswith("/core"):
            found.append(prefix)
    return tuple(found)


def _submodels(tree: libsbml.SBMLDocument) -> int:
    model = tree.getModel()
    package = None if model is None else model.getPlugin("comp")
    return 0 if package is None else package.getNumSubmodels()


def _declared(model: libsbml.Model) -> dict[str, int]:
    species, compartments = list(_each(model.getListOfSpecies())), list(_each(model.getListOfCompartments()))
    parameters, reactions = list(_each(model.getListOfParameters())), list(_each(model.getListOfReactions()))
    rules, events = list(_each(model.getListOfRules())), list(_each(model.getListOfEvents()))
    laws = [reaction.getKineticLaw() for reaction in reactions if reaction.isSetKineticLaw()]
    references = [r for reaction in reactions for r in _each(reaction.getListOfReactants())]
    references += [r for reaction in reactions for r in _each(reaction.getListOfProducts())]
    factors = [model.isSetConversionFactor(), *(item.isSetConversionFactor() for item in species)]
    named = [bool(r.isSetStoichiometryMath() or (r.isSetIdAttribute() and not r.getConstant())) for r in references]
    return {
        "species": len(species),
        "boundary species": sum(item.getBoundaryCondition() for item in species),
        "compartments": len(compartments),
        "variable compartments": sum(not item.getConstant() for item in compartments),
        "parameters": len(parameters),
        "variable parameters": sum(not item.getConstant() for item in parameters),
        "reactions": len(reactions),
        "fast reactions": sum(item.isSetFast() and item.getFast() for item in reactions),
        "local parameters": sum(law.getNumParameters() or law.getNumLocalParameters() for law in laws),
        "variable stoichiometries": sum(named),
        "functions": model.getNumFunctionDefinitions(),
        "initial assignments": model.getNumInitialAssignments(),
        "assignment rules": sum(item.isAssignment() for item in rules),
        "rate rules": sum(item.isRate() for item in rules),
        "algebraic rules": sum(item.isAlgebraic() for item in rules),
        "events": len(events),
        "events with delay": sum(item.isSetDelay() for item in events),
        "events with priority": sum(item.isSetPriority() for item in events),
        "constraints": model.getNumConstraints(),
        "conversion factors": sum(factors),
        "unit definitions": model.getNumUnitDefinitions(),
    }


def _mathematics(model: libsbml.Model) -> dict[str, int]:
    counts = dict.fromkeys(_CALLS.values(), 0)
    elements = model.getListOfAllElements()
    for i in range(elements.getSize()):
        element = elements.get(i)
        tree = element.getMath() if hasattr(element, "getMath") else None
        for node in _nodes(tree):
            construct = _CALLS.get(node.getType())
            if construct is not None:
                counts[construct] += 1
    return counts


def _nodes(tree: libsbml.ASTNode | None) -> Iterator[libsbml.ASTNode]:
    waiting = [] if tree is None else [tree]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += [node.getChild(i) for i in range(node.getNumChildren())]


def _each(items: Any) -> Iterator[Any]:
    return (items.get(i) for i in range(items.size()))
