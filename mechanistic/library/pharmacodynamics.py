"""Effects of drugs on the body: turnover of a response, blood cells under chemotherapy."""

from itertools import pairwise

from sympy import symbols

from mechanistic.model import KineticModel, Parameter, Reaction, State

_CHOSEN = "chosen for illustration"


def warfarin_pkpd() -> KineticModel:
    """Warfarin and the prothrombin complex activity `PCA`: oral absorption, and inhibition of a production.

    Dose the state `gut` (mg); `PCA` in % of normal; time in h. The drug lowers the production of `PCA`, whose loss
    stays first order: dPCA/dt = kin (1 - Imax C/(IC50 + C)) - kout PCA with kin = kout baseline (indirect response,
    model I). Structure: Dayneka NL, Garg V, Jusko WJ 1993, J Pharmacokinet Biopharm 21:457, doi:10.1007/BF01061691.
    Values: the review of Holford NHG 1986 (V 10 L, CL 0.2 L/h, IC50 1.5 mg/L, half-life of the complex 17 h; 70 kg).
    Known: without drug `PCA` stays at `baseline`; at a constant concentration it settles at
    baseline (1 - Imax C/(IC50 + C)), which also bounds it from below for the highest C reached.
    """
    gut, central, complex_activity = symbols("gut central PCA")
    ka, clearance, volume, baseline, kout, half, maximal = symbols("ka CL V baseline kout IC50 Imax")
    concentration, production = symbols("cp_now kin")
    review = "Holford 1986, for 70 kg"
    return KineticModel(
        name="warfarin and prothrombin complex activity",
        states=(
            State("gut", unit="mg", scale=100.0),
            State("central", unit="mg", scale=100.0),
            State("PCA", baseline, unit="%", scale=100.0),
        ),
        parameters=(
            Parameter("ka", 1.0, "1/h", f"absorption rate constant; {_CHOSEN}, peak at 4 h"),
            Parameter("CL", 0.2, "L/h", f"clearance; {review}"),
            Parameter("V", 10.0, "L", f"volume of distribution; {review}"),
            Parameter("baseline", 100.0, "%", "activity without drug; normal by definition"),
            Parameter("kout", 0.040773, "1/h", f"loss rate constant, log(2)/17 h; {review}"),
            Parameter("IC50", 1.5, "mg/L", f"concentration at half of the inhibition; {review}"),
            Parameter("Imax", 1.0, "", f"largest inhibited fraction; {_CHOSEN}, full inhibition"),
        ),
        reactions=(
            Reaction("absorption", "gut -> central", ka * gut),
            Reaction("elimination", "central ->", clearance / volume * central),
            Reaction("production", "-> PCA", production * (1 - maximal * concentration / (half + concentration))),
            Reaction("loss", "PCA ->", kout * complex_activity),
        ),
        assignments={"cp_now": central / volume, "kin": kout * baseline},
        observables={"cp": concentration, "activity": complex_activity},
        source=(
            "Dayneka NL, Garg V, Jusko WJ. J Pharmacokinet Biopharm 1993;21:457-478. doi:10.1007/BF01061691; "
            "values: Holford NHG. Clin Pharmacokinet 1986;11:483-504. doi:10.2165/00003088-198611060-00005"
        ),
        time_unit="h",
    )


def turnover_stimulated_loss() -> KineticModel:
    """A response whose loss is stimulated by a drug given intravenously (indirect response, model IV).

    Dose the state `central` (mg); `response` in its own unit; time in h. Source: Dayneka, Garg & Jusko 1993; values:
    illustrative. Known: baseline kin/kout; at a constant concentration the response settles at
    baseline / (1 + Smax C/(SC50 + C)), and its nadir after a bolus comes later and lower for larger doses.
    """
    central, response = symbols("central response")
    ke, volume, kin, kout, maximal, half = symbols("ke V kin kout Smax SC50")
    stimulation = maximal * (central / volume) / (half + central / volume)
    return KineticModel(
        name="turnover with stimulated loss",
        states=(State("central", unit="mg", scale=100.0), State("response", kin / kout, unit="unit", scale=30.0)),
        parameters=(
            Parameter("ke", 0.3, "1/h", f"elimination rate constant; {_CHOSEN}"),
            Parameter("V", 10.0, "L", f"volume of distribution; {_CHOSEN}"),
            Parameter("kin", 9.0, "unit/h", f"production; {_CHOSEN}"),
            Parameter("kout", 0.3, "1/h", f"loss rate constant; {_CHOSEN}"),
            Parameter("Smax", 2.0, "", f"largest stimulation; {_CHOSEN}"),
            Parameter("SC50", 1.0, "mg/L", f"concentration at half of the stimulation; {_CHOSEN}"),
        ),
        reactions=(
            Reaction("elimination", "central ->", ke * central),
            Reaction("production", "-> response", kin),
            Reaction("loss", "response ->", kout * (1 + stimulation) * response),
        ),
        observables={"cp": central / volume, "effect": response},
        source="Dayneka NL, Garg V, Jusko WJ. J Pharmacokinet Biopharm 1993;21:457-478. doi:10.1007/BF01061691",
        time_unit="h",
    )


def friberg_neutropenia() -> KineticModel:
    """Neutropenia after docetaxel: a self-renewing pool, three transit stages and the circulation.

    Dose the state `central` (mg; the study: 100 mg/m2, about 180 mg, over 1 h); cells in 1e9/L; time in h.
    Proliferation ktr (1 - slope Cp) (circ0/circulating)^gamma per cell, ktr = 4/MTT, Cp in umol/L. Source: Friberg et
    al. 2002 (docetaxel, final estimates: circ0 5.05, MTT 88.7 h, gamma 0.161, slope 8.58 L/umol), with the
    three-compartment kinetics of Bruno et al. 1996 that the study used. Known: every cell state equal to circ0 is a
    steady state; the nadir comes about 8 days after the dose, near 0.6e9/L, followed by an overshoot and a damped
    return.
    """
    central, shallow, deep = symbols("central shallow deep")
    pool, first, second, third, circulating = symbols("proliferating transit1 transit2 transit3 circulating")
    k10, k12, k21, k13, k31, volume, mass = symbols("k10 k12 k21 k13 k31 V molar_mass")
    circ0, mean, gamma, slope, ktr, drug = symbols("circ0 MTT gamma slope ktr Cp_now")
    bruno, friberg = "Bruno 1996", "Friberg 2002, docetaxel"
    growth = ktr * pool * (1 - slope * drug) * (circ0 / circulating) ** gamma
    chain = (pool, first, second, third, circulating)
    return KineticModel(
        name="docetaxel neutropenia",
        states=(
            *(State(name, unit="mg", scale=100.0) for name in ("central", "shallow", "deep")),
            *(State(cell.name, circ0, unit="1e9/L", scale=5.0) for cell in chain),
        ),
        parameters=(
            Parameter("k10", 5.2, "1/h", f"elimination; {bruno}"),
            Parameter("k12", 1.06, "1/h", f"central to shallow; {bruno}"),
            Parameter("k21", 1.51, "1/h", f"shallow to central; {bruno}"),
            Parameter("k13", 1.26, "1/h", f"central to deep; {bruno}"),
            Parameter("k31", 0.084, "1/h", f"deep to central; {bruno}"),
            Parameter("V", 7.4, "L", f"central volume; {bruno}"),
            Parameter("molar_mass", 0.808, "mg/umol", "molar mass of docetaxel, 808 g/mol"),
            Parameter("circ0", 5.05, "1e9/L", f"baseline of circulating neutrophils; {friberg}"),
            Parameter("MTT", 88.7, "h", f"mean transit time; {friberg}"),
            Parameter("gamma", 0.161, "", f"strength of the feedback; {friberg}"),
            Parameter("slope", 8.58, "L/umol", f"linear drug effect; {friberg}"),
        ),
        reactions=(
            Reaction("elimination", "central ->", k10 * central),
            Reaction("to_shallow", "central -> shallow", k12 * central),
            Reaction("from_shallow", "shallow -> central", k21 * shallow),
            Reaction("to_deep", "central -> deep", k13 * central),
            Reaction("from_deep", "deep -> central", k31 * deep),
            Reaction("proliferation", "-> proliferating", growth),
            *(
                Reaction(f"maturation{i}", f"{source.name} -> {target.name}", ktr * source)
                for i, (source, target) in enumerate(pairwise(chain), start=1)
            ),
            Reaction("clearance", "circulating ->", ktr * circulating),
        ),
        assignments={"Cp_now": central / volume / mass, "ktr": 4 / mean},
        observables={"cp": drug, "neutrophils": circulating},
        source=(
            "Friberg LE, Henningsson A, Maas H, Nguyen L, Karlsson MO. J Clin Oncol 2002;20:4713-4721. "
            "doi:10.1200/JCO.2002.02.140; kinetics: Bruno R et al. J Pharmacokinet Biopharm 1996;24:153-172. "
            "doi:10.1007/BF02353487"
        ),
        time_unit="h",
    )
