"""Small systems by which solvers are measured."""

from sympy import symbols

from mechanistic.model import KineticModel, Parameter, Reaction, State


def robertson() -> KineticModel:
    """Robertson's autocatalytic reaction: three species, rate constants over nine orders of magnitude.

    Dimensionless amounts and time. Source: Robertson HH 1966; Hairer & Wanner, Solving Ordinary Differential Equations
    II, section IV.1. Known: A + B + C = 1; at t = 40 A = 0.7158271, B = 9.1855e-6; at t = 1e11
    A = 2.083340149701255e-8, B = 8.333360770334713e-14 (Test Set for IVP Solvers, problem ROBER).
    """
    first, second, third = symbols("A B C")
    k1, k2, k3 = symbols("k1 k2 k3")
    return KineticModel(
        name="Robertson's reaction",
        states=(State("A", 1, scale=1.0), State("B", scale=1e-4), State("C", scale=1.0)),
        parameters=(
            Parameter("k1", 0.04, "", "A -> B; Robertson 1966"),
            Parameter("k2", 3e7, "", "2 B -> B + C; Robertson 1966"),
            Parameter("k3", 1e4, "", "B + C -> A + C; Robertson 1966"),
        ),
        reactions=(
            Reaction("slow", "A -> B", k1 * first),
            Reaction("autocatalysis", "B -> C", k2 * second**2),
            Reaction("return", "B -> A", k3 * second * third),
        ),
        observables={"product": third},
        source=(
            "Robertson HH. The solution of a set of reaction rate equations. In: Walsh J (ed), Numerical Analysis: "
            "An Introduction. Academic Press 1966, pp 178-182"
        ),
        time_unit="",
    )


def hires() -> KineticModel:
    """High irradiance response of photomorphogenesis: eight reactants, stiff.

    Dimensionless amounts and time, on [0, 321.8122]. Source: Schaefer E 1975; Hairer & Wanner II, section IV.10. Known:
    y7 + y8 = 0.0057; the reference end values stand in the Test Set for IVP Solvers, problem HIRES (y1 =
    7.371312573e-4, y8 = 2.850001605e-3).
    """
    y = symbols("y1:9")
    unary = (
        ("y1 -> y2", 1.71),
        ("y2 -> y1", 0.43),
        ("y2 -> y4", 8.32),
        ("y3 -> y1", 8.32),
        ("y3 -> y4", 1.71),
        ("y4 -> y3", 0.43),
        ("y4 -> y6", 0.69),
        ("y5 -> y6", 1.71),
        ("y5 -> y3", 0.035),
        ("y6 -> y5", 0.43),
        ("y7 -> y6 + y8", 0.69),
        ("y7 -> y5 + y8", 0.43),
        ("y7 -> y8", 0.69),
    )
    table = "Schaefer 1975, as given by Hairer & Wanner"
    starts = {"y1": 1, "y8": symbols("y80")}
    return KineticModel(
        name="high irradiance response",
        states=tuple(State(s.name, starts.get(s.name, 0), scale=1.0 if s == y[0] else 1e-2) for s in y),
        parameters=(
            *(Parameter(f"k{i}", value, "", f"{equation}; {table}") for i, (equation, value) in enumerate(unary, 1)),
            Parameter("k14", 280.0, "", f"y6 + y8 -> y7; {table}"),
            Parameter("source1", 0.0007, "", f"inflow of y1; {table}"),
            Parameter("y80", 0.0057, "", f"y8 at the start; {table}"),
        ),
        reactions=(
            *(
                Reaction(f"r{i}", equation, symbols(f"k{i}") * symbols(equation.split()[0]))
                for i, (equation, _) in enumerate(unary, 1)
            ),
            Reaction("r14", "y6 + y8 -> y7", symbols("k14") * y[5] * y[7]),
            Reaction("inflow", "-> y1", symbols("source1")),
        ),
        observables={"response": y[6]},
        source=(
            "Schaefer E. A new approach to explain the high irradiance responses of photomorphogenesis on the basis of "
            "phytochrome. J Math Biol 1975;2:41-56. doi:10.1007/BF00276015"
        ),
        time_unit="",
    )
