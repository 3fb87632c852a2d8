"""Functions of tapes on vectors: short ones in place, formulas as functions of the module, rare ones lane by lane."""

import sys
from collections.abc import Callable, Sequence
from typing import final

import llvmlite.binding as llvm
from llvmlite import ir

from mechanistic.errors import nearest
from mechanistic.native.elementary import FORMULAS
from mechanistic.native.lanes import LANES
from mechanistic.native.vectors import DOUBLE, Vector


def _sign(x: Vector) -> Vector:
    """-1, 0 or 1; 0 for NaN, as in PyTorch."""
    return (x > 0.0).choose(1.0, (x < 0.0).choose(-1.0, 0.0))


def _minimum(a: Vector, b: Vector) -> Vector:
    return a.unordered(b).choose(a + b, (a < b).choose(a, b))


def _maximum(a: Vector, b: Vector) -> Vector:
    return a.unordered(b).choose(a + b, (a > b).choose(a, b))


IN_PLACE: dict[str, Callable[..., Vector]] = {
    "sqrt": Vector.sqrt,
    "abs": Vector.absolute,
    "floor": Vector.floor,
    "ceil": Vector.ceil,
    "sign": _sign,
    "min": _minimum,
    "max": _maximum,
}
"""A handful of instructions each."""

SCALAR = frozenset({"sin", "cos", "tan", "asin", "acos", "atan", "acosh", "atanh", "erf", "lgamma", "atan2"})
"""Functions of the C library, by the same names."""

SUPPORTED = frozenset({*IN_PLACE, *FORMULAS, *SCALAR})
"""Every operation of a tape that is neither logical nor plain arithmetic."""

# Targets without these instructions call them by these names.
_LIBRARY_SYMBOLS = sorted(SCALAR | {"fma", "floor", "ceil"})
_LIBRARIES = {"linux": "libm.so.6", "darwin": "libSystem.dylib", "win32": "ucrtbase.dll"}


def load_library() -> None:
    """Makes the C library's functions known to the linker of machine code; needed once a process, before any is loaded.

    Raises:
        OSError: the C library has not all of them.
    """
    if all(llvm.address_of_symbol(name) is not None for name in _LIBRARY_SYMBOLS):
        return
    try:
        llvm.load_library_permanently(_LIBRARIES.get(sys.platform, "libm.so"))
    except RuntimeError as error:
        raise OSError(f"the C library could not be loaded for compiled models: {error}") from error
    missing = [f"`{name}`" for name in _LIBRARY_SYMBOLS if llvm.address_of_symbol(name) is None]
    if missing:
        raise OSError(f"the C library lacks {', '.join(missing)}, which compiled models may call")


@final
class Functions:
    """Functions of one module, each added to it when it is first applied.

    A lane of a result depends on the same lane of the arguments only, bit for bit.

    Args:
        in_place: formulas become no functions but are written out where they are applied. That saves a quarter of the
            time in a loop over many numbers, and takes longer to compile.
    """

    def __init__(self, module: ir.Module, lanes: int = LANES, *, in_place: bool = False) -> None:
        self._module = module
        self._in_place = in_place
        self._vector = ir.VectorType(DOUBLE, lanes)

    def apply(self, builder: ir.IRBuilder, operation: str, arguments: Sequence[ir.Value]) -> ir.Value:
        """The value of `operation` for vectors of `lanes` float64 each.

        Raises:
            ValueError: `operation` is not one of `SUPPORTED`.
        """
        short = IN_PLACE | FORMULAS if self._in_place else IN_PLACE
        if operation in short:
            return short[operation](*(Vector(builder, argument) for argument in arguments)).value
        if operation not in SUPPORTED:
            raise ValueError(f"there is no function `{operation}` on vectors{nearest(operation, SUPPORTED)}")
        name = f"vector.{operation}"
        if name not in self._module.globals:
            self._define(name, operation, len(arguments))
        return builder.call(self._module.globals[name], arguments)

    def _define(self, name: str, operation: str, count: int) -> None:
        kind = ir.FunctionType(self._vector, [self._vector] * count)
        function = ir.Function(self._module, kind, name)
        function.linkage = "internal"
        function.attributes.add("nounwind")
        function.attributes.add("readnone")
        builder = ir.IRBuilder(function.append_basic_block("entry"))
        if operation in FORMULAS:
            result = FORMULAS[operation](*(Vector(builder, argument) for argument in function.args)).value
        else:
            # Inlined, a sine and a cosine of one number would be joined into one call, which not every library has.
            function.attributes.add("noinline")
            result = self._by_lanes(builder, operation, function.args)
        builder.ret(result)

    def _by_lanes(self, builder: ir.IRBuilder, operation: str, arguments: Sequence[ir.Value]) -> ir.Value:
        if operation not in self._module.globals:
            scalar = ir.Function(self._module, ir.FunctionType(DOUBLE, [DOUBLE] * len(arguments)), operation)
            scalar.attributes.add("nounwind")
            scalar.attributes.add("readnone")
        result: ir.Value = ir.Constant(self._vector, ir.Undefined)
        for i in range(self._vector.count):
            lane = ir.Constant(ir.IntType(32), i)
            parts = [builder.extract_element(argument, lane) for argument in arguments]
            value = builder.call(self._module.globals[operation], parts)
            result = builder.insert_element(result, value, lane)
        return result
