"""Signal transduction within a cell; amounts are of a unit volume where the publication gives concentrations."""

from sympy import Expr, Integer, Symbol, exp, symbols

from mechanistic.model import KineticModel, Parameter, Reaction, State, time

# Substrate, enzyme and product of the ten enzymatic steps of the cascade, in the numbering of the publication.
_STEPS = (
    ("KKK", "E1", "KKKp"),
    ("KKKp", "E2", "KKK"),
    ("KK", "KKKp", "KKp"),
    ("KKp", "KKPase", "KK"),
    ("KKp", "KKKp", "KKpp"),
    ("KKpp", "KKPase", "KKp"),
    ("K", "KKpp", "Kp"),
    ("Kp", "KPase", "K"),
    ("Kp", "KKpp", "Kpp"),
    ("Kpp", "KPase", "Kp"),
)
_TOTALS = {"KKK": 0.003, "KK": 1.2, "K": 1.2, "E1": 3e-5, "E2": 3e-4, "KKPase": 3e-4, "KPase": 0.12}


def huang_ferrell_mapk() -> KineticModel:
    """The MAPK cascade in full mass action: 22 species, 30 elementary reactions, stiff.

    Amounts in umol per L of cytosol; time in min. Each enzymatic step binds (a), dissociates (d) and converts (k); the
    stimulus is the parameter `E1_total`. Source: Huang & Ferrell 1996, figure 1 and table 1 (Km 0.3 umol/L everywhere).
    Known: seven conserved totals; the steady response of MAPK to E1 is as steep as a Hill function with exponent 4.9
    (81^(1/nH) = EC90/EC10), that of MAPKK 1.7 and that of MAPKKK 1.0.
    """
    complexes = [f"{substrate}_{enzyme}" for substrate, enzyme, _ in _STEPS]
    species = dict.fromkeys(name for step in _STEPS for name in step)
    paper = "Huang & Ferrell 1996"
    parameters = [Parameter(f"{s}_total", value, "umol/L", f"total of {s}; {paper}") for s, value in _TOTALS.items()]
    reactions = []
    for i, ((substrate, enzyme, product), bound) in enumerate(zip(_STEPS, complexes, strict=True), start=1):
        on, off, turnover = symbols(f"a{i} d{i} k{i}")
        parameters += [
            Parameter(f"a{i}", 1000.0, "L/umol/min", f"{substrate} binds {enzyme}; {paper}"),
            Parameter(f"d{i}", 150.0, "1/min", f"{bound} dissociates; {paper}"),
            Parameter(f"k{i}", 150.0, "1/min", f"{bound} yields {product}; {paper}"),
        ]
        reactions += [
            Reaction(f"bind{i}", f"{substrate} + {enzyme} -> {bound}", on * symbols(substrate) * symbols(enzyme)),
            Reaction(f"release{i}", f"{bound} -> {substrate} + {enzyme}", off * symbols(bound)),
            Reaction(f"convert{i}", f"{bound} -> {product} + {enzyme}", turnover * symbols(bound)),
        ]
    scales = {**_TOTALS, "KKKp": 0.003, "KKp": 1.2, "KKpp": 1.2, "Kp": 1.2, "Kpp": 1.2}
    doubly = [symbols("Kpp"), symbols("Kpp_KPase")]
    return KineticModel(
        name="MAPK cascade, mass action",
        states=(
            *(
                State(name, symbols(f"{name}_total") if name in _TOTALS else 0, unit="umol/L", scale=scales[name])
                for name in species
            ),
            *(
                State(bound, unit="umol/L", scale=min(scales[substrate], scales[enzyme]))
                for bound, (substrate, enzyme, _) in zip(complexes, _STEPS, strict=True)
            ),
        ),
        parameters=tuple(parameters),
        reactions=tuple(reactions),
        observables={"active_MAPK": sum(doubly), "active_share": sum(doubly) / symbols("K_total")},
        source="Huang CYF, Ferrell JE. Proc Natl Acad Sci USA 1996;93:10078-10083. doi:10.1073/pnas.93.19.10078",
        time_unit="min",
    )


def kholodenko_mapk() -> KineticModel:
    """The MAPK cascade with negative feedback of MAPK on its first kinase: sustained oscillations.

    Amounts in nmol per L of cytosol; time in s. Source: Kholodenko 2000, tables 1 and 2. Known: totals of the three
    kinases 100, 300 and 300; a limit cycle with a period of about 20 min.
    """
    states = symbols("MKKK MKKK_P MKK MKK_P MKK_PP MAPK MAPK_P MAPK_PP")
    kkk, kkk_p, kk, kk_p, kk_pp, mapk, mapk_p, mapk_pp = states
    starts = (90, 10, 280, 10, 10, 280, 10, 10)
    paper = "Kholodenko 2000, table 2"
    inhibition, exponent = symbols("Ki n")

    def saturating(number: int, substrate: Symbol, kinase: Symbol | None = None) -> Expr:
        """A Michaelis-Menten rate: of a phosphatase (`V`), or of a kinase that is itself a state (`k`)."""
        top, half = symbols(f"{'V' if kinase is None else 'k'}{number} K{number}")
        return top * (1 if kinase is None else kinase) * substrate / (half + substrate)

    tops = {"V1": 2.5, "V2": 0.25, "k3": 0.025, "k4": 0.025, "V5": 0.75, "V6": 0.75, "k7": 0.025, "k8": 0.025}
    tops |= {"V9": 0.5, "V10": 0.5}
    halves = {f"K{i}": {1: 10.0, 2: 8.0}.get(i, 15.0) for i in range(1, 11)}
    return KineticModel(
        name="MAPK cascade with negative feedback",
        states=tuple(
            State(s.name, Integer(v), unit="nmol/L", scale=100.0) for s, v in zip(states, starts, strict=True)
        ),
        parameters=(
            *(
                Parameter(name, value, "1/s" if name.startswith("k") else "nmol/L/s", f"largest rate; {paper}")
                for name, value in tops.items()
            ),
            *(Parameter(name, value, "nmol/L", f"Michaelis constant; {paper}") for name, value in halves.items()),
            Parameter("Ki", 9.0, "nmol/L", f"MAPK_PP at half of the inhibition; {paper}"),
            Parameter("n", 1.0, "", f"steepness of the feedback; {paper}"),
        ),
        reactions=(
            Reaction("v1", "MKKK -> MKKK_P", saturating(1, kkk) / (1 + (mapk_pp / inhibition) ** exponent)),
            Reaction("v2", "MKKK_P -> MKKK", saturating(2, kkk_p)),
            Reaction("v3", "MKK -> MKK_P", saturating(3, kk, kkk_p)),
            Reaction("v4", "MKK_P -> MKK_PP", saturating(4, kk_p, kkk_p)),
            Reaction("v5", "MKK_PP -> MKK_P", saturating(5, kk_pp)),
            Reaction("v6", "MKK_P -> MKK", saturating(6, kk_p)),
            Reaction("v7", "MAPK -> MAPK_P", saturating(7, mapk, kk_pp)),
            Reaction("v8", "MAPK_P -> MAPK_PP", saturating(8, mapk_p, kk_pp)),
            Reaction("v9", "MAPK_PP -> MAPK_P", saturating(9, mapk_pp)),
            Reaction("v10", "MAPK_P -> MAPK", saturating(10, mapk_p)),
        ),
        observables={"active_MAPK": mapk_pp},
        source="Kholodenko BN. Eur J Biochem 2000;267:1583-1588. doi:10.1046/j.1432-1327.2000.01197.x",
        time_unit="s",
    )


def boehm_stat5() -> KineticModel:
    """Dimerisation and nuclear shuttling of STAT5A and STAT5B after erythropoietin.

    Amounts in nmol, with 1.4 L of cytosol; time in min. Phosphorylation needs the decaying
    stimulus 1.25e-7 exp(-Epo_degradation t); dimers enter the nucleus, where they are dephosphorylated. Source: Boehm
    et al. 2014; values: the best fit that the PEtab benchmark problem Boehm_JProteomeRes2014 carries. Known: the
    totals of STAT5A and of STAT5B are conserved, counting each homodimer twice.
    """
    names = ("STAT5A", "STAT5B", "pApA", "pApB", "pBpB", "nucpApA", "nucpApB", "nucpBpB")
    a, b, aa, ab, bb, naa, nab, nbb = symbols(" ".join(names))
    cytosol, total, ratio, phosphorylation = symbols("cyt total ratio k_phos")
    homo_in, hetero_in, homo_out, hetero_out = symbols("k_imp_homo k_imp_hetero k_exp_homo k_exp_hetero")
    stimulus, decay, dose, share = symbols("BaF3_Epo Epo_degradation Epo0 specC17")
    fit = "best fit of the PEtab benchmark problem"
    starts = {"STAT5A": cytosol * total * ratio, "STAT5B": cytosol * total * (1 - ratio)}
    return KineticModel(
        name="STAT5 dimerisation",
        states=tuple(State(name, starts.get(name, 0), unit="nmol", scale=100.0) for name in names),
        parameters=(
            Parameter("Epo0", 1.25e-7, "nmol/L", "stimulus at the start; Boehm 2014"),
            Parameter("Epo_degradation", 0.026982514033029, "1/min", f"decay of the stimulus; {fit}"),
            Parameter("k_phos", 15766.5070195731, "L^2/nmol^2/min", f"phosphorylation and dimerisation; {fit}"),
            Parameter("k_imp_homo", 97749.3794024716, "1/min", f"import of homodimers; {fit}"),
            Parameter("k_imp_hetero", 0.0163679184468, "1/min", f"import of the heterodimer; {fit}"),
            Parameter("k_exp_homo", 0.006170228086381, "1/min", f"export of homodimers; {fit}"),
            Parameter("k_exp_hetero", 1.00067973851508e-05, "1/min", f"export of the heterodimer; {fit}"),
            Parameter("ratio", 0.693, "", "share of STAT5A in STAT5; Boehm 2014"),
            Parameter("specC17", 0.107, "", "specificity of the mass spectrometry; Boehm 2014"),
            Parameter("total", 207.6, "nmol/L", "STAT5 in the cytosol at the start; Boehm 2014"),
            Parameter("cyt", 1.4, "L", "volume of the cytosol; Boehm 2014"),
        ),
        reactions=(
            Reaction("dimerisation_AA", "2 STAT5A -> pApA", stimulus * phosphorylation * a**2 / cytosol),
            Reaction("dimerisation_AB", "STAT5A + STAT5B -> pApB", stimulus * phosphorylation * a * b / cytosol),
            Reaction("dimerisation_BB", "2 STAT5B -> pBpB", stimulus * phosphorylation * b**2 / cytosol),
            Reaction("import_AA", "pApA -> nucpApA", homo_in * aa),
            Reaction("import_AB", "pApB -> nucpApB", hetero_in * ab),
            Reaction("import_BB", "pBpB -> nucpBpB", homo_in * bb),
            Reaction("export_AA", "nucpApA -> 2 STAT5A", homo_out * naa),
            Reaction("export_AB", "nucpApB -> STAT5A + STAT5B", hetero_out * nab),
            Reaction("export_BB", "nucpBpB -> 2 STAT5B", homo_out * nbb),
        ),
        assignments={"BaF3_Epo": dose * exp(-decay * time)},
        observables={
            "pSTAT5A_rel": 100 * (ab + 2 * aa * share) / (ab + a * share + 2 * aa * share),
            "pSTAT5B_rel": 100 * (ab + 2 * bb * (1 - share)) / (ab + (b + 2 * bb) * (1 - share)),
            "rSTAT5A_rel": (100 * (ab + (a + 2 * aa) * share))
            / (2 * ab + (a + 2 * aa) * share + (b + 2 * bb) * (1 - share)),
        },
        source="Boehm ME, Adlung L, Schilling M, et al. J Proteome Res 2014;13:5685-5694. doi:10.1021/pr5006923",
        time_unit="min",
    )
