"""Small models whose rests are known."""

from mechanistic import Event, KineticModel, Parameter, Reaction, State, symbol

A, B, X, Y, E, S, P = (symbol(name) for name in ["A", "B", "X", "Y", "E", "S", "P"])
k, d, f, b = (symbol(name) for name in ("k", "d", "f", "b"))

PRODUCTION = KineticModel(
    "production and degradation",
    [State("A", 0.0, "nmol", scale=1.0)],
    [Parameter("k", 3.0), Parameter("d", 0.5)],
    [Reaction("make", "-> A", k), Reaction("lose", "A ->", d * A)],
    observables={"double": 2 * A},
    time_unit="h",
)

ISOMERS = KineticModel(
    "isomerisation",
    [State("A", 1.0), State("B", 0.5)],
    [Parameter("f", 0.3), Parameter("b", 0.1)],
    [Reaction("there", "A -> B", f * A), Reaction("back", "B -> A", b * B)],
)

INFUSION = KineticModel(
    "two compartments under infusion",
    [State("C", 0.0, scale=1.0), State("T", 0.0, scale=1.0)],
    [Parameter("R", 5.0), Parameter("e", 0.2), Parameter("i", 0.7), Parameter("o", 0.3)],
    [
        Reaction("infuse", "-> C", symbol("R")),
        Reaction("eliminate", "C ->", symbol("e") * symbol("C")),
        Reaction("into", "C -> T", symbol("i") * symbol("C")),
        Reaction("out", "T -> C", symbol("o") * symbol("T")),
    ],
)

_V, _W, _J, _K = (symbol(name) for name in ("v1", "v2", "J1", "J2"))
GOLDBETER_KOSHLAND = KineticModel(
    "covalent modification",
    [State("W", 1.0), State("M", 0.0, scale=1.0)],
    [Parameter("v1", 1.1), Parameter("v2", 1.0), Parameter("J1", 0.05), Parameter("J2", 0.08)],
    [
        Reaction("modify", "W -> M", _V * symbol("W") / (_J + symbol("W"))),
        Reaction("restore", "M -> W", _W * symbol("M") / (_K + symbol("M"))),
    ],
)

# dx/dt = x (1 - x) (x - a): at rest in 0, a and 1, of which a is not stable.
SWITCH = KineticModel(
    "bistable switch",
    [State("X", 0.5, scale=1.0, nonnegative=False)],
    [Parameter("a", 0.4)],
    rates={"X": X * (1 - X) * (X - symbol("a"))},
)

# dx/dt = m + x²: a stable and an unstable rest for m < 0, which meet at m = 0.
FOLD = KineticModel(
    "fold",
    [State("X", -1.0, scale=1.0, nonnegative=False)],
    [Parameter("m", 0.0)],
    rates={"X": symbol("m") + X**2},
)

RESET = KineticModel(
    "half is taken out at a threshold",
    [State("A", 1.0), State("B", 0.0, scale=1.0)],
    [Parameter("f", 0.3), Parameter("b", 0.1)],
    [Reaction("there", "A -> B", f * A), Reaction("back", "B -> A", b * B)],
    events=[Event("take", A < 0.6, {"A": A / 2})],
)

CENTRE = KineticModel(
    "a centre",
    [State("X", 1.0), State("Y", 1.0)],
    [Parameter("k", 1.0), Parameter("d", 1.0)],
    [Reaction("grow", "X -> 2 X", k * X), Reaction("eat", "X + Y -> 2 Y", X * Y), Reaction("die", "Y ->", d * Y)],
)
