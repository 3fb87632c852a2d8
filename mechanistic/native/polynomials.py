"""Coefficients of the elementary functions.

Each polynomial is the best approximation in the maximum norm, found by the exchange algorithm of Remez in arithmetic of
60 digits and rounded to float64. The error is that of the rounded polynomial, relative to the function it serves.
"""

LN_2 = 0.6931471805599453
LN_2_REST = 2.3190468138462996e-17
"""ln 2 minus its float64."""

LN_2_SHORT = 0.693147180559663
LN_2_SHORT_REST = 2.8235290563031577e-13
"""ln 2 in two parts, the first with 12 zero bits at its end: its product with an exponent is exact."""

LOG2_E = 1.4426950408889634

THIRD = 1 / 3
THIRD_REST = 1.850371707708594e-17
"""1/3 minus its float64."""

EXP = (
    0.5,
    0.16666666666666685,
    0.04166666666660285,
    0.008333333333313977,
    0.0013888888927244992,
    0.00019841269904800917,
    2.4801508125051345e-05,
    2.755722617053276e-06,
    2.7625405186277895e-07,
    2.5115069339953754e-08,
)
"""`(e^r - 1 - r) / r²` in r for |r| ≤ ln(2) / 2, the first one held at 1/2; error 2^-57 of `e^r`."""

LOG = (
    0.6666666666666734,
    0.3999999999941652,
    0.28571428742060223,
    0.22222198601011806,
    0.18183563104271055,
    0.15314077263294965,
    0.1479571999125929,
)
"""`2 (atanh(s) / s - 1) / s²` in s² for |s| ≤ (√2 - 1) / (√2 + 1); error 2^-58 of `log`."""

ATANH_TAIL = (
    0.2000000000000112,
    0.14285714285053644,
    0.1111111125936812,
    0.09090892229471877,
    0.07693376761516461,
    0.06628449326859596,
    0.06597818284567389,
)
"""`(atanh(s) / s - 1 - s²/3) / s⁴` in s² on the same interval; error 2^-65 of `atanh`."""

COTANGENT = (
    1.0,
    -4.289868133696453,
    1.1252216662741765,
    0.12996034345337648,
    0.02653141157308381,
    0.006165562138246966,
    0.001496977183762744,
    0.00036967643399507495,
    9.193493374833132e-05,
    2.2912735142861567e-05,
    5.788923503219423e-06,
    1.2877695200970117e-06,
    5.425379982501468e-07,
)
"""`r (1 - r²) π cot(π r)` in r² for |r| ≤ 1/2; absolute error 2^-53."""

DIGAMMA = (1 / 12, -1 / 120, 1 / 252, -1 / 240, 1 / 132, -691 / 32760, 1 / 12)
"""`B_2n / 2n`, n = 1 … 7 (B: Bernoulli numbers): `ψ(x) = log x - 1/(2x) - Σ B_2n / (2n x^2n)`, DLMF 5.11.2."""

TRIGAMMA = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6)
"""`B_2n`, n = 1 … 7: `ψ'(x) = 1/x + 1/(2x²) + Σ B_2n / x^(2n+1)`, DLMF 5.15.8."""
