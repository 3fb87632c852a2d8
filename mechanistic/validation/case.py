"""What all checks of one validation share: the model, its file, and simulations that are made when first asked for."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, final

import numpy as np

from mechanistic.compile import RateField
from mechanistic.errors import SolveError
from mechanistic.model import KineticModel
from mechanistic.model import delay as delayed
from mechanistic.reference import values_here
from mechanistic.simulate import compiled, simulate
from mechanistic.solve.auto import Auto
from mechanistic.solve.problem import Status
from mechanistic.solve.rodas5p import Rodas5P
from mechanistic.solve.solution import Solution
from mechanistic.solve.tsit5 import Tsit5
from mechanistic.validation.horizon import Horizon, choose_horizon, output_times, rounded_up

FEW_STEPS = 400
"""A horizon that needs more steps than this is shortened: the checks simulate it many times, and more tightly."""

DRAWN = 600
"""Times of a line in a picture of a model that jumps."""

VISIBLE = 0.1
"""Largest error of such a line, as `values_here` means it: a relative tolerance of 1e-4, less than a line is wide."""

T = TypeVar("T")


@final
class Case:
    """A model under validation.

    Attributes:
        model: what is checked.
        source: path or text of the SBML file that it was read from, where there is one.
        tolerance: largest error that counts as agreement.
    """

    def __init__(self, model: KineticModel, source: str | Path | None, horizon: float | None, tolerance: float) -> None:
        self.model, self.source, self.tolerance = model, source, tolerance
        self._end = horizon
        self._found: dict[str, Any] = {}

    @property
    def field(self) -> RateField:
        """The compiled model.

        Raises:
            ModelError: when it cannot be compiled.
        """
        return self._once("field", lambda: compiled(self.model))

    @property
    def horizon(self) -> Horizon:
        """How far it is simulated, and why so far."""
        if self._end is not None:
            return Horizon(self._end, "as asked for")
        return self._once("horizon", self._affordable)

    @property
    def times(self) -> np.ndarray:
        """Output times, `(time,)`."""
        return output_times(self.horizon.end)

    @property
    def solution(self) -> Solution:
        """The model as a user would simulate it: at its nominal values, with the default solver and tolerance."""
        return self._once("solution", lambda: simulate(self.model, self.times))

    @property
    def solved(self) -> Solution:
        """The same, when it reached the end.

        Raises:
            SolveError: when it did not.
        """
        solution = self.solution
        if not bool(solution.succeeded):
            raise SolveError("the simulation does not reach the horizon", [])
        return solution

    def values(self, finer: bool = False) -> tuple[Mapping[str, np.ndarray], ...]:
        """Every quantity at the times, and beside them where the model can jump.

        They are integrated a hundred times more tightly than they are compared, or a hundred times more than that.
        """
        _ = self.solved  # what fails at the default tolerance is not tried more tightly
        tolerance = self.tolerance * (0.1 if finer else 10.0)
        return self._once(f"values {finer}", lambda: values_here(self.model, self.times, tolerance=tolerance))

    @property
    def drawn(self) -> tuple[np.ndarray, Mapping[str, np.ndarray]]:
        """Times that are close enough to draw a line where the model jumps, and every quantity there."""
        times = np.union1d(self.times, np.linspace(0.0, self.horizon.end, DRAWN))
        return times, self._once("drawn", lambda: values_here(self.model, times, tolerance=VISIBLE)[0])

    @property
    def is_ordinary(self) -> bool:
        """Whether `dx/dt` is a function of time and the states alone, between events."""
        model = self.model
        bound = bool(model.algebraic) or any(reaction.fast for reaction in model.reactions)
        return not bound and not any(expression.has(delayed) for expression in model.expressions().values())

    def time(self, value: float) -> str:
        """A time with its unit, as text."""
        return f"{value:.4g} {self.model.time_unit}".rstrip()

    def _affordable(self) -> Horizon:
        """The horizon of the model's time scales, or as far as the solver gets with few steps."""
        wanted = choose_horizon(self.model, self.field)
        probe = simulate(
            self.model, [wanted.end], solver=Auto(Tsit5(max_steps=FEW_STEPS), Rodas5P(max_steps=FEW_STEPS))
        )
        reached = float(probe.reached)
        if int(probe.status) != Status.BUDGET or not 0 < reached < wanted.end:
            return wanted
        return Horizon(rounded_up(reached), f"as far as the solver gets in {FEW_STEPS} steps")

    def _once(self, name: str, make: Callable[[], T]) -> T:
        """Makes a thing once; what stood in the way the first time stands in the way again."""
        if name not in self._found:
            try:
                self._found[name] = make()
            except Exception as error:
                self._found[name] = error
        found = self._found[name]
        if isinstance(found, Exception):
            raise found
        return found
