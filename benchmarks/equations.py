"""Right-hand sides for peers: straight-line Python for numba and JAX, printed from the symbols of our own models."""

import re
from collections.abc import Iterable, Sequence

import sympy
from sympy import Basic, Expr, Symbol
from sympy.printing.numpy import JaxPrinter
from sympy.printing.pycode import PythonCodePrinter

from mechanistic import KineticModel, time

_PARAMETER, _CONSTANT, _STATE, _SHARED = "p", "c", "x", "s"


class Hoisted:
    """The derivatives of a model with all that depends on parameters alone computed once, as a careful user would.

    Attributes:
        constants: expressions over parameters, what `c[0]`, `c[1]`, … stand for.
        rates: dx/dt, over `c`, `x` and time, one a state.
        jacobian: its nonzero derivatives, `(row, column)` to expression.
    """

    def __init__(self, model: KineticModel) -> None:
        expressions = [model.expand(rate) for rate in model.derivatives().values()]
        self._moving = {sympy.Symbol(name, real=True) for name in model.state_names} | {time}
        self._found: dict[Expr, Symbol] = {}
        names = [Symbol(name, real=True) for name in model.state_names]
        hoisted = [self._without_parameters(e) for e in expressions]
        state = {symbol: _element(_STATE, i) for i, symbol in enumerate(names)}
        parameters = {Symbol(n, real=True): _element(_PARAMETER, i) for i, n in enumerate(model.parameter_names)}
        self.jacobian = {
            (i, j): slope.xreplace(state)
            for i, rate in enumerate(hoisted)
            for j, name in enumerate(names)
            if name in rate.free_symbols and (slope := self._without_parameters(rate.diff(name))) != 0
        }
        self.rates = [rate.xreplace(state) for rate in hoisted]
        self.constants = [expression.xreplace(parameters) for expression in self._found]

    def _without_parameters(self, expression: Basic) -> Basic:
        """The expression with its parts over parameters alone replaced by constants."""
        if not expression.free_symbols or expression in self._moving or expression in self._found.values():
            return expression
        if not expression.free_symbols & self._moving and isinstance(expression, Expr):
            if expression.free_symbols <= set(self._found.values()):
                back = {symbol: value for value, symbol in self._found.items()}
                expression = expression.xreplace(back)
            return self._found.setdefault(expression, _element(_CONSTANT, len(self._found)))
        if isinstance(expression, sympy.Add | sympy.Mul):
            fixed = [a for a in expression.args if not a.free_symbols & self._moving and a.free_symbols]
            moving = [self._without_parameters(a) for a in expression.args if a not in fixed]
            together = [self._without_parameters(expression.func(*fixed))] if fixed else []
            return expression.func(*together, *moving)
        return expression.func(*(self._without_parameters(a) for a in expression.args))


def numba_source(model: KineticModel) -> str:
    """Functions `constants(p, c)`, `rates(t, x, f, c)` and `jacobian(t, x, j, c)` (dense, by rows) that fill arrays."""
    hoisted, printer = Hoisted(model), PythonCodePrinter()
    n = len(model.states)
    slopes = {i * n + j: e for (i, j), e in hoisted.jacobian.items()}
    functions = [
        _function("constants(p, c)", "c", enumerate(hoisted.constants), printer),
        _function("rates(t, x, f, c)", "f", enumerate(hoisted.rates), printer),
        _function("jacobian(t, x, j, c)", "j", slopes.items(), printer),
    ]
    sizes = f"CONSTANTS = {len(hoisted.constants)}\nSTATES = {n}\n"
    return "\n\n".join(["import math", sizes, *functions])


def jax_source(model: KineticModel) -> str:
    """Functions `constants(p)` and `rates(t, x, c)` that return arrays."""
    hoisted, printer = Hoisted(model), JaxPrinter({"fully_qualified_modules": True})
    functions = [
        _returning("constants(p)", hoisted.constants, printer),
        _returning("rates(t, x, c)", hoisted.rates, printer),
    ]
    return "\n\n".join(["import jax\nimport jax.numpy", *functions])


def torch_source(model: KineticModel) -> str:
    """Functions `constants(p)` and `rates(t, x, c)` of rows of patients, `(patient, …)`, that return tensors."""
    text = _BATCHED + jax_source(model).replace("import jax\nimport jax.numpy", "")
    text = re.sub(r"\b([pxc])\[(\d+)\]", r"\1[..., \2]", text)
    return text.replace("jax.numpy.stack(", "_stack(").replace("jax.numpy.", "torch.")


def jax_likelihood(model: KineticModel, outputs: Sequence[str]) -> str:
    """Functions `initial(p)` and `observed(t, x, p)`, the observables of these names, that return arrays."""
    printer = JaxPrinter({"fully_qualified_modules": True})
    states = {Symbol(name, real=True): _element(_STATE, i) for i, name in enumerate(model.state_names)}
    parameters = {Symbol(n, real=True): _element(_PARAMETER, i) for i, n in enumerate(model.parameter_names)}
    starts = [model.expand(state.initial).xreplace(parameters) for state in model.states]
    seen = [model.expand(model.observables[name]).xreplace(parameters | states) for name in outputs]
    functions = [_returning("initial(p)", starts, printer), _returning("observed(t, x, p)", seen, printer)]
    return "\n\n".join(["import jax\nimport jax.numpy", *functions])


def numpy_likelihood(model: KineticModel, outputs: Sequence[str]) -> str:
    """The same for rows of NumPy arrays, `(row, …)`; results are `(row, …)` as well."""
    text = jax_likelihood(model, outputs).replace("import jax\nimport jax.numpy", _ROWS)
    text = re.sub(r"\b([px])\[(\d+)\]", r"\1[..., \2]", text)
    return text.replace("jax.numpy.stack(", "_stack(").replace("jax.numpy.", "numpy.")


_ROWS = """import numpy


def _stack(parts):
    return numpy.stack(numpy.broadcast_arrays(*parts), -1)
"""

_BATCHED = """import torch


def _stack(parts):
    return torch.stack(torch.broadcast_tensors(*(torch.as_tensor(part) for part in parts)), -1)
"""


def _element(array: str, index: int) -> Symbol:
    return Symbol(f"{array}[{index}]", real=True)


def _function(head: str, target: str, expressions: Iterable[tuple[int, Expr]], printer: PythonCodePrinter) -> str:
    places, values = zip(*expressions, strict=True)
    lines, reduced = _shared(values, printer)
    lines += [f"{target}[{place}] = {printer.doprint(value)}" for place, value in zip(places, reduced, strict=True)]
    return _text(head, lines)


def _returning(head: str, expressions: Sequence[Expr], printer: JaxPrinter) -> str:
    lines, reduced = _shared(expressions, printer)
    elements = ",\n        ".join(f"{printer.doprint(value)} + 0.0" for value in reduced)
    return _text(head, [*lines, f"return jax.numpy.stack([\n        {elements},\n    ])"])


def _shared(expressions: Sequence[Expr], printer: PythonCodePrinter | JaxPrinter) -> tuple[list[str], list[Expr]]:
    """Lines that compute common sub-expressions, and the expressions over them."""
    names = sympy.numbered_symbols(_SHARED, real=True)
    parts, reduced = sympy.cse([e.xreplace({time: Symbol("t")}) for e in expressions], names)
    return [f"{name} = {printer.doprint(part)}" for name, part in parts], list(reduced)


def _text(head: str, lines: Sequence[str]) -> str:
    return f"def {head}:\n" + "".join(f"    {line}\n" for line in lines)
