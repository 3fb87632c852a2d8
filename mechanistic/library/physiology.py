"""Regulation in the healthy body."""

from sympy import symbols

from mechanistic.model import KineticModel, Parameter, Reaction, State

_CHOSEN = "chosen for illustration"


def bergman_glucose() -> KineticModel:
    """The minimal model of glucose after an intravenous glucose and insulin load.

    `glucose` in mg/kg body weight (concentration glucose/VG in mg/dL), `insulin` in uU per mL of plasma, `remote`
    insulin action in 1/min, which sinks below zero where insulin is below its basal level; time in min. The second
    phase of the pancreatic response is left out: insulin above basal decays. Source: Bergman et al. 1979 and 1981;
    rate constants: a normal subject, as handed down with MINMOD (Pacini & Bergman 1986). Known: (Gb VG, 0, Ib) is the
    steady state; the insulin sensitivity is SI = p3/p2 = 4.0e-4 mL/uU/min;
    remote(t) = p3 (I0 - Ib) (exp(-p2 t) - exp(-n t)) / (n - p2).
    """
    glucose, remote, insulin = symbols("glucose remote insulin")
    p1, p2, p3, decay, basal_glucose, basal_insulin, volume = symbols("p1 p2 p3 n Gb Ib VG")
    glucose_start, insulin_start = symbols("G0 I0")
    subject = "normal subject, Pacini & Bergman 1986"
    return KineticModel(
        name="minimal model of glucose",
        states=(
            State("glucose", glucose_start * volume, unit="mg/kg", scale=200.0),
            State("remote", unit="1/min", scale=0.01, nonnegative=False),
            State("insulin", insulin_start, unit="uU/mL", scale=50.0),
        ),
        parameters=(
            Parameter("p1", 0.0317, "1/min", f"glucose effectiveness; {subject}"),
            Parameter("p2", 0.0123, "1/min", f"decay of remote insulin action; {subject}"),
            Parameter("p3", 4.92e-6, "mL/uU/min^2", f"rise of remote insulin action; {subject}"),
            Parameter("n", 0.2659, "1/min", f"decay of plasma insulin; {subject}"),
            Parameter("G0", 291.2, "mg/dL", f"glucose after the load; {subject}"),
            Parameter("I0", 364.8, "uU/mL", f"insulin after the load; {subject}"),
            Parameter("Gb", 90.0, "mg/dL", f"basal glucose; {_CHOSEN}"),
            Parameter("Ib", 7.0, "uU/mL", f"basal insulin; {_CHOSEN}"),
            Parameter("VG", 1.7, "dL/kg", "glucose distribution volume; usual figure"),
        ),
        reactions=(
            Reaction("production", "-> glucose", p1 * basal_glucose * volume),
            Reaction("disposal", "glucose ->", p1 * glucose),
            Reaction("insulin_action", "glucose ->", remote * glucose),
            Reaction("secretion", "-> insulin", decay * basal_insulin),
            Reaction("insulin_clearance", "insulin ->", decay * insulin),
        ),
        rates={"remote": p3 * (insulin - basal_insulin) - p2 * remote},
        observables={"plasma_glucose": glucose / volume, "plasma_insulin": insulin},
        source=(
            "Bergman RN, Ider YZ, Bowden CR, Cobelli C. Am J Physiol 1979;236:E667-E677. "
            "doi:10.1152/ajpendo.1979.236.6.E667; "
            "values: Pacini G, Bergman RN. Comput Methods Programs Biomed 1986;23:113-122. "
            "doi:10.1016/0169-2607(86)90106-9"
        ),
        time_unit="min",
    )
