"""Calls of kernels from compiled loops, by address."""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_POINTER = ir.PointerType()


def _call(typing_context: Any, address: Any, arguments: Any) -> tuple[Any, Callable[..., Any]]:
    """Calls `void f(double* …)` at an address; `arguments` is a tuple of addresses."""
    signature = types.void(types.intp, types.UniTuple(types.intp, len(arguments)))

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, values: tuple[ir.Value, ir.Value]) -> Any:
        count = len(signature.args[1])
        kind = ir.FunctionType(ir.VoidType(), [_POINTER] * count)
        function = builder.inttoptr(values[0], kind.as_pointer())
        addresses = [builder.inttoptr(builder.extract_value(values[1], i), _POINTER) for i in range(count)]
        builder.call(function, addresses)
        return context.get_dummy_value()

    return signature, generate


call: Any = intrinsic(_call)
"""`call(address, (first, second, …))`, in compiled loops only."""
