"""Growth of tumours and its inhibition by drugs."""

from sympy import exp, symbols

from mechanistic.model import KineticModel, Parameter, Reaction, State, time

_CHOSEN = "chosen for illustration"


def simeoni_tumour() -> KineticModel:
    """Tumour growth in mice under paclitaxel: exponential, then linear growth; damaged cells die through three stages.

    Dose the state `drug` (mg/kg; the study: 30 mg/kg every 4 days, three times); tumour in g; time in day. Cycling
    cells grow with lambda0 x1 / (1 + (lambda0/lambda1 w)^psi)^(1/psi) and are hit with k2 C x1. Source: Simeoni et al.
    2004, paclitaxel, experiment 1 (table 2) and its two-compartment kinetics. Known: untreated growth is w0
    exp(lambda0 t) up to w = lambda1/lambda0 = 2.98 g and a line of slope lambda1 after it; a constant concentration
    above lambda0/k2 = 434 ng/mL eradicates the tumour.
    """
    drug, store = symbols("drug peripheral")
    stages = symbols("cycling damaged1 damaged2 damaged3")
    cycling = stages[0]
    k10, k12, k21, volume = symbols("k10 k12 k21 V")
    exponential, linear, psi, start, k1, k2 = symbols("lambda0 lambda1 psi w0 k1 k2")
    weight, concentration = symbols("w C")
    fitted, kinetics = "Simeoni 2004, paclitaxel, experiment 1", "Simeoni 2004, paclitaxel in mice, per day"
    growth = exponential * cycling / (1 + (exponential / linear * weight) ** psi) ** (1 / psi)
    return KineticModel(
        name="tumour growth inhibition by paclitaxel",
        states=(
            State("drug", unit="mg/kg", scale=10.0),
            State("peripheral", unit="mg/kg", scale=1.0),
            State("cycling", start, unit="g", scale=1.0),
            *(State(stage.name, unit="g", scale=0.1) for stage in stages[1:]),
        ),
        parameters=(
            Parameter("k10", 20.832, "1/day", f"elimination (0.868 1/h); {kinetics}"),
            Parameter("k12", 0.144, "1/day", f"to the periphery (0.006 1/h); {kinetics}"),
            Parameter("k21", 2.0112, "1/day", f"from the periphery (0.0838 1/h); {kinetics}"),
            Parameter("V", 0.81, "L/kg", f"central volume; {kinetics}"),
            Parameter("lambda0", 0.273, "1/day", f"rate of exponential growth; {fitted}"),
            Parameter("lambda1", 0.814, "g/day", f"rate of linear growth; {fitted}"),
            Parameter("psi", 20.0, "", "sharpness of the switch from exponential to linear; fixed in the study"),
            Parameter("w0", 0.055, "g", f"tumour at inoculation; {fitted}"),
            Parameter("k1", 0.968, "1/day", f"transit between stages of damage; {fitted}"),
            Parameter("k2", 0.000629, "mL/ng/day", f"potency; {fitted}"),
        ),
        reactions=(
            Reaction("elimination", "drug ->", k10 * drug),
            Reaction("to_periphery", "drug -> peripheral", k12 * drug),
            Reaction("from_periphery", "peripheral -> drug", k21 * store),
            Reaction("growth", "-> cycling", growth),
            Reaction("damage", "cycling -> damaged1", k2 * concentration * cycling),
            Reaction("decline1", "damaged1 -> damaged2", k1 * stages[1]),
            Reaction("decline2", "damaged2 -> damaged3", k1 * stages[2]),
            Reaction("death", "damaged3 ->", k1 * stages[3]),
        ),
        assignments={"w": sum(stages), "C": 1000 * drug / volume},
        observables={"weight": weight, "cp": concentration},
        source=(
            "Simeoni M, Magni P, Cammia C, De Nicolao G, Croci V, Pesenti E, Germani M, Poggesi I, Rocchetti M. "
            "Cancer Res 2004;64:1094-1101. doi:10.1158/0008-5472.CAN-03-2524"
        ),
        time_unit="day",
    )


def claret_tumour() -> KineticModel:
    """Tumour size in patients: exponential growth against a kill that fades as resistance appears.

    `size` is the sum of longest diameters in mm; time in week; `exposure` is the constant daily dose in g. The kill is
    KD exp(-resistance t) exposure, so the right-hand side depends on time. Source: Claret et al. 2009; values:
    illustrative. Known: `closed_form.claret_tumour`; the nadir is at log(KD exposure / KL) / resistance.
    """
    size, growth, kill, exposure, resistance, start = symbols("size KL KD exposure resistance size0")
    return KineticModel(
        name="tumour growth with appearing resistance",
        states=(State("size", start, unit="mm", scale=50.0),),
        parameters=(
            Parameter("size0", 80.0, "mm", f"sum of longest diameters at the start; {_CHOSEN}"),
            Parameter("KL", 0.02, "1/week", f"growth rate; {_CHOSEN}"),
            Parameter("KD", 0.025, "1/g/week", f"drug kill rate; {_CHOSEN}"),
            Parameter("exposure", 3.0, "g", f"daily dose; {_CHOSEN}"),
            Parameter("resistance", 0.05, "1/week", f"rate at which the effect fades; {_CHOSEN}"),
        ),
        reactions=(
            Reaction("growth", "-> size", growth * size),
            Reaction("kill", "size ->", kill * exp(-resistance * time) * exposure * size),
        ),
        observables={"change_from_baseline": size / start - 1},
        source="Claret L et al. J Clin Oncol 2009;27:4103-4108. doi:10.1200/JCO.2008.21.0807",
        time_unit="week",
    )
