"""Dynamics of viruses within a host; amounts are per mL, that is, of a unit volume."""

from sympy import symbols

from mechanistic.model import KineticModel, Parameter, Reaction, State


def perelson_hiv() -> KineticModel:
    """HIV-1 after a protease inhibitor: infected cells, infectious and non-infectious virions.

    Per mL of plasma; time in day; the drug acts from time 0 on and makes every new virion non-infectious. The host was
    in steady state before, which fixes the infected cells at c V0/(N delta) and the infection at c/N per virion.
    Source: Perelson et al. 1996, patient 105 (c 2.06/day, delta 0.53/day); `V0` and `N` as in the PEtab benchmark
    problem built from it. Known: `closed_form.biphasic_virus` for the total virus, whose decline turns from slope c to
    slope delta.
    """
    infected, infectious, harmless = symbols("infected infectious noninfectious")
    clearance, loss, burst, start = symbols("c delta N V0")
    return KineticModel(
        name="HIV-1 under a protease inhibitor",
        states=(
            State("infected", clearance * start / (burst * loss), unit="cells/mL", scale=1e4),
            State("infectious", start, unit="virions/mL", scale=1e6),
            State("noninfectious", unit="virions/mL", scale=1e6),
        ),
        parameters=(
            Parameter("c", 2.06, "1/day", "clearance of virions; Perelson 1996, patient 105"),
            Parameter("delta", 0.53, "1/day", "loss of productively infected cells; Perelson 1996, patient 105"),
            Parameter(
                "N", 480.0, "virions/cell", "virions made by an infected cell; PEtab problem Perelson_Science1996"
            ),
            Parameter("V0", 1.86e6, "virions/mL", "virus before the drug; PEtab problem Perelson_Science1996"),
        ),
        reactions=(
            Reaction("infection", "-> infected", clearance / burst * infectious),
            Reaction("death", "infected ->", loss * infected),
            Reaction("production", "-> noninfectious", burst * loss * infected),
            Reaction("clearance_infectious", "infectious ->", clearance * infectious),
            Reaction("clearance_noninfectious", "noninfectious ->", clearance * harmless),
        ),
        observables={"virus": infectious + harmless},
        source=(
            "Perelson AS, Neumann AU, Markowitz M, Leonard JM, Ho DD. Science 1996;271:1582-1586. "
            "doi:10.1126/science.271.5255.1582"
        ),
        time_unit="day",
    )


def baccam_influenza() -> KineticModel:
    """Influenza A in the upper airway, limited by its target cells.

    Target and infected cells as counts, virus as TCID50 per mL of nasal wash; time in day. Source: Baccam et al. 2006,
    average patient (table 2). Known: R0 = p beta T0/(c delta) = 10.8; T/T0 falls with the final-size relation
    log(T0/T) = R0 (1 - T/T0) + beta V0/c; the titre peaks on the third day; at late times virus and infected cells
    decline together.
    """
    target, infected, virus = symbols("target infected virus")
    beta, loss, production, clearance, cells, start = symbols("beta delta p c T0 V0")
    average = "Baccam 2006, average patient"
    return KineticModel(
        name="influenza A with limited target cells",
        states=(
            State("target", cells, unit="cells", scale=4e8),
            State("infected", unit="cells", scale=1e7),
            State("virus", start, unit="TCID50/mL", scale=1e4),
        ),
        parameters=(
            Parameter("beta", 2.7e-5, "mL/TCID50/day", f"infection; {average}"),
            Parameter("delta", 4.0, "1/day", f"death of infected cells; {average}"),
            Parameter("p", 0.012, "TCID50/mL/cell/day", f"virus made by an infected cell; {average}"),
            Parameter("c", 3.0, "1/day", f"clearance of virus; {average}"),
            Parameter("T0", 4e8, "cells", "epithelial cells of the upper airway; fixed in the study"),
            Parameter("V0", 0.093, "TCID50/mL", f"initial titre; {average}"),
        ),
        reactions=(
            Reaction("infection", "target -> infected", beta * target * virus),
            Reaction("death", "infected ->", loss * infected),
            Reaction("production", "-> virus", production * infected),
            Reaction("clearance", "virus ->", clearance * virus),
        ),
        observables={"titre": virus},
        source=(
            "Baccam P, Beauchemin C, Macken CA, Hayden FG, Perelson AS. J Virol 2006;80:7590-7599. "
            "doi:10.1128/JVI.01623-05"
        ),
        time_unit="day",
    )
