"""How rates move states: the net stoichiometry, and what fast reactions and algebraic equations make of it."""

from dataclasses import dataclass
from typing import final

from sympy import Matrix

from mechanistic.model import KineticModel


@final
@dataclass(frozen=True)
class Balance:
    """`M dx/dt = net · laws`, the laws being reactions, rate rules and algebraic equations in this order.

    Fast reactions are at equilibrium at all times. Their stoichiometry spans the directions in which states exchange at
    once; across these, sums of states change as the other reactions tell, and along them the fast rates balance.

    Attributes:
        net: `(state, law)`.
        mass: `M`, `(state, state)`, a row of zeros for an algebraic equation; None for the identity.
        relaxing: rows that are zero because a fast reaction has come to rest; the law of such a row is the rate at
            which its state comes to rest.
        steered: those of these rows whose state something else moves as well.
    """

    net: list[list[float]]
    mass: list[list[float]] | None
    relaxing: list[bool]
    steered: list[bool]

    @classmethod
    def of(cls, model: KineticModel) -> "Balance":
        """The balance of a model."""
        row = {name: i for i, name in enumerate(model.state_names)}
        reactions, rates = len(model.reactions), len(model.rates)
        net = [[0.0] * (reactions + rates + len(model.algebraic)) for _ in model.states]
        for column, reaction in enumerate(model.reactions):
            for state, count in reaction.stoichiometry.items():
                net[row[state]][column] = 0.0 if reaction.fast else float(count)
        for column, name in enumerate(model.rates, start=reactions):
            net[row[name]][column] = 1.0
        fast = [i for i, reaction in enumerate(model.reactions) if reaction.fast and reaction.stoichiometry]
        if not (fast or model.algebraic):
            return cls(net, None, [], [])
        mass = [[float(i == j) for j in range(len(net))] for i in range(len(net))]
        moved = [any(count != 0 for count in line) for line in net]
        relaxing = _equilibrate(model, row, fast, net, mass)
        for column, name in enumerate(model.algebraic, start=reactions + rates):
            mass[row[name]] = [0.0] * len(net)
            net[row[name]][column] = 1.0
        rest = [i in relaxing for i in range(len(net))]
        return cls(net, mass, rest, [a and b for a, b in zip(rest, moved, strict=True)])


def _equilibrate(
    model: KineticModel, row: dict[str, int], fast: list[int], net: list[list[float]], mass: list[list[float]]
) -> set[int]:
    """Puts the equilibrium of the fast reactions in place of the balance of as many states, and says of which."""
    moved = sorted({row[name] for i in fast for name in model.reactions[i].stoichiometry})
    place = {state: k for k, state in enumerate(moved)}
    columns = Matrix.zeros(len(moved), len(fast))
    for column, i in enumerate(fast):
        for name, count in model.reactions[i].stoichiometry.items():
            columns[place[row[name]], column] = count
    # In the reduced form of the transpose every direction has a state of its own, its pivot.
    directions, pivots = columns.T.rref()
    others = [state for k, state in enumerate(moved) if k not in pivots]
    slow = {state: list(net[state]) for state in moved}
    for state in others:
        for direction, pivot in enumerate(pivots):
            share = directions[direction, place[state]]
            if share != 0:
                mass[state][moved[pivot]] -= float(share)
                net[state] = [a - float(share) * b for a, b in zip(net[state], slow[moved[pivot]], strict=True)]
    for pivot in pivots:
        state = moved[pivot]
        mass[state] = [0.0] * len(mass)
        net[state] = [0.0] * len(net[state])
        # A fast column is the sum of the directions times its entries at their pivots.
        for column, i in enumerate(fast):
            net[state][i] = float(columns[pivot, column])
    return {moved[pivot] for pivot in pivots}
