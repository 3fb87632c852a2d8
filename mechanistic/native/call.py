"""How loops are compiled, and how they call kernels: by address."""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core.caching import FunctionCache
from numba.core.runtime.nrt import rtsys
from numba.extending import intrinsic


class _Cache(FunctionCache):
    """Loads machine code from disk without the tables of types that only compiling needs, which take 0.2 s to fill."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        rtsys.initialize(target_context)
        with self._guard_against_spurious_io_errors():
            return self._load_overload(sig, target_context)


def compiled(function: Callable[..., Any]) -> Any:
    """Compiles a loop when it is first called, and keeps its machine code on disk."""
    dispatcher: Any = njit(cache=True, nogil=True, error_model="numpy")(function)
    dispatcher._cache = _Cache(function)
    return dispatcher


inlined = njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
"""For what is called at many steps: handing over many arrays would cost more than what is done with them."""

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
