"""Organoids in a well: growth of viable cells, and their death under a drug that decays in the medium."""

from sympy import Expr, log, symbols

from mechanistic.model import KineticModel, Parameter, Reaction, State

_CHOSEN = "chosen for illustration"
_CELLS, _RATE, _CAPACITY = symbols("cells growth capacity")


def organoid_logistic() -> KineticModel:
    """Logistic growth of an organoid against Hill kill by a decaying drug.

    Dose the state `drug` (nmol into the well; 0.1 mL of medium, so 1 nmol makes 10 umol/L); `cells` as a count; time in
    day. Source: growth by Verhulst 1838, effect by Hill; values: illustrative. Known: without drug
    `closed_form.logistic`; under a constant drug (`decay` = 0) the cells settle at capacity (1 - kill/growth), or die
    out when kill > growth.
    """
    law = _RATE * _CELLS * (1 - _CELLS / _CAPACITY)
    return _organoid("organoid, logistic growth", law, "Verhulst PF. Corresp Math Phys 1838;10:113-121")


def organoid_gompertz() -> KineticModel:
    """Gompertz growth of an organoid against Hill kill by a decaying drug.

    Units and dosing as in `organoid_logistic`. Source: growth by Laird 1964; values: illustrative.
    Known: without drug `closed_form.gompertz`.
    """
    law = _RATE * _CELLS * log(_CAPACITY / _CELLS)
    return _organoid("organoid, Gompertz growth", law, "Laird AK. Br J Cancer 1964;18:490-502. doi:10.1038/bjc.1964.55")


def _organoid(name: str, growth: Expr, source: str) -> KineticModel:
    drug, start, maximal, half, steepness, decay, volume = symbols("drug cells0 kill_max EC50 hill decay volume")
    concentration = drug / volume
    effect = maximal * concentration**steepness / (half**steepness + concentration**steepness)
    return KineticModel(
        name=name,
        states=(State("cells", start, unit="cells", scale=1000.0), State("drug", unit="nmol", scale=1.0)),
        parameters=(
            Parameter("cells0", 500.0, "cells", f"cells seeded; {_CHOSEN}"),
            Parameter("growth", 0.5, "1/day", f"growth rate; {_CHOSEN}"),
            Parameter("capacity", 20000.0, "cells", f"largest organoid; {_CHOSEN}"),
            Parameter("kill_max", 1.2, "1/day", f"largest kill rate; {_CHOSEN}"),
            Parameter("EC50", 1.0, "umol/L", f"concentration at half of the kill; {_CHOSEN}"),
            Parameter("hill", 2.0, "", f"Hill exponent; {_CHOSEN}"),
            Parameter("decay", 0.2, "1/day", f"loss of drug in the medium; {_CHOSEN}"),
            Parameter("volume", 0.1, "mL", f"medium in the well; {_CHOSEN}"),
        ),
        reactions=(
            Reaction("growth", "-> cells", growth),
            Reaction("kill", "cells ->", effect * _CELLS),
            Reaction("drug_decay", "drug ->", decay * drug),
        ),
        observables={"concentration": concentration, "relative_size": _CELLS / start},
        source=source,
        time_unit="day",
    )
