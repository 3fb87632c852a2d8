"""Mathematics of Level 3 Version 2 said in Version 1, which has fast reactions, but no `min`, `max` and `implies`."""

from functools import reduce
from typing import Final

import libsbml

from mechanistic.sbml.mathematics import FUNCTION_PREFIX, tree

EXTREMES: Final = {
    libsbml.AST_FUNCTION_MIN: ("Min", libsbml.AST_RELATIONAL_LT),
    libsbml.AST_FUNCTION_MAX: ("Max", libsbml.AST_RELATIONAL_GT),
}
"""Node type to the name of the sympy function, and the relation that picks the first of two arguments."""


def in_version_1(node: libsbml.ASTNode, used: set[str]) -> libsbml.ASTNode:
    """The same mathematics for Version 1.

    Args:
        node: the mathematics; it stays as it is.
        used: receives the names of the functions that `extreme_node` has to define.
    """
    children = [in_version_1(node.getChild(i), used) for i in range(node.getNumChildren())]
    kind = node.getType()
    if kind in EXTREMES:
        name, _ = EXTREMES[kind]
        used.add(name)
        return reduce(lambda a, b: _called(name, a, b), children)
    if kind == libsbml.AST_LOGICAL_IMPLIES:
        condition, consequence = children
        return tree(libsbml.AST_LOGICAL_OR, tree(libsbml.AST_LOGICAL_NOT, condition), consequence)
    copy = node.deepCopy()
    for i, child in enumerate(children):
        copy.replaceChild(i, child, True)
    return copy


def extreme_node(name: str) -> libsbml.ASTNode:
    """The lambda of two arguments for `Min` or `Max`."""
    relation = dict(EXTREMES.values())[name]
    lambda_node = libsbml.ASTNode(libsbml.AST_LAMBDA)
    for argument in ("a", "b"):
        bound = _named(argument)
        bound.setBvar()
        lambda_node.addChild(bound)
    first = tree(relation, _named("a"), _named("b"))
    lambda_node.addChild(tree(libsbml.AST_FUNCTION_PIECEWISE, _named("a"), first, _named("b")))
    return lambda_node


def _called(name: str, *arguments: libsbml.ASTNode) -> libsbml.ASTNode:
    node = tree(libsbml.AST_FUNCTION, *arguments)
    node.setName(FUNCTION_PREFIX + name)
    return node


def _named(name: str) -> libsbml.ASTNode:
    node = libsbml.ASTNode(libsbml.AST_NAME)
    node.setName(name)
    return node
