"""Syntax trees of a file turned into sympy expressions: names looked up, function definitions written in."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import final

import libsbml
import sympy
from sympy import Basic, Dummy, Expr
from sympy.logic.boolalg import Boolean

from mechanistic.errors import nearest
from mechanistic.model import symbol, time
from mechanistic.sbml.coverage import exhaustive
from mechanistic.sbml.extent import Extents
from mechanistic.sbml.findings import Findings
from mechanistic.sbml.mathematics import (
    BY_NODE,
    RECOGNISED,
    Row,
    Untranslatable,
    number,
    read_leaf,
    select,
    settled,
    truth,
)

NESTING_LIMIT = 150
"""Deepest nesting of mathematics; sympy walks expressions recursively within Python's limit of 1000 frames."""

NODE_LIMIT = 1_000_000
"""Most nodes that a file's mathematics may have once its function definitions are written in."""

TERM_LIMIT = 20_000
"""Most terms of one expression of the file."""

CONSTANT_LIMIT = 500
"""Most terms of an expression without any name in it; sympy looks into these to simplify them, at a growing cost."""

_CANNOT_EVALUATE = (ArithmeticError, AttributeError, NotImplementedError, TypeError, ValueError)


@final
@dataclass(frozen=True)
class Function:
    """A function definition of the file; `known` is the sympy function that it was written for, if any.

    `body` is None where the definition has no mathematics; it may stand in the file, but not be called.
    """

    arguments: tuple[str, ...]
    body: libsbml.ASTNode | None
    known: str = ""


@final
@dataclass(frozen=True, slots=True)
class _Call:
    """Where the translation stands: names in scope, depth, and the function definitions being written in."""

    scope: Mapping[str, Basic]
    depth: int = 0
    functions: tuple[str, ...] = ()

    def deeper(self) -> "_Call":
        return _Call(self.scope, self.depth + 1, self.functions)


@final
class Translator:
    """Translates the mathematics of one file; problems are noted with the place where they stand.

    Attributes:
        rate_targets: the symbol that stands for a `rateOf` in what was translated, to what it is the rate of.
    """

    def __init__(self, functions: Mapping[str, Function], findings: Findings) -> None:
        self._functions = functions
        self._findings = findings
        self._place = ""
        self._nodes = 0
        self._results: dict[tuple[str, tuple[Basic, ...]], Basic] = {}
        self._extents = Extents()
        self.rate_targets: dict[sympy.Symbol, Expr] = {}
        self._rates: dict[Expr, sympy.Symbol] = {}

    def expression(self, node: libsbml.ASTNode | None, scope: Mapping[str, Basic], place: str) -> Expr:
        """The number that `node` stands for; `place` says in words where it was found."""
        self._place = place
        if node is None:
            return self._refuse("has no mathematics")
        result = number(self._value(node, _Call(scope)))
        problem = _problem(result)
        return result if problem is None else self._refuse(problem)

    def condition(self, node: libsbml.ASTNode, scope: Mapping[str, Basic], place: str) -> Boolean:
        """The truth value that `node` stands for; a number is true unless it is zero."""
        self._place = place
        result = truth(self._value(node, _Call(scope)))
        problem = _problem(result)
        if problem is not None:
            self._refuse(problem)
            return sympy.false
        return result

    def _bounded(self, value: Basic) -> Basic:
        """`value`, unless it is too large; shared parts may hide that it would take for ever to walk through it."""
        extent = self._extents.of(value)
        if extent.acceptable and extent.terms <= TERM_LIMIT and (extent.terms <= CONSTANT_LIMIT or not value.is_number):
            return value
        return self._refuse("the mathematics is too large or too deep")

    def _refuse(self, problem: str) -> Expr:
        self._findings.unsupported(f"{self._place}: {problem}")
        return Dummy(real=True)

    def _invalid(self, problem: str) -> Expr:
        self._findings.invalid(f"{self._place}: {problem}")
        return Dummy(real=True)

    def _value(self, node: libsbml.ASTNode, call: _Call) -> Basic:
        self._nodes += 1
        if self._nodes > NODE_LIMIT:
            return self._refuse(f"the mathematics of the file has more than {NODE_LIMIT} terms")
        if call.depth > NESTING_LIMIT:
            return self._refuse(f"the mathematics is nested deeper than {NESTING_LIMIT} levels")
        try:
            leaf = read_leaf(node)
            if leaf is not None:
                return leaf
            return settled(self._bounded(self._branch(node, call)))
        except Untranslatable as problem:
            return self._refuse(str(problem))
        except _CANNOT_EVALUATE as problem:
            return self._refuse(f"cannot be evaluated ({problem})")

    def _branch(self, node: libsbml.ASTNode, call: _Call) -> Basic:
        kind = node.getType()
        if kind == libsbml.AST_NAME:
            return self._named(node.getName(), call.scope)
        if kind == libsbml.AST_NAME_TIME:
            return time
        if kind == libsbml.AST_FUNCTION:
            return self._call(node, call)
        if kind == libsbml.AST_FUNCTION_PIECEWISE:
            return self._piecewise(node, call.deeper())
        if kind in (libsbml.AST_PLUS, libsbml.AST_MINUS):
            return self._sum(node, call.deeper())
        if kind == libsbml.AST_FUNCTION_RATE_OF:
            return self._rate_of(node, call)
        row = BY_NODE.get(kind)
        if row is None:
            return self._refuse(f"{_describe(node)} is not supported")
        return self._row(row, node, call.deeper())

    def _named(self, name: str, scope: Mapping[str, Basic]) -> Basic:
        if name not in scope:
            return self._invalid(f"`{name}` is not defined{nearest(name, scope)}")
        return scope[name]

    def _rate_of(self, node: libsbml.ASTNode, call: _Call) -> Basic:
        """A symbol in place of a rate of change, which is known once all equations have been read."""
        children = tuple(_children(node))
        if len(children) != 1 or children[0].getType() != libsbml.AST_NAME:
            return self._invalid("rateOf takes one id")
        target = number(self._named(children[0].getName(), call.scope))
        if target not in self._rates:
            self._rates[target] = Dummy("rateOf", real=True)
            self.rate_targets[self._rates[target]] = target
        return self._rates[target]

    def _row(self, row: Row, node: libsbml.ASTNode, call: _Call) -> Basic:
        count = node.getNumChildren()
        if count < row.least or (row.most is not None and count > row.most):
            return self._invalid(f"{_describe(node)} has {count} arguments")
        children = _flattened(node) if row.node == libsbml.AST_TIMES else _children(node)
        return row.build(*(row.takes(self._value(child, call)) for child in children))

    def _sum(self, node: libsbml.ASTNode, call: _Call) -> Basic:
        """Sums and differences as one sum; long ones are often written as deep trees."""
        terms: list[Expr] = []
        stack = [(node, 1)]
        while stack:
            item, sign = stack.pop()
            kind, count = item.getType(), item.getNumChildren()
            if kind == libsbml.AST_MINUS and count not in (1, 2):
                return self._invalid(f"minus has {count} arguments")
            if kind == libsbml.AST_PLUS:
                stack += [(child, sign) for child in reversed(tuple(_children(item)))]
            elif kind == libsbml.AST_MINUS:
                first, *rest = _children(item)
                stack += [(child, -sign) for child in rest]
                stack.append((first, sign if rest else -sign))
            else:
                terms.append(sign * number(self._value(item, call)))
        return sympy.Add(*terms)

    def _piecewise(self, node: libsbml.ASTNode, call: _Call) -> Basic:
        values = [self._value(child, call) for child in _children(node)]
        pieces = [(value, truth(condition)) for value, condition in zip(values[::2], values[1::2], strict=False)]
        if len(values) % 2:
            return select(pieces, values[-1])
        if not pieces or not exhaustive([condition for _, condition in pieces]):
            return self._refuse("piecewise has no value for the remaining case (no <otherwise>)")
        # Where no earlier condition holds, the last one does.
        return select(pieces[:-1], pieces[-1][0])

    def _call(self, node: libsbml.ASTNode, call: _Call) -> Basic:
        name = node.getName()
        function = self._functions.get(name)
        if function is None:
            return self._invalid(f"the function `{name}` is not defined{nearest(name, self._functions)}")
        if function.body is None:
            return self._refuse(f"the function `{name}` is called, and its definition has no mathematics")
        if name in call.functions:
            return self._invalid(f"the function definition `{name}` calls itself")
        arguments = tuple(self._value(child, call.deeper()) for child in _children(node))
        if len(arguments) != len(function.arguments):
            needed = len(function.arguments)
            return self._invalid(f"the function `{name}` takes {needed} arguments, not {len(arguments)}")
        key = (name, arguments)
        if key not in self._results:
            scope = dict(zip(function.arguments, arguments, strict=True))
            inner = _Call(scope, call.depth + 1, (*call.functions, name))
            self._results[key] = self._written_in(function, scope, inner)
        return self._results[key]

    def _written_in(self, function: Function, scope: Mapping[str, Basic], inner: _Call) -> Basic:
        """The body with the arguments put in; the sympy function itself where the definition states its meaning."""
        if function.known in RECOGNISED:
            known, count, meaning = RECOGNISED[function.known]
            names = tuple(symbol(name) for name in function.arguments)
            plain = _Call({variable.name: variable for variable in names}, inner.depth, inner.functions)
            if len(names) == count and self._value(function.body, plain) == meaning(*names):
                return known(*(number(value) for value in scope.values()))
        return self._value(function.body, inner)


def _problem(value: Basic) -> str | None:
    """What keeps `value` from being computed, to complete a sentence; None where nothing does."""
    if value.has(sympy.nan, sympy.zoo, sympy.oo, -sympy.oo):
        return "is not finite"
    return "is not a real number" if value.has(sympy.I) else None


def _children(node: libsbml.ASTNode) -> Iterator[libsbml.ASTNode]:
    return (node.getChild(i) for i in range(node.getNumChildren()))


def _flattened(node: libsbml.ASTNode) -> list[libsbml.ASTNode]:
    """The factors of nested products, in order."""
    found: list[libsbml.ASTNode] = []
    stack = [node]
    while stack:
        item = stack.pop()
        if item.getType() == node.getType():
            stack += reversed(tuple(_children(item)))
        else:
            found.append(item)
    return found


def _describe(node: libsbml.ASTNode) -> str:
    if node.getType() == libsbml.AST_FUNCTION_DELAY:
        return "delay()"
    name = node.getName() or node.getOperatorName()
    return f"`{name}`" if name else f"the MathML construct number {node.getType()}"
