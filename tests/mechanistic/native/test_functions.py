"""Functions on vectors: against mpmath in units in the last place, special values, lanes, another process."""

import ctypes
import math
import subprocess
import sys
from collections.abc import Callable
from functools import cache

import llvmlite.binding as llvm
import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from llvmlite import ir

from mechanistic.compile.tape import BINARY, LOGICAL, UNARY
from mechanistic.native.elementary import FORMULAS
from mechanistic.native.functions import SUPPORTED, Functions, load_library
from mechanistic.native.lanes import LANES
from mechanistic.native.vectors import DOUBLE
from tests.syntax import ROOT

Call = Callable[..., np.ndarray]
Range = tuple[float, float]

INFINITY, NAN = math.inf, math.nan
ROOTS = (-0.504083008264455, -1.573498473162391, -2.610720868444145, 1.461632144968362)
"""Zeros of the digamma function near the points below; there an absolute error is all that can be asked."""

# Bounds in units in the last place: those that the functions state where they are formulas, 1/2 and a little where one
# operation of the processor does the work, and 4 for those of the C library (2 in glibc's manual, more elsewhere).
ONE_ARGUMENT: dict[str, tuple[object, float, tuple[Range, ...]]] = {
    "exp": (mpmath.exp, 1.1, ((-700, 709), (-1, 1), (-1e-9, 1e-9))),
    "log": (mpmath.log, 1.0, ((1e-300, 1e300), (0.5, 2), (1 - 1e-9, 1 + 1e-9), (5e-324, 1e-310))),
    "sqrt": (mpmath.sqrt, 0.51, ((0, 1e300), (0, 2))),
    "abs": (mpmath.fabs, 0.0, ((-5, 5),)),
    "sign": (mpmath.sign, 0.0, ((-5, 5),)),
    "floor": (mpmath.floor, 0.0, ((-5, 5), (-1e15, 1e15))),
    "ceil": (mpmath.ceil, 0.0, ((-5, 5), (-1e15, 1e15))),
    "sin": (mpmath.sin, 4.0, ((-20, 20), (-1e-9, 1e-9))),
    "cos": (mpmath.cos, 4.0, ((-20, 20),)),
    "tan": (mpmath.tan, 4.0, ((-20, 20),)),
    "asin": (mpmath.asin, 4.0, ((-1, 1),)),
    "acos": (mpmath.acos, 4.0, ((-1, 1),)),
    "atan": (mpmath.atan, 4.0, ((-9, 9),)),
    "sinh": (mpmath.sinh, 3.0, ((-710, 710), (-2, 2), (-1e-9, 1e-9))),
    "cosh": (mpmath.cosh, 2.0, ((-710, 710), (-2, 2))),
    "tanh": (mpmath.tanh, 3.0, ((-25, 25), (-1, 1), (-1e-9, 1e-9), (-1e-310, 1e-310))),
    "asinh": (mpmath.asinh, 4.0, ((-9, 9),)),
    "acosh": (mpmath.acosh, 4.0, ((1, 9),)),
    "atanh": (mpmath.atanh, 4.0, ((-1, 1),)),
    "erf": (mpmath.erf, 4.0, ((-5, 5),)),
    "lgamma": (mpmath.loggamma, 4.0, ((3, 100), (1e-9, 0.9))),
    # 1e-13 is 450 spacings of float64 next to 1.
    "digamma": (mpmath.digamma, 450.0, ((1.6, 100), (1e-9, 1.3), (-1.4, -0.6), (1e3, 1e10))),
    "trigamma": (lambda x: mpmath.polygamma(1, x), 45.0, ((1e-9, 100), (-9.9, -0.1), (1e3, 1e10))),
}
TWO_ARGUMENTS: dict[str, tuple[object, float, tuple[tuple[Range, Range], ...]]] = {
    "pow": (mpmath.power, 1.1, (((1e-9, 1e9), (-30, 30)), ((0.5, 2), (-1000, 1000)), ((1e-300, 1e300), (-1, 1)))),
    "min": (min, 0.0, (((-5, 5), (-5, 5)),)),
    "max": (max, 0.0, (((-5, 5), (-5, 5)),)),
    "atan2": (mpmath.atan2, 4.0, (((-5, 5), (-5, 5)),)),
    "xlogy": (lambda x, y: x * mpmath.log(y), 2.0, (((-5, 5), (1e-9, 9)),)),
}
SPECIAL = (0.0, -0.0, 1.0, -1.0, INFINITY, -INFINITY, NAN, 0.5, -0.5, 2.0, -2.0, 3.0, -3.0, 2.5, -2.5, 1e308, -1e308)
EDGES = (*SPECIAL, 5e-324, -5e-324, 2.0**53, 2.0**53 - 1, 1 - 2.0**-53, 1e-310, 709.7, 709.8, -745.1, -745.2, -1074.0)


def build(operation: str, arguments: int) -> llvm.ModuleRef:
    """A module of one function `evaluate(a, …, result)` on arrays of `LANES` float64."""
    module = ir.Module()
    vector = ir.VectorType(DOUBLE, LANES)
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [ir.PointerType()] * (arguments + 1)), "evaluate")
    builder = ir.IRBuilder(function.append_basic_block())
    values = [builder.load(pointer, typ=vector, align=8) for pointer in function.args[:-1]]
    builder.store(Functions(module).apply(builder, operation, values), function.args[-1], align=8)
    builder.ret_void()
    parsed = llvm.parse_assembly(str(module))
    parsed.verify()
    return parsed


def engine(module: llvm.ModuleRef, *, plain: bool = False) -> llvm.ExecutionEngine:
    """A compiler of this machine's instructions, or of those that every machine of its kind has."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    load_library()
    cpu, features = llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()
    choice = {"cpu": "generic", "features": ""} if plain else {"cpu": cpu, "features": features}
    machine = llvm.Target.from_default_triple().create_target_machine(**choice, opt=2)
    return llvm.create_mcjit_compiler(module, machine)


@cache
def compiled(operation: str, arguments: int = 1, *, plain: bool = False) -> Call:
    """`operation` on arrays `(n)`, `LANES` at a time; the last block is filled up with ones."""
    owner = engine(build(operation, arguments), plain=plain)
    owner.finalize_object()
    pointer = ctypes.POINTER(ctypes.c_double)
    function = ctypes.CFUNCTYPE(None, *[pointer] * (arguments + 1))(owner.get_function_address("evaluate"))

    def call(*values: np.ndarray) -> np.ndarray:
        blocks = -(-len(values[0]) // LANES)
        padded = np.ones((arguments, blocks * LANES))
        padded[:, : len(values[0])] = values
        result = np.empty(blocks * LANES)
        for i in range(0, blocks * LANES, LANES):
            rows = [*(row[i : i + LANES] for row in padded), result[i : i + LANES]]
            function(*(row.ctypes.data_as(pointer) for row in rows))
        return result[: len(values[0])]

    # The machine code lives as long as its engine.
    call.engine = owner  # type: ignore[attr-defined]
    return call


def drawn(ends: Range, seed: int) -> np.ndarray:
    """200 numbers: the ends, and between them evenly, on a logarithmic scale where the range is wide and positive."""
    low, high = ends
    u = np.random.default_rng(seed).uniform(size=198)
    wide = low > 0 and high / low > 1e3
    inside = np.exp(math.log(low) + u * (math.log(high) - math.log(low))) if wide else low + u * (high - low)
    return np.array([low, high, *np.clip(inside, low, high)])


def assert_close(got: np.ndarray, points: list[tuple[float, ...]], exact: Callable[..., object], bound: float) -> None:
    """Every result is within `bound` units in the last place; where the exact one overflows or is none, the same."""
    with mpmath.workdps(60):
        for value, point in zip(got, points, strict=True):
            reference = mpmath.mpmathify(exact(*map(mpmath.mpf, point)))
            nearest = float(reference)
            if math.isinf(nearest):
                assert value == nearest, point
                continue
            error = abs(mpmath.mpf(float(value)) - reference)
            assert error <= bound * mpmath.mpf(math.ulp(nearest)), (point, value, nearest)


def same(got: np.ndarray, expected: np.ndarray, tolerance: float) -> np.ndarray:
    """Where both are NaN, or of one sign and equal, or within a relative tolerance."""
    with np.errstate(all="ignore"):
        close = (got == expected) | (abs(got - expected) <= tolerance * abs(expected))
    return (np.isnan(got) & np.isnan(expected)) | (close & (np.signbit(got) == np.signbit(expected)))


def test_every_function_of_a_tape_is_supported_and_tested():
    plain = {"neg", "square"}
    assert ({"pow"} | UNARY.keys() | BINARY.keys()) - LOGICAL - plain == SUPPORTED
    assert ONE_ARGUMENT.keys() | TWO_ARGUMENTS.keys() == SUPPORTED


@pytest.mark.parametrize("operation", ONE_ARGUMENT)
def test_function_of_one_number_agrees_with_the_exact_one(operation):
    exact, bound, ranges = ONE_ARGUMENT[operation]
    for seed, ends in enumerate(ranges):
        x = drawn(ends, seed)
        if operation == "lgamma":
            x = x[x > 0]
        inside = np.isfinite(compiled(operation)(x))
        assert_close(compiled(operation)(x)[inside], [(v,) for v in x[inside].tolist()], exact, bound)
        assert inside.mean() > 0.98


@pytest.mark.parametrize("operation", TWO_ARGUMENTS)
def test_function_of_two_numbers_agrees_with_the_exact_one(operation):
    exact, bound, ranges = TWO_ARGUMENTS[operation]
    for seed, (first, second) in enumerate(ranges):
        x, y = drawn(first, seed), drawn(second, seed + 100)
        got = compiled(operation, 2)(x, y)
        assert_close(got, list(zip(x.tolist(), y.tolist(), strict=True)), exact, bound)


@pytest.mark.parametrize("operation", sorted(ONE_ARGUMENT.keys() - {"digamma", "trigamma"}))
def test_special_values_of_one_number_are_those_of_torch(operation):
    x = np.array(EDGES)
    got, expected = compiled(operation)(x), UNARY[operation](torch.from_numpy(x)).numpy()
    if operation in {"sin", "cos", "tan"}:
        # Huge angles: torch reduces them with errors of its own.
        got, expected = got[abs(x) < 1e300], expected[abs(x) < 1e300]
    # Torch's own functions are good to a few units in the last place.
    assert same(got, expected, 1e-14).all(), (x[: len(got)][~same(got, expected, 1e-14)], got, expected)


@pytest.mark.parametrize("operation", sorted(TWO_ARGUMENTS.keys() - {"pow"}))
def test_special_values_of_two_numbers_are_those_of_torch(operation):
    x, y = (part.ravel() for part in np.meshgrid(EDGES, EDGES))
    got, expected = compiled(operation, 2)(x, y), BINARY[operation](torch.from_numpy(x), torch.from_numpy(y)).numpy()
    # Which zero is the smaller one is left open, and so is the sign of 0 log y.
    right = same(got, expected, 1e-14) | ((got == 0) & (expected == 0) & (operation != "atan2"))
    assert right.all(), [(x[i], y[i], got[i], expected[i]) for i in np.flatnonzero(~right)]


def test_special_powers_are_those_of_the_standard():
    x, y = (part.ravel() for part in np.meshgrid(EDGES, EDGES))
    with np.errstate(all="ignore"):
        expected = np.power(x, y)
    got = compiled("pow", 2)(x, y)
    # Subnormal results keep few digits: one unit in the last place is the smallest number.
    with np.errstate(all="ignore"):
        right = same(got, expected, 1e-15) | (abs(got - expected) <= 5e-324)
    assert right.all(), [(x[i], y[i], got[i], expected[i]) for i in np.flatnonzero(~right)]


def test_polygamma_functions_at_poles_and_zeros():
    edges = np.array([0.0, -0.0, -1.0, -7.0, -(2.0**52) - 1, -(2.0**60), INFINITY, -INFINITY, NAN, -5e-324, 1e-310])
    expected = torch.digamma(torch.from_numpy(edges)).numpy()
    assert same(compiled("digamma")(edges), expected, 1e-14).all()
    expected = [INFINITY] * 6 + [0.0, NAN, NAN, INFINITY, INFINITY]
    assert same(compiled("trigamma")(edges), np.array(expected), 0).all()
    # The absolute error at a zero is that of the logarithm, the sum of fractions and the cotangent, each a few units.
    assert abs(compiled("digamma")(np.array(ROOTS))).max() < 1e-13


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(-300, 300))
def test_power_and_logarithm_undo_each_other(x, y):
    x, y = np.array([abs(x)]), np.array([y])
    log = compiled("log")(x)
    with np.errstate(all="ignore"):
        product = y * log
    if np.isfinite(product).all() and abs(product[0]) < 700:
        # The rounding of the product and of the logarithm, carried through the exponential.
        tolerance = 4e-16 * (2 + abs(product[0]))
        assert compiled("pow", 2)(x, y) == pytest.approx(compiled("exp")(product), rel=tolerance)


@given(st.floats(-700, 700))
def test_hyperbolic_functions_satisfy_their_identity(x):
    sinh, cosh, tanh = (compiled(name)(np.array([x]))[0] for name in ("sinh", "cosh", "tanh"))
    # Three functions of at most 3 ulp each, a quotient between them.
    assert sinh / cosh == pytest.approx(tanh, rel=2e-15, abs=0)
    assert compiled("exp")(np.array([abs(x)]))[0] == pytest.approx(abs(sinh) + cosh, rel=2e-15)


@pytest.mark.parametrize("operation", ["exp", "log", "pow", "tanh", "digamma", "sin"])
def test_a_lane_does_not_depend_on_the_others(operation):
    count = 2 if operation == "pow" else 1
    values = np.random.default_rng(0).normal(size=(count, LANES)) * 3
    whole = compiled(operation, count)(*values)
    for lane in range(LANES):
        others = np.full((count, LANES), NAN)
        others[:, (lane + 3) % LANES] = values[:, lane]
        alone = compiled(operation, count)(*others)[(lane + 3) % LANES]
        assert alone.tobytes() == whole[lane].tobytes()


@pytest.mark.parametrize("operation", [*FORMULAS, "floor", "max"])
def test_a_processor_without_fused_operations_gets_the_same_bits(operation):
    count = 1 + (operation in TWO_ARGUMENTS)
    values = np.random.default_rng(0).normal(size=(count, 200)) * 5
    assert compiled(operation, count, plain=True)(*values).tobytes() == compiled(operation, count)(*values).tobytes()


def test_an_unknown_function_is_refused_with_its_neighbours():
    with pytest.raises(ValueError, match=r"`tanj`.*`tanh`"):
        Functions(ir.Module()).apply(ir.IRBuilder(), "tanj", [])


_LOADER = """
import ctypes, pathlib, sys
import llvmlite.binding as llvm
from tests.mechanistic.native.test_functions import engine
owner = engine(llvm.parse_assembly(""))
owner.add_object_file(llvm.ObjectFileRef.from_data(pathlib.Path(sys.argv[1]).read_bytes()))
owner.finalize_object()
function = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(owner.get_function_address("evaluate"))
array = ctypes.c_double * 8
x, y = array(*[0.5] * 8), array()
function(x, y)
print(*[value.hex() for value in y])
"""


def test_machine_code_of_one_process_finds_the_library_in_another(tmp_path):
    objects = []
    owner = engine(build("erf", 1))
    owner.set_object_cache(lambda module, data: objects.append(data))
    owner.finalize_object()
    (tmp_path / "erf.o").write_bytes(objects[0])
    command = [sys.executable, "-c", _LOADER, str(tmp_path / "erf.o")]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert [float.fromhex(word) for word in answer.stdout.split()] == [math.erf(0.5)] * LANES
