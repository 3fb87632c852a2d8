"""How many quantities of a file depend on each other, counted before libsbml looks for cycles among them."""

from collections.abc import Iterator, Mapping

import libsbml

PAIR_LIMIT = 40_000
"""Most pairs of dependent quantities; libsbml's search for cycles takes a few seconds for these, and hours for more."""


RATE_PAIR_LIMIT = 1000
"""The same for quantities whose rates ask for each other's rates; libsbml's search takes a second for these."""


def too_dependent(model: libsbml.Model) -> bool:
    """Whether rules, initial assignments and kinetic laws depend on each other through more pairs than is allowed.

    The same holds for function definitions that call each other.
    """
    graphs = ((_direct, PAIR_LIMIT), (_calling, PAIR_LIMIT), (_asking, RATE_PAIR_LIMIT))
    return any(_exceeds(needs(model), limit) for needs, limit in graphs)


def _exceeds(needs: Mapping[str, set[str]], limit: int) -> bool:
    pairs = 0
    for name in needs:
        pairs += _reachable(name, needs, limit - pairs)
        if pairs > limit:
            return True
    return False


def _asking(model: libsbml.Model) -> dict[str, set[str]]:
    """What moves by mathematics with a `rateOf` in it, and what of the same kind it mentions."""
    found: dict[str, set[str]] = {}
    for i in range(model.getNumRules()):
        rule = model.getRule(i)
        if _asks(rule.getMath()):
            found.setdefault(rule.getVariable(), set()).update(names_in(rule.getMath()))
    for i in range(model.getNumReactions()):
        reaction = model.getReaction(i)
        law = reaction.getKineticLaw().getMath() if reaction.isSetKineticLaw() else None
        if _asks(law):
            names = set(names_in(law))
            items = (reaction.getListOfReactants(), reaction.getListOfProducts())
            moved = [each.get(j).getSpecies() for each in items for j in range(each.size())]
            for name in (reaction.getId(), *moved):
                found.setdefault(name, set()).update(names)
    return {name: used & found.keys() for name, used in found.items()}


def _calling(model: libsbml.Model) -> dict[str, set[str]]:
    """Function definitions, and those that each calls."""
    found: dict[str, set[str]] = {}
    for i in range(model.getNumFunctionDefinitions()):
        definition = model.getFunctionDefinition(i)
        calls = found.setdefault(definition.getId(), set())
        stack = [] if definition.getMath() is None else [definition.getMath()]
        while stack:
            node = stack.pop()
            if node.getType() == libsbml.AST_FUNCTION:
                calls.add(node.getName())
            stack += [node.getChild(j) for j in range(node.getNumChildren())]
    return {name: used & found.keys() for name, used in found.items()}


def _asks(tree: libsbml.ASTNode | None) -> bool:
    stack = [] if tree is None else [tree]
    while stack:
        node = stack.pop()
        if node.getType() == libsbml.AST_FUNCTION_RATE_OF:
            return True
        stack += [node.getChild(i) for i in range(node.getNumChildren())]
    return False


def _direct(model: libsbml.Model) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for i in range(model.getNumInitialAssignments()):
        assignment = model.getInitialAssignment(i)
        found.setdefault(assignment.getSymbol(), set()).update(names_in(assignment.getMath()))
    for i in range(model.getNumRules()):
        rule = model.getRule(i)
        if rule.isAssignment():
            found.setdefault(rule.getVariable(), set()).update(names_in(rule.getMath()))
    for i in range(model.getNumReactions()):
        reaction = model.getReaction(i)
        if reaction.isSetKineticLaw():
            found.setdefault(reaction.getId(), set()).update(names_in(reaction.getKineticLaw().getMath()))
    return {name: used & found.keys() for name, used in found.items()}


def names_in(tree: libsbml.ASTNode | None) -> Iterator[str]:
    stack = [] if tree is None else [tree]
    while stack:
        node = stack.pop()
        count = node.getNumChildren()
        if count:
            stack += [node.getChild(i) for i in range(count)]
        elif node.getType() == libsbml.AST_NAME:
            yield node.getName()


def _reachable(name: str, needs: Mapping[str, set[str]], enough: int) -> int:
    """How many quantities `name` depends on; counting stops once there are more than `enough`."""
    seen = set(needs[name])
    stack = list(seen)
    while stack and len(seen) <= enough:
        new = needs[stack.pop()] - seen
        seen |= new
        stack += new
    return len(seen)
