"""Systems that oscillate."""

from sympy import Integer, log, symbols

from mechanistic.model import KineticModel, Parameter, Reaction, State

_CHOSEN = "chosen for illustration"


def repressilator() -> KineticModel:
    """Three genes that repress one another in a ring.

    `x, y, z` are messengers and `X, Y, Z` proteins per cell; time in min. Transcription 60 (active share) with Hill
    exponent 2 and half-repression at KM proteins. Source: Elowitz & Leibler 2000, box 1 (alpha = 216, beta = 0.2 in
    their scaling). Known: a stable limit cycle, on which the three proteins are one wave shifted by a third of the
    period.
    """
    messengers, proteins = symbols("x y z"), symbols("X Y Z")
    repressors = (proteins[2], proteins[0], proteins[1])
    strong, leak, half, hill, efficiency, tau_m, tau_p = symbols("strong leak KM n efficiency tau_mRNA tau_protein")
    paper = "Elowitz & Leibler 2000, box 1"
    reactions = []
    for messenger, protein, repressor in zip(messengers, proteins, repressors, strict=True):
        active = half**hill / (half**hill + repressor**hill)
        reactions += [
            Reaction(f"transcription_{messenger}", f"-> {messenger}", 60 * (leak + (strong - leak) * active)),
            Reaction(f"decay_{messenger}", f"{messenger} ->", log(2) / tau_m * messenger),
            Reaction(f"translation_{protein}", f"-> {protein}", efficiency * log(2) / tau_m * messenger),
            Reaction(f"decay_{protein}", f"{protein} ->", log(2) / tau_p * protein),
        ]
    return KineticModel(
        name="repressilator",
        states=(
            *(State(m.name, Integer(20 if m.name == "y" else 0), unit="molecules", scale=30.0) for m in messengers),
            *(State(p.name, unit="molecules", scale=1000.0) for p in proteins),
        ),
        parameters=(
            Parameter("strong", 0.5, "molecules/s", f"transcripts of a free promoter; {paper}"),
            Parameter("leak", 0.0005, "molecules/s", f"transcripts of a repressed promoter; {paper}"),
            Parameter("KM", 40.0, "molecules", f"repressors for half of the repression; {paper}"),
            Parameter("n", 2.0, "", f"Hill exponent; {paper}"),
            Parameter("efficiency", 20.0, "", f"proteins per transcript; {paper}"),
            Parameter("tau_mRNA", 2.0, "min", f"half-life of a messenger; {paper}"),
            Parameter("tau_protein", 10.0, "min", f"half-life of a protein; {paper}"),
        ),
        reactions=tuple(reactions),
        observables={"reporter": proteins[2]},
        source="Elowitz MB, Leibler S. Nature 2000;403:335-338. doi:10.1038/35002125",
        time_unit="min",
    )


def p53_mdm2() -> KineticModel:
    """p53 and Mdm2 after gamma irradiation: negative feedback through a precursor of Mdm2.

    Dimensionless amounts; time in h. Source: Geva-Zatorsky et al. 2006, model IV (no explicit delay; p53 is degraded by
    Mdm2 with saturation). Known: at the steady state precursor = alpha_y y/alpha_0, and with k small Mdm2 is
    beta_x/alpha_k; it oscillates around it with a period of several hours, as the cells do (about 5.5 h).
    """
    active, precursor, inhibitor = symbols("p53 Mdm2_precursor Mdm2")
    beta_x, alpha_x, alpha_k, half, beta_y, alpha_0, alpha_y, damage = symbols(
        "beta_x alpha_x alpha_k k beta_y alpha_0 alpha_y psi"
    )
    paper = "Geva-Zatorsky 2006, model IV"
    return KineticModel(
        name="p53-Mdm2 oscillator",
        states=(
            State("p53", 0, scale=0.5),
            State("Mdm2_precursor", Integer(1) / 10, scale=0.5),
            State("Mdm2", Integer(4) / 5, scale=0.5),
        ),
        parameters=(
            Parameter("beta_x", 0.9, "1/h", f"production of p53; {paper}"),
            Parameter("alpha_x", 0.0, "1/h", f"degradation of p53 without Mdm2; {paper}"),
            Parameter("alpha_k", 1.7, "1/h", f"saturating degradation by Mdm2; {paper}"),
            Parameter("k", 0.0001, "", f"p53 at half of the degradation; {paper}"),
            Parameter("beta_y", 1.1, "1/h", f"production of the precursor by p53; {paper}"),
            Parameter("alpha_0", 0.8, "1/h", f"maturation of Mdm2; {paper}"),
            Parameter("alpha_y", 0.8, "1/h", f"degradation of Mdm2; {paper}"),
            Parameter("psi", 1.0, "", f"damage signal; {paper}"),
        ),
        reactions=(
            Reaction("production", "-> p53", beta_x * damage),
            Reaction("degradation", "p53 ->", alpha_x * active),
            Reaction("degradation_by_Mdm2", "p53 ->", alpha_k * inhibitor * active / (active + half)),
            Reaction("transcription", "-> Mdm2_precursor", beta_y * active * damage),
            Reaction("maturation", "Mdm2_precursor -> Mdm2", alpha_0 * precursor),
            Reaction("loss", "Mdm2 ->", alpha_y * inhibitor),
        ),
        observables={"total_Mdm2": precursor + inhibitor},
        source=(
            "Geva-Zatorsky N, Rosenfeld N, Itzkovitz S, et al. Mol Syst Biol 2006;2:2006.0033. doi:10.1038/msb4100068"
        ),
        time_unit="h",
    )


def krishna_nfkb() -> KineticModel:
    """Spiky oscillations of nuclear NF-kB: three variables, stiff.

    Dimensionless (the total of NF-kB and the lifetime of the messenger are 1). Source: Krishna, Jensen & Sneppen 2006,
    equations 1-3. Known: a limit cycle of sharp spikes of nuclear NF-kB that stay within (0, 1).
    """
    nuclear, messenger, inhibitor = symbols("nuclear messenger inhibitor")
    entry, binding, degradation, delta, epsilon = symbols("A B C delta epsilon")
    paper = "Krishna 2006"
    cytoplasmic = 1 - nuclear
    return KineticModel(
        name="NF-kB spiky oscillator",
        states=(
            State("nuclear", Integer(1) / 10, scale=0.1),
            State("messenger", Integer(1) / 10, scale=0.1),
            State("inhibitor", Integer(1) / 10, scale=0.1),
        ),
        parameters=(
            Parameter("A", 0.007, "", f"entry of NF-kB into the nucleus; {paper}"),
            Parameter("B", 954.5, "", f"export of NF-kB by the inhibitor; {paper}"),
            Parameter("C", 0.035, "", f"degradation of the inhibitor by IKK; {paper}"),
            Parameter("delta", 0.029, "", f"saturation of the export; {paper}"),
            Parameter("epsilon", 2e-5, "", f"saturation of binding in the cytoplasm; {paper}"),
        ),
        reactions=(
            Reaction("entry", "-> nuclear", entry * cytoplasmic / (epsilon + inhibitor)),
            Reaction("export", "nuclear ->", binding * inhibitor * nuclear / (delta + nuclear)),
            Reaction("transcription", "-> messenger", nuclear**2),
            Reaction("messenger_decay", "messenger ->", messenger),
            Reaction("translation", "-> inhibitor", messenger),
            Reaction("degradation", "inhibitor ->", degradation * cytoplasmic * inhibitor / (epsilon + inhibitor)),
        ),
        observables={"cytoplasmic": cytoplasmic},
        source=(
            "Krishna S, Jensen MH, Sneppen K. Proc Natl Acad Sci USA 2006;103:10840-10845. doi:10.1073/pnas.0604085103"
        ),
        time_unit="",
    )


def lotka_volterra() -> KineticModel:
    """Prey and predators.

    Dimensionless. Source: Lotka 1925, Volterra 1926; values: illustrative. Known: the first integral
    delta prey - gamma log(prey) + beta predators - alpha log(predators) is constant; the steady state is
    (gamma/delta, alpha/beta); the time mean over a period equals it.
    """
    prey, predators, alpha, beta, gamma, delta = symbols("prey predators alpha beta gamma delta")
    return KineticModel(
        name="Lotka-Volterra",
        states=(State("prey", 10, scale=10.0), State("predators", 5, scale=5.0)),
        parameters=(
            Parameter("alpha", 1.1, "", f"growth of prey; {_CHOSEN}"),
            Parameter("beta", 0.4, "", f"predation; {_CHOSEN}"),
            Parameter("gamma", 0.4, "", f"death of predators; {_CHOSEN}"),
            Parameter("delta", 0.1, "", f"growth of predators; {_CHOSEN}"),
        ),
        reactions=(
            Reaction("birth", "-> prey", alpha * prey),
            Reaction("predation", "prey ->", beta * prey * predators),
            Reaction("growth", "-> predators", delta * prey * predators),
            Reaction("death", "predators ->", gamma * predators),
        ),
        observables={
            "first_integral": delta * prey - gamma * log(prey) + beta * predators - alpha * log(predators),
        },
        source=(
            "Volterra V. Fluctuations in the abundance of a species considered mathematically. Nature "
            "1926;118:558-560. doi:10.1038/118558a0"
        ),
        time_unit="",
    )


def van_der_pol() -> KineticModel:
    """Van der Pol's oscillator in the variables of the circuit; both may be negative.

    Dimensionless; stiffness grows with `mu`. Source: van der Pol 1926. Known: for mu = 1 the period of the limit cycle
    is 6.663286859; for large mu it approaches (3 - 2 log 2) mu.
    """
    position, velocity, mu = symbols("u v mu")
    return KineticModel(
        name="van der Pol's oscillator",
        states=(State("u", 2, scale=1.0, nonnegative=False), State("v", 0, scale=1.0, nonnegative=False)),
        parameters=(Parameter("mu", 1.0, "", f"nonlinear damping; {_CHOSEN}"),),
        rates={"u": velocity, "v": mu * (1 - position**2) * velocity - position},
        observables={"energy": (position**2 + velocity**2) / 2},
        source="van der Pol B. Philos Mag 1926;2:978-992. doi:10.1080/14786442608564127",
        time_unit="",
    )
