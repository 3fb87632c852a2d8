"""Delays of a model said in SBML: what was before the start is the value at the start.

In SBML `time` and the rules hold at negative times as well (Level 3 Version 2 Core, section 3.4.6), so that a delayed
value that depends on time is written as one that stands still before the start.
"""

from collections.abc import Mapping

import libsbml

from mechanistic.sbml.mathematics import tree


def standing_still(node: libsbml.ASTNode, timed: Mapping[str, libsbml.ASTNode]) -> libsbml.ASTNode:
    """The same mathematics with each delayed value that depends on time held at its value at the start before it.

    Args:
        node: the mathematics; it stays as it is.
        timed: id of each rule that depends on time to its mathematics, without other rules in it.
    """
    copy = _rebuilt(node, [standing_still(child, timed) for child in _children(node)])
    if node.getType() == libsbml.AST_FUNCTION_DELAY and _depends_on_time(node.getChild(0), timed):
        before = tree(libsbml.AST_RELATIONAL_LT, _time(), _zero())
        held = tree(
            libsbml.AST_FUNCTION_PIECEWISE, _at_start(node.getChild(0), timed), before, copy.getChild(0).deepCopy()
        )
        copy.replaceChild(0, held, True)
    return copy


def _depends_on_time(node: libsbml.ASTNode, timed: Mapping[str, libsbml.ASTNode]) -> bool:
    if node.getType() == libsbml.AST_NAME_TIME or (node.getType() == libsbml.AST_NAME and node.getName() in timed):
        return True
    return any(_depends_on_time(child, timed) for child in _children(node))


def _at_start(node: libsbml.ASTNode, timed: Mapping[str, libsbml.ASTNode]) -> libsbml.ASTNode:
    if node.getType() == libsbml.AST_NAME_TIME:
        return _zero()
    if node.getType() == libsbml.AST_FUNCTION_DELAY:
        return _at_start(node.getChild(0), timed)
    if node.getType() == libsbml.AST_NAME and node.getName() in timed:
        return _at_start(timed[node.getName()], timed)
    return _rebuilt(node, [_at_start(child, timed) for child in _children(node)])


def _children(node: libsbml.ASTNode) -> list[libsbml.ASTNode]:
    return [node.getChild(i) for i in range(node.getNumChildren())]


def _rebuilt(node: libsbml.ASTNode, children: list[libsbml.ASTNode]) -> libsbml.ASTNode:
    copy = node.deepCopy()
    for i, child in enumerate(children):
        copy.replaceChild(i, child, True)
    return copy


def _time() -> libsbml.ASTNode:
    node = libsbml.ASTNode(libsbml.AST_NAME_TIME)
    node.setName("time")
    return node


def _zero() -> libsbml.ASTNode:
    node = libsbml.ASTNode(libsbml.AST_INTEGER)
    node.setValue(0)
    return node
