"""Notation for vectors of float64 in LLVM IR: `a * b + 1.0` appends the instructions that compute it, lane by lane."""

import struct
from collections.abc import Sequence
from typing import final

from llvmlite import ir

DOUBLE = ir.DoubleType()
WORD = ir.IntType(64)
FRACTION_BITS = 52
BIAS = 1023


def bit_pattern(number: float) -> int:
    """The 64 bits of a float64 as a whole number."""
    return int(struct.unpack("<q", struct.pack("<d", number))[0])


SHIFT = 1.5 * 2.0**FRACTION_BITS
"""A number added to it is rounded to a whole one, whose bits are the lowest of the sum: AVX2 has no conversion."""


@final
class Mask:
    """A truth value in each lane.

    There is no `and` and no `or`: nested choices are faster, as AVX2 packs and unpacks the masks that it combines.
    """

    __slots__ = ("builder", "value")

    def __init__(self, builder: ir.IRBuilder, value: ir.Value) -> None:
        self.builder = builder
        self.value = value

    def choose(self, yes: "Operand", no: "Operand") -> "Vector":
        """`yes` in the lanes where this is true, `no` in the others."""
        lanes = self.value.type.count
        return Vector(self.builder, self.builder.select(self.value, _lifted(yes, lanes), _lifted(no, lanes)))


@final
class Vector:
    """A float64 in each lane; numbers among the operands stand for themselves in all lanes.

    Comparisons are false where a lane is NaN. No operation may be reordered or fused: error terms rely on it.
    """

    __slots__ = ("builder", "value")

    def __init__(self, builder: ir.IRBuilder, value: ir.Value) -> None:
        self.builder = builder
        self.value = value

    def like(self, value: ir.Value) -> "Vector":
        return Vector(self.builder, value)

    def lift(self, operand: "Operand") -> ir.Value:
        """The value of an operand, a number repeated for all lanes."""
        return _lifted(operand, self.value.type.count)

    def number(self, value: float) -> "Vector":
        """The same number in all lanes."""
        return self.like(self.lift(value))

    def __add__(self, other: "Operand") -> "Vector":
        return self.like(self.builder.fadd(self.value, self.lift(other)))

    def __sub__(self, other: "Operand") -> "Vector":
        return self.like(self.builder.fsub(self.value, self.lift(other)))

    def __rsub__(self, other: float) -> "Vector":
        return self.like(self.builder.fsub(self.lift(other), self.value))

    def __mul__(self, other: "Operand") -> "Vector":
        return self.like(self.builder.fmul(self.value, self.lift(other)))

    def __truediv__(self, other: "Operand") -> "Vector":
        return self.like(self.builder.fdiv(self.value, self.lift(other)))

    def __rtruediv__(self, other: float) -> "Vector":
        return self.like(self.builder.fdiv(self.lift(other), self.value))

    def __neg__(self) -> "Vector":
        return self.like(self.builder.fneg(self.value))

    def __lt__(self, other: "Operand") -> Mask:
        return self._compare("<", other)

    def __le__(self, other: "Operand") -> Mask:
        return self._compare("<=", other)

    def __gt__(self, other: "Operand") -> Mask:
        return self._compare(">", other)

    def __ge__(self, other: "Operand") -> Mask:
        return self._compare(">=", other)

    def equals(self, other: "Operand") -> Mask:
        return self._compare("==", other)

    def differs(self, other: "Operand") -> Mask:
        return self._compare("!=", other)

    def unordered(self, other: "Operand") -> Mask:
        """Where this or the other is NaN."""
        return Mask(self.builder, self.builder.fcmp_unordered("uno", self.value, self.lift(other)))

    def _compare(self, operator: str, other: "Operand") -> Mask:
        return Mask(self.builder, self.builder.fcmp_ordered(operator, self.value, self.lift(other)))

    def absolute(self) -> "Vector":
        return self._intrinsic("fabs")

    def floor(self) -> "Vector":
        return self._intrinsic("floor")

    def ceil(self) -> "Vector":
        return self._intrinsic("ceil")

    def sqrt(self) -> "Vector":
        return self._intrinsic("sqrt")

    def with_sign_of(self, other: "Operand") -> "Vector":
        return self._intrinsic("copysign", other)

    def fma(self, factor: "Operand", addend: "Operand") -> "Vector":
        """`self * factor + addend`, rounded once."""
        return self._intrinsic("fma", factor, addend)

    def at_most(self, bound: float) -> "Vector":
        """The smaller one; NaN stays NaN."""
        return (self > bound).choose(bound, self)

    def at_least(self, bound: float) -> "Vector":
        """The larger one; NaN stays NaN."""
        return (self < bound).choose(bound, self)

    def polynomial(self, coefficients: Sequence[float]) -> "Vector":
        """`c_0 + c_1 x + c_2 x² + …` after Estrin: pairs side by side, so that few operations wait for others."""
        terms: list[Operand] = list(coefficients)
        power = self
        while len(terms) > 1:
            pairs = [power.fma(terms[i + 1], terms[i]) for i in range(0, len(terms) - 1, 2)]
            terms = [*pairs, *terms[2 * len(pairs) :]]
            if len(terms) > 1:
                power = power * power
        return self.like(self.lift(terms[0]))

    def bits(self) -> ir.Value:
        """The bit patterns of all lanes."""
        return self.builder.bitcast(self.value, ir.VectorType(WORD, self.value.type.count))

    def words(self, pattern: int) -> ir.Constant:
        """The same bit pattern for all lanes."""
        count = self.value.type.count
        return ir.Constant(ir.VectorType(WORD, count), [ir.Constant(WORD, pattern)] * count)

    def from_bits(self, bits: ir.Value) -> "Vector":
        return self.like(self.builder.bitcast(bits, self.value.type))

    def _intrinsic(self, name: str, *operands: "Operand") -> "Vector":
        kind = self.value.type
        module = self.builder.module
        symbol = f"llvm.{name}.v{kind.count}f64"
        values = [self.value, *(self.lift(each) for each in operands)]
        if symbol not in module.globals:
            ir.Function(module, ir.FunctionType(kind, [kind] * len(values)), symbol)
        return self.like(self.builder.call(module.globals[symbol], values))


Operand = Vector | float


def _lifted(operand: Operand, lanes: int) -> ir.Value:
    if isinstance(operand, Vector):
        return operand.value
    return ir.Constant(ir.VectorType(DOUBLE, lanes), [ir.Constant(DOUBLE, float(operand))] * lanes)


def power_of_two(shifted: Vector) -> Vector:
    """`2^k` for `shifted = k + SHIFT` with a whole k from -1022 to 1023."""
    builder = shifted.builder
    exponent = builder.shl(shifted.bits(), shifted.words(FRACTION_BITS))
    return shifted.from_bits(builder.add(exponent, shifted.words(BIAS << FRACTION_BITS)))


def split_exponent(x: Vector, *, tiny: bool = True) -> tuple[Vector, Vector]:
    """Whole `k` and `m` from √½ to √2 with `x = 2^k m`, for every positive finite x, subnormal ones if `tiny`."""
    builder = x.builder
    bits, offset = x.bits(), x.number(2.0**FRACTION_BITS + BIAS)
    if tiny:
        subnormal = x < 2.0**-1022
        bits = subnormal.choose(x * 2.0**54, x).bits()
        offset = subnormal.choose(2.0**FRACTION_BITS + BIAS + 54, offset)
    one = BIAS << FRACTION_BITS
    biased = builder.add(bits, x.words(one - bit_pattern(0.5**0.5)))
    # Or-ing the exponent into the fraction of 2^52 makes it a float64, as AVX2 cannot convert.
    field = builder.lshr(biased, x.words(FRACTION_BITS))
    whole = x.from_bits(builder.or_(field, x.words(bit_pattern(2.0**FRACTION_BITS))))
    exponent = builder.and_(biased, x.words(-1 << FRACTION_BITS))
    m = x.from_bits(builder.add(builder.sub(bits, exponent), x.words(one)))
    return whole - offset, m
