"""How large expressions are when written out, found without writing them out."""

from collections.abc import Mapping
from typing import NamedTuple, final

from sympy import Basic

SIZE_LIMIT = 200_000
"""Most terms of an expression that is written out."""

DEPTH_LIMIT = 250
"""Deepest nesting of an expression that is written out; sympy's walks are recursive."""


class Extent(NamedTuple):
    """Terms and depth of an expression as a tree; a shared part counts each time that it occurs."""

    terms: int
    depth: int

    @property
    def acceptable(self) -> bool:
        """Whether sympy can work with an expression of this extent."""
        return self.terms <= SIZE_LIMIT and self.depth <= DEPTH_LIMIT


@final
class Extents:
    """Extents of expressions in which some symbols stand for expressions of known extent."""

    def __init__(self, known: Mapping[Basic, Extent] | None = None) -> None:
        self._known: dict[Basic, Extent] = dict(known or {})

    def define(self, variable: Basic, expression: Basic) -> Extent:
        """Measures `expression` and lets `variable` stand for it from now on."""
        extent = self.of(expression)
        self._known[variable] = extent
        return extent

    def of(self, expression: Basic) -> Extent:
        """The extent of `expression`; every distinct part is visited once."""
        stack = [expression]
        while stack:
            item = stack[-1]
            if item in self._known:
                stack.pop()
                continue
            pending = [part for part in item.args if part not in self._known]
            if pending:
                stack += pending
                continue
            parts = [self._known[part] for part in item.args]
            terms = 1 + sum(part.terms for part in parts)
            self._known[item] = Extent(terms, 1 + max((part.depth for part in parts), default=0))
            stack.pop()
        return self._known[expression]
