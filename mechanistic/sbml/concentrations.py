"""Species that are states as concentrations, because their amounts jump or move in ways that the file does not state.

Where a rate rule moves a concentration, and the size of the compartment follows an assignment rule or jumps, the
concentration goes on smoothly and the amount does not. There the state is `S.concentration`, and `S`, as elsewhere an
amount, is assigned.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import final

from sympy import Expr

from mechanistic.model import symbol
from mechanistic.sbml.declarations import Declarations, Quantity


@final
class Concentrations:
    """The species of one file that are states as concentrations.

    Attributes:
        states: id of the species to the quantity that takes its place among the states.
    """

    def __init__(
        self, declared: Declarations, rates: Mapping[str, Expr], abrupt: Collection[str], varying: Collection[str]
    ) -> None:
        """Finds them.

        Args:
            declared: the quantities of the file.
            rates: rate rules by id.
            abrupt: ids whose rate is not known: they have another rule, or events assign them.
            varying: names of all that changes in time.
        """
        self._declared = declared
        self.states: dict[str, Quantity] = {}
        for identity in rates:
            quantity = declared.quantities[identity]
            if quantity.size is None or quantity.size.name not in varying:
                continue
            size = declared.quantities[quantity.compartment]
            # Without a jump or a rule for its size, the rate of the amount is known: V dc/dt + c dV/dt.
            if quantity.compartment in abrupt or identity in abrupt:
                unit = f"{quantity.unit}/{size.unit}" if quantity.unit and size.unit else ""
                name = f"{quantity.name}.concentration"
                self.states[identity] = replace(quantity, name=name, size=None, unit=unit, notes={})

    def rules(self) -> dict[str, Expr]:
        """Name of each amount to what it is assigned."""
        quantities = self._declared.quantities
        return {quantities[i].name: quantities[i].amount(state.symbol) for i, state in self.states.items()}

    def initial(self, raw: Mapping[str, Expr]) -> dict[str, Expr]:
        """`raw`, values at time zero by name, with concentrations in place of these amounts."""
        quantities = self._declared.quantities
        replaced = {quantities[i].name: (quantities[i], state) for i, state in self.states.items()}
        found: dict[str, Expr] = {}
        for name, value in raw.items():
            if name in replaced:
                quantity, state = replaced[name]
                found[state.name] = value / symbol(quantity.compartment)
            else:
                found[name] = value
        return found
