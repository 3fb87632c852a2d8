"""Exponential, logarithm, power, hyperbolic and polygamma functions of vectors, without a call and without a branch.

Special values (zeros with their signs, infinities, NaN) are those of IEEE 754 and C99, Annex F. Accuracy is in units in
the last place (ulp) of the result, from a million numbers of each range against 64-bit fractions.
"""

import math
from collections.abc import Callable

from mechanistic.native.polynomials import (
    ATANH_TAIL,
    COTANGENT,
    DIGAMMA,
    EXP,
    LN_2,
    LN_2_REST,
    LN_2_SHORT,
    LN_2_SHORT_REST,
    LOG,
    LOG2_E,
    THIRD,
    THIRD_REST,
    TRIGAMMA,
)
from mechanistic.native.vectors import SHIFT, Vector, power_of_two, split_exponent

INFINITY = math.inf

# Beyond these, exp is 0 or infinite for certain, and the exponents stay within what `_halves` takes.
LOWEST, HIGHEST = -750.0, 710.0


def exp(x: Vector) -> Vector:
    """Within 1.1 ulp, also where the result is subnormal."""
    x = x.at_least(LOWEST).at_most(HIGHEST)
    k = _nearest_whole(x * LOG2_E)
    r = k.fma(-LN_2_REST, k.fma(-LN_2, x))
    return _scaled(_expm1_reduced(r) + 1.0, k)


def log(x: Vector) -> Vector:
    """Within 1 ulp; the formula of FDLIBM (Sun Microsystems, 1993, `e_log.c`)."""
    k, m = split_exponent(x)
    f = m - 1.0
    s = f / (m + 1.0)
    z = s * s
    half_square = f * f * 0.5
    inner = s.fma(half_square + z * z.polynomial(LOG), k * LN_2_SHORT_REST)
    return _log_edges(x, k.fma(LN_2_SHORT, f - (half_square - inner)))


def log_of_normal(x: Vector) -> Vector:
    """Within 2 ulp of the larger of 1 and the result; x is a positive normal number, infinity gives some finite one."""
    k, m = split_exponent(x, tiny=False)
    s = (m - 1.0) / (m + 1.0)
    z = s * s
    return k.fma(LN_2, s.fma(z * z.polynomial(LOG), s + s))


def exp_of_moderate(x: Vector) -> Vector:
    """Within 1e-14 for |x| ≤ 300."""
    shifted = x.fma(LOG2_E, SHIFT)
    r = (shifted - SHIFT).fma(-LN_2, x)
    return (_expm1_reduced(r) + 1.0) * power_of_two(shifted)


def power(x: Vector, y: Vector) -> Vector:
    """`x^y` within 1.1 ulp; a negative x has powers with whole y only, a zero or infinite one has all."""
    high, low = _log_parts(x.absolute())
    exponent = x.equals(1.0).choose(0.0, y)
    # As good as infinite, but its product with log 1 is 0.
    factor = exponent.at_most(1e300).at_least(-1e300)
    product = factor * high
    rest = factor.fma(high, -product) + factor * low
    # Where the logarithm is infinite, the error of the product is `inf - inf`.
    rest = (product.absolute() < 1000.0).choose(rest, 0.0)
    product = product.at_least(LOWEST).at_most(HIGHEST)
    k = _nearest_whole(product * LOG2_E)
    r = k.fma(-LN_2, product) + k.fma(-LN_2_REST, rest)
    # The sign goes to a factor that is known before the polynomial is.
    first, second = _halves(k)
    size = (_expm1_reduced(r) + 1.0) * first * (second * _sign_of_power(x, y))
    return exponent.equals(0.0).choose(1.0, size)


def tanh(x: Vector) -> Vector:
    """Within 3 ulp, also next to 0: `e / (e + 2)` with `e = expm1(2 |x|)`."""
    k, p = _expm1_parts((x.absolute() * 2.0).at_most(44.0))
    e = _expm1(k, p)
    return (e / (e + 2.0)).with_sign_of(x)


def sinh(x: Vector) -> Vector:
    """Within 3 ulp: `(e + e / (e + 1)) / 2` with `e = expm1(|x|)` for |x| < 1, else `(e^|x| - e^-|x|) / 2`."""
    size = x.absolute()
    k, p = _expm1_parts(size.at_most(712.0))
    e = _expm1(k, p)
    h = _scaled(p + 1.0, k - 1.0)
    near = size < 1.0
    quotient = near.choose(e, -0.25) / near.choose(e + 1.0, h)
    # Halved last: half of a subnormal number is not exact.
    return ((near.choose(e, h) + quotient) * near.choose(0.5, 1.0)).with_sign_of(x)


def cosh(x: Vector) -> Vector:
    """Within 2 ulp: `h + 1 / (4 h)` with `h = e^|x| / 2`, which is finite as long as the result is."""
    k, p = _expm1_parts(x.absolute().at_most(712.0))
    h = _scaled(p + 1.0, k - 1.0)
    return h + 0.25 / h


def asinh(x: Vector) -> Vector:
    """Within 2 ulp: the logarithm of `1 + u`, `u = |x| + x² / (1 + √(1 + x²))`, corrected for the rounding of 1 + u."""
    size = x.absolute()
    huge = size > 1e150
    small = huge.choose(0.0, size)
    square = small * small
    u = small + square / ((square + 1.0).sqrt() + 1.0)
    rounded = u + 1.0
    rest = huge.choose(math.log(2.0), (u - (rounded - 1.0)) / rounded)
    return (log(huge.choose(size, rounded)) + rest).with_sign_of(x)


def digamma(x: Vector) -> Vector:
    """Relative error below 1e-13 away from the zeros: reflection, recurrence up to 10, asymptotic series.

    At zeros infinite with the sign of -x, at negative whole numbers NaN, as in PyTorch.
    """
    negative = x < 0.0
    y = negative.choose(1.0 - x, x)
    # Σ 1/(x + i) as one fraction, which needs one division.
    numerator, denominator = y.number(0.0), y.number(1.0)
    for _ in range(10):
        small = y < 10.0
        numerator = small.choose(numerator.fma(y, denominator), numerator)
        denominator = small.choose(denominator * y, denominator)
        y = small.choose(y + 1.0, y)
    inverse = 1.0 / y
    z = inverse * inverse
    value = log(y) - (inverse * 0.5 + z * z.polynomial(DIGAMMA)) - numerator / denominator
    value = negative.choose(x.floor().equals(x).choose(math.nan, value - _pi_cotangent(x)), value)
    return x.equals(0.0).choose(x.number(-INFINITY).with_sign_of(-x), value)


def trigamma(x: Vector) -> Vector:
    """Relative error below 1e-14: `ψ'(x) + ψ'(1 - x) = π² / sin²(π x)`, recurrence up to 10, asymptotic series.

    Infinite at 0 and at negative whole numbers.
    """
    negative = x < 0.0
    y = negative.choose(1.0 - x, x)
    # Σ 1/(x + i)² as one fraction, which needs one division.
    numerator, denominator = y.number(0.0), y.number(1.0)
    for _ in range(10):
        small = y < 10.0
        square = y * y
        numerator = small.choose(numerator.fma(square, denominator), numerator)
        denominator = small.choose(denominator * square, denominator)
        y = small.choose(y + 1.0, y)
    inverse = 1.0 / y
    z = inverse * inverse
    series = inverse.fma((z * z.polynomial(TRIGAMMA)), z * 0.5) + inverse
    value = series + numerator / denominator
    cotangent = _pi_cotangent(x)
    return negative.choose(cotangent.fma(cotangent, math.pi**2 - value), value)


def xlogy(x: Vector, y: Vector) -> Vector:
    """`x log y`; 0 where x is 0, unless y is NaN."""
    product = x * log(y)
    zero = (x.equals(0.0)).choose(0.0, product)
    return y.unordered(y).choose(y, zero)


FORMULAS: dict[str, Callable[..., Vector]] = {
    "exp": exp,
    "log": log,
    "pow": power,
    "tanh": tanh,
    "sinh": sinh,
    "cosh": cosh,
    "asinh": asinh,
    "digamma": digamma,
    "trigamma": trigamma,
    "xlogy": xlogy,
}
"""The functions of this file by their names on tapes."""


def _nearest_whole(x: Vector) -> Vector:
    return (x + SHIFT) - SHIFT


def _pi_cotangent(x: Vector) -> Vector:
    """`π cot(π x)`; infinite or NaN at whole x."""
    r = x - (x + 0.5).floor()
    square = r * r
    return square.polynomial(COTANGENT) / (r * (1.0 - square))


def _halves(k: Vector) -> tuple[Vector, Vector]:
    """Two factors whose product is `2^k` for whole k from -2040 to 2040, which itself may be no float64."""
    shifted = k.fma(0.5, SHIFT)
    half = shifted - SHIFT
    return power_of_two(shifted), power_of_two((k - half) + SHIFT)


def _scaled(x: Vector, k: Vector) -> Vector:
    """`x · 2^k` for x between 1/2 and 2: into the subnormal numbers, 0 and infinity."""
    first, second = _halves(k)
    return x * first * second


def _sign_of_power(x: Vector, y: Vector) -> Vector:
    """1 or -1 as `x^y` has it for whole y; NaN for fractions y of a negative finite x."""
    half = y * 0.5
    one = x.number(1.0)
    for_whole = half.floor().equals(half).choose(one, one.with_sign_of(x))
    for_fraction = (x < 0.0).choose((x > -INFINITY).choose(math.nan, one), one)
    return y.floor().equals(y).choose(for_whole, for_fraction)


def _expm1_reduced(r: Vector) -> Vector:
    """`e^r - 1` for |r| ≤ ln(2) / 2."""
    return (r * r).fma(r.polynomial(EXP), r)


def _expm1_parts(x: Vector) -> tuple[Vector, Vector]:
    """Whole `k` and `p` with `e^x = 2^k (1 + p)`, where p is exact to its own last place."""
    k = _nearest_whole(x * LOG2_E)
    # Exact: k · LN_2 ends where r does.
    high = k.fma(-LN_2, x)
    r = k.fma(-LN_2_REST, high)
    rest = k.fma(-LN_2_REST, high - r)
    return k, r + (r * r).fma(r.polynomial(EXP), rest)


def _expm1(k: Vector, p: Vector) -> Vector:
    """`2^k (1 + p) - 1` for 0 ≤ k < 1000."""
    factor = power_of_two(k + SHIFT)
    return factor.fma(p, factor - 1.0)


def _log_edges(x: Vector, inside: Vector) -> Vector:
    """The logarithm where x is 0, infinite, negative or NaN, `inside` elsewhere."""
    # All but the last choice is made while `inside` is being computed.
    edge = (x >= 0.0).choose(x.equals(0.0).choose(-INFINITY, x), math.nan)
    return (edge.absolute() < INFINITY).choose(inside, edge)


def _log_parts(x: Vector) -> tuple[Vector, Vector]:
    """`log x` as a sum of two parts with a relative error of 2^-64, which a power needs: it is multiplied by up to 745.

    With `m` in [√½, √2), `log m = 2 atanh(s)`, `s = (m - 1) / (m + 1)`; s, s² and `s²/3 + s⁴/5 + …` in two parts each
    (T. J. Dekker, Numerische Mathematik 18 (1971), 10.1007/BF01397083, with fused operations for the products).
    """
    k, m = split_exponent(x)
    f = m - 1.0
    d = m + 1.0
    d_low = m - (d - 1.0)
    inverse = 1.0 / d
    s = f * inverse
    s_low = (-s).fma(d_low, (-s).fma(d, f)) * inverse
    z = s * s
    z_low = (s + s).fma(s_low, s.fma(s, -z))

    tail = z.polynomial(ATANH_TAIL)
    h = z.fma(tail, THIRD)
    h_low = z.fma(tail, THIRD - h) + THIRD_REST
    t = z * h
    t_low = z.fma(h, -t) + z.fma(h_low, z_low * h)

    double, double_low = s + s, s_low + s_low
    q = double * t
    q_low = double.fma(t, -q) + double.fma(t_low, double_low.fma(t, double_low))
    base = k * LN_2_SHORT
    main = base + double
    main_low = (base - main) + double + k.fma(LN_2_SHORT_REST, q_low)
    high = main + q
    return _log_edges(x, high), (main - high) + q + main_low
