"""Absorption, distribution and elimination of drugs; states are amounts in mg, doses come from a `Schedule`."""

from sympy import Expr, Rational, symbols

from mechanistic.model import KineticModel, Parameter, Reaction, State

_TEXTBOOK = "Gibaldi M, Perrier D. Pharmacokinetics, 2nd ed. Marcel Dekker, New York 1982. ISBN 0-8247-1042-8"
_THEOPHYLLINE = "population mean for theophylline (Pinheiro & Bates 2000, section 8.1.3), rounded and scaled to 70 kg"
_CHOSEN = "chosen for illustration"


def _disposition(*, two: bool) -> tuple[tuple[State, ...], tuple[Reaction, ...]]:
    """The states and reactions that follow absorption, in one or two compartments."""
    central, peripheral, clearance, volume, exchange, outer = symbols("central peripheral CL V Q V2")
    states = [State("central", unit="mg", scale=100.0)]
    reactions = [Reaction("elimination", "central ->", clearance / volume * central)]
    if two:
        states.append(State("peripheral", unit="mg", scale=100.0))
        reactions.append(Reaction("distribution", "central -> peripheral", exchange / volume * central))
        reactions.append(Reaction("return", "peripheral -> central", exchange / outer * peripheral))
    return tuple(states), tuple(reactions)


def one_compartment_iv() -> KineticModel:
    """One compartment with linear elimination; dose the state `central` (mg) by bolus or infusion.

    Time in h. Source: Gibaldi & Perrier 1982, chapter 1; values: theophylline. Known:
    `closed_form.one_compartment_bolus` and `one_compartment_infusion`; half-life log(2) V/CL = 7.9 h; area under the
    concentration = dose / CL.
    """
    parameters = _theophylline_disposition()
    states, reactions = _disposition(two=False)
    return _finish("one-compartment intravenous", states, parameters, reactions)


def one_compartment_oral() -> KineticModel:
    """First-order absorption into one compartment; dose the state `gut` (mg).

    Time in h. Source: Gibaldi & Perrier 1982, chapter 1; values: theophylline, with `CL` and `V` apparent (CL/F, V/F).
    Known: `closed_form.one_compartment_oral`; peak at log(ka/ke)/(ka - ke) = 1.9 h.
    """
    parameters = (
        Parameter("ka", 1.57, "1/h", f"absorption rate constant; {_THEOPHYLLINE}"),
        *_theophylline_disposition(),
    )
    states, reactions = _disposition(two=False)
    return _finish("one-compartment oral", *_absorbed(states, parameters, reactions))


def two_compartment_iv() -> KineticModel:
    """Central and peripheral compartment with linear elimination; dose the state `central` (mg).

    Time in h. Source: Gibaldi & Perrier 1982, chapter 2; values: illustrative. Known:
    `closed_form.two_compartment_bolus` and `two_compartment_infusion`; the steady-state volume is V + V2.
    """
    parameters = _two_compartment_values()
    states, reactions = _disposition(two=True)
    return _finish("two-compartment intravenous", states, parameters, reactions)


def two_compartment_oral() -> KineticModel:
    """First-order absorption into a two-compartment body; dose the state `gut` (mg).

    Time in h. Source: Gibaldi & Perrier 1982, chapter 2; values: illustrative. Known:
    `closed_form.two_compartment_oral`.
    """
    parameters = (Parameter("ka", 1.0, "1/h", f"absorption rate constant; {_CHOSEN}"), *_two_compartment_values())
    states, reactions = _disposition(two=True)
    return _finish("two-compartment oral", *_absorbed(states, parameters, reactions))


def michaelis_menten_elimination() -> KineticModel:
    """One compartment with saturable elimination, phenytoin-like; dose the state `central` (mg).

    Time in day. Source: Beal SL 1983, J Pharmacokinet Biopharm 11:641, doi:10.1007/BF01059062; values: the usual adult
    figures for phenytoin (Vmax 7 mg/kg/day, Km 4 mg/L, V 0.65 L/kg; 70 kg). Known: `closed_form.michaelis_menten_bolus`
    (Lambert's W); at high amounts the decline is the straight line -Vmax.
    """
    central, maximal, half, volume = symbols("central Vmax Km V")
    usual = "usual adult figure for phenytoin, 70 kg"
    concentration = central / volume
    return KineticModel(
        name="one-compartment Michaelis-Menten elimination",
        states=(State("central", unit="mg", scale=300.0),),
        parameters=(
            Parameter("Vmax", 490.0, "mg/day", f"maximal rate of elimination; {usual}"),
            Parameter("Km", 4.0, "mg/L", f"concentration at half the maximal rate; {usual}"),
            Parameter("V", 45.5, "L", f"volume of distribution; {usual}"),
        ),
        reactions=(Reaction("elimination", "central ->", maximal * concentration / (half + concentration)),),
        observables={"cp": concentration},
        source="Beal SL. J Pharmacokinet Biopharm 1983;11:641-657. doi:10.1007/BF01059062",
        time_unit="day",
    )


def transit_absorption(compartments: int = 6) -> KineticModel:
    """Absorption delayed by a chain of transit compartments; dose the state `transit1` (mg).

    `compartments` transit states precede `gut`; the mean transit time is MTT = compartments / ktr. Time in h.
    Source: Savic et al. 2007; values: illustrative. Known: `closed_form.last_transit` for the last transit state, a
    gamma density in time; its peak is at (compartments - 1)/ktr.

    Raises:
        ValueError: for fewer than one compartment.
    """
    if compartments < 1:
        raise ValueError(f"expected at least 1 transit compartment; got `compartments` = {compartments}")
    ka, clearance, volume, mean, gut, central = symbols("ka CL V MTT gut central")
    names = [f"transit{i}" for i in range(1, compartments + 1)]
    rate = Rational(compartments) / mean
    targets = [*names[1:], "gut"]
    transfers = [
        Reaction(f"transfer{i}", f"{source} -> {target}", rate * symbols(source))
        for i, (source, target) in enumerate(zip(names, targets, strict=True), start=1)
    ]
    return KineticModel(
        name=f"transit absorption, {compartments} compartments",
        states=(
            *(State(name, unit="mg", scale=100.0) for name in names),
            State("gut", unit="mg", scale=100.0),
            State("central", unit="mg", scale=100.0),
        ),
        parameters=(
            Parameter("MTT", 1.0, "h", f"mean transit time; {_CHOSEN}"),
            Parameter("ka", 1.5, "1/h", f"absorption rate constant; {_CHOSEN}"),
            Parameter("CL", 5.0, "L/h", f"apparent clearance; {_CHOSEN}"),
            Parameter("V", 40.0, "L", f"apparent volume of distribution; {_CHOSEN}"),
        ),
        reactions=(
            *transfers,
            Reaction("absorption", "gut -> central", ka * gut),
            Reaction("elimination", "central ->", clearance / volume * central),
        ),
        observables={"cp": central / volume},
        source=(
            "Savic RM, Jonker DM, Kerbusch T, Karlsson MO. J Pharmacokinet Pharmacodyn 2007;34:711-726. "
            "doi:10.1007/s10928-007-9066-0"
        ),
        time_unit="h",
    )


def _theophylline_disposition() -> tuple[Parameter, ...]:
    return (
        Parameter("CL", 2.81, "L/h", f"clearance; {_THEOPHYLLINE}"),
        Parameter("V", 32.0, "L", f"volume of distribution; {_THEOPHYLLINE}"),
    )


def _two_compartment_values() -> tuple[Parameter, ...]:
    return (
        Parameter("CL", 5.0, "L/h", f"clearance; {_CHOSEN}"),
        Parameter("V", 20.0, "L", f"central volume; {_CHOSEN}"),
        Parameter("Q", 10.0, "L/h", f"intercompartmental clearance; {_CHOSEN}"),
        Parameter("V2", 50.0, "L", f"peripheral volume; {_CHOSEN}"),
    )


def _absorbed(
    states: tuple[State, ...], parameters: tuple[Parameter, ...], reactions: tuple[Reaction, ...]
) -> tuple[tuple[State, ...], tuple[Parameter, ...], tuple[Reaction, ...]]:
    """The same body, fed from a gut compartment."""
    ka, gut = symbols("ka gut")
    absorption = Reaction("absorption", "gut -> central", ka * gut)
    return (State("gut", unit="mg", scale=100.0), *states), parameters, (absorption, *reactions)


def _finish(
    name: str, states: tuple[State, ...], parameters: tuple[Parameter, ...], reactions: tuple[Reaction, ...]
) -> KineticModel:
    central, volume = symbols("central V")
    concentration: Expr = central / volume
    return KineticModel(
        name=name,
        states=states,
        parameters=parameters,
        reactions=reactions,
        observables={"cp": concentration},
        source=_TEXTBOOK,
        time_unit="h",
    )
