"""Checks of what is written: contents, units, names, conserved totals, positivity."""

from collections.abc import Iterable

from mechanistic.conservation import Outcome, check_positivity, conserved_totals
from mechanistic.sbml import read_sbml, write_sbml
from mechanistic.sbml.uses import counted, sbml_remarks, sbml_uses
from mechanistic.validation.case import Case
from mechanistic.validation.report import Check, Verdict

LISTED = 5
"""Names that a sentence lists."""


def contents(case: Case) -> Check:
    """What the file uses of SBML, or what the model is made of."""
    model = case.model
    if case.source is not None:
        uses = sbml_uses(case.source)
        return Check("contents", Verdict.GOOD, f"{uses}.", {**uses.counts, "level": uses.level})
    counts = {
        "states": len(model.states),
        "parameters": len(model.parameters),
        "reactions": len(model.reactions),
        "rate rules": len(model.rates),
        "assignments": len(model.assignments),
        "observables": len(model.observables),
        "events": len(model.events),
        "algebraic equations": len(model.algebraic),
    }
    present = {name: count for name, count in counts.items() if count}
    return Check("contents", Verdict.GOOD, f"{counted(present)}.", present)


def remarks(case: Case) -> Check:
    """What libsbml remarks about the file."""
    if case.source is None:
        return Check("libsbml", Verdict.OPEN, "There is no SBML file to look at.")
    found = sbml_remarks(case.source)
    units, unknown, others = len(found.units), len(found.unknown), len(found.others)
    numbers = {"doubtful units": units, "units that cannot be told": unknown, "other remarks": others}
    details = (*found.units, *found.others, *found.unknown)
    first = (*found.units, *found.others)[:1]
    example = f" First, {first[0]}" if first else ""
    sentence = f"The file is valid; libsbml finds {_count(units, 'doubtful unit')}, "
    sentence += f"{_count(others, 'other remark')}, and {_count(unknown, 'place')} where units cannot be told.{example}"
    return Check("libsbml", Verdict.LOOK if units or others else Verdict.GOOD, sentence, numbers, details)


def units(case: Case) -> Check:
    """Whether the units of the model fit each other."""
    report = case.model.units()
    missing, problems = len(report.missing), report.problems
    known = sum(quantity.unit is not None for quantity in report.quantities)
    numbers = {"problems": len(problems), "quantities without a unit": missing}
    details = tuple(map(str, report.findings))
    if not known:
        return Check("units", Verdict.OPEN, "No quantity has a unit.", numbers)
    without = f"; {_count(missing, 'quantity', 'quantities')} without one: {listed(report.missing)}" if missing else ""
    if problems:
        sentence = f"{_count(len(problems), 'equation')} whose units do not fit{without}. First, {problems[0]}"
        return Check("units", Verdict.LOOK, sentence, numbers, details)
    return Check("units", Verdict.GOOD, f"No equation contradicts its units{without}.", numbers, details)


def parameters(case: Case) -> Check:
    """Parameters that nothing uses, or that have no value."""
    model = case.model
    used = {atom.name for atom in model.used_symbols()}
    unused = [name for name in model.parameter_names if name not in used]
    number = len(model.parameters)
    numbers = {"parameters": number, "unused": len(unused)}
    if not unused:
        return Check("parameters", Verdict.GOOD, f"All {number} parameters are used.", numbers)
    sentence = f"{len(unused)} of {_count(number, 'parameter')} not used anywhere: {listed(unused)}."
    return Check("parameters", Verdict.LOOK, sentence, numbers, tuple(f"`{name}` is unused" for name in unused))


def round_trip(case: Case) -> Check:
    """Whether the model written as SBML is read back as the same model."""
    again = read_sbml(write_sbml(case.model))
    if again == case.model:
        return Check("round trip", Verdict.GOOD, "Written as SBML and read back, the model is the same.")
    return Check("round trip", Verdict.WRONG, "Written as SBML and read back, the model is another one.")


def totals(case: Case) -> Check:
    """What the stoichiometry conserves."""
    every = conserved_totals(case.model)
    found = [total for total in every if len(total.weights) > 1]
    still = len(every) - len(found)
    numbers = {"totals": len(found)}
    alone = f"; {_count(still, 'state')} that nothing moves" if still else ""
    if not found:
        return Check("conserved totals", Verdict.GOOD, f"No sum of states is conserved{alone}.", numbers)
    texts = [f"{total.name} = {total}" for total in found]
    sentence = f"{len(found)} exact: {'; '.join(texts[:3])}{'; …' if len(texts) > 3 else ''}{alone}."
    return Check("conserved totals", Verdict.GOOD, sentence, numbers, tuple(texts))


def positivity(case: Case) -> Check:
    """Whether the rates keep the states from going below zero, whatever the parameters."""
    report = check_positivity(case.model)
    proven = sum(entry.outcome is Outcome.PROVEN for entry in report.states)
    doubtful = [entry for entry in report.states if entry.outcome is not Outcome.PROVEN]
    numbers = {"states": len(report.states), "proven": proven}
    if not report.states:
        return Check("positivity", Verdict.OPEN, "No state has to stay above zero.", numbers)
    if not doubtful:
        sentence = f"Proven for all {proven} states: no rate pulls one below zero."
        return Check("positivity", Verdict.GOOD, sentence, numbers)
    sentence = f"Proven for {proven} of {len(report.states)} states; {doubtful[0]}."
    return Check("positivity", Verdict.LOOK, sentence, numbers, tuple(map(str, doubtful)))


def listed(names: Iterable[str]) -> str:
    """The first names in backticks."""
    every = list(names)
    return ", ".join(f"`{name}`" for name in every[:LISTED]) + (", …" if len(every) > LISTED else "")


def _count(number: int, noun: str, several: str = "") -> str:
    return f"{number} {noun if number == 1 else several or noun + 's'}"
