"""What a solver may ask of a system: the few functions behind every mechanism, hybrid and black box."""

from abc import abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Linearisation(NamedTuple):
    """Derivatives of the right-hand side at `(t, x)`.

    Attributes:
        jacobian: ∂f/∂x, `(*batch, state, state)`.
        time_derivative: ∂f/∂t, `(*batch, state)`.
    """

    jacobian: Tensor
    time_derivative: Tensor


class Constraints(NamedTuple):
    """A constant matrix `M` in `M dx/dt = f(t, x, p)`; only implicit methods solve such systems.

    Attributes:
        mass: `M`, `(state, state)`; a row of zeros makes an algebraic equation of its line of `f`.
        relaxing: which of these equations say that a fast reaction is at rest, bool `(state,)`. Their line of `f` is
            the rate at which the state of the line comes to rest.
        steered: which of these states something slow moves as well, bool `(state,)`.
    """

    mass: Tensor
    relaxing: Tensor
    steered: Tensor


class AbstractDiscrete(nn.Module):
    """What of a system is not smooth: modes that conditions switch, delays, and events.

    A solver holds the modes during a step and finds the moments at which they change. *Held* values stand beside states
    and parameters: the delayed values, then the modes, `(*batch, delay + mode)`. The functions below take times
    `(*batch,)`, states, parameters and held values, of which they use only the delayed ones unless it is said.

    Attributes:
        modes, delays, events: how many there are of each.
        nested: of each delayed value, whether it was computed from delayed values.
        driving: of each delayed value, whether the right-hand side uses it: then its kinks are kinks of the solution.
        watched: of each delayed value, whether the right-hand side or a mode uses it, so that steps need it.
        step: of each mode, 1 for a floor, -1 for a ceiling, else 0, `(mode,)`.
        timed: whether time alone changes a mode, so that its `clock` always tells, bool `(mode,)`.
        owner, target: of each assignment, its event and the state that it sets, `(assignment,)`.
        persistent, initially, values_at_trigger: see `mechanistic.Event`, bool `(event,)`.
    """

    modes: int
    delays: int
    events: int
    nested: tuple[bool, ...]
    driving: tuple[bool, ...]
    watched: tuple[bool, ...]
    step: Tensor
    timed: Tensor
    owner: Tensor
    target: Tensor
    persistent: Tensor
    initially: Tensor
    values_at_trigger: Tensor

    @abstractmethod
    def mode(self, t: Tensor, x: Tensor, p: Tensor, held: Tensor) -> Tensor:
        """The modes as they are at `(t, x)`, `(*batch, mode)`."""

    @abstractmethod
    def surface(self, t: Tensor, x: Tensor, p: Tensor, held: Tensor) -> Tensor:
        """What crosses zero, or whole numbers where there is a `step`, when a mode changes, `(*batch, mode)`."""

    @abstractmethod
    def clock(self, t: Tensor, x: Tensor, p: Tensor, held: Tensor) -> Tensor:
        """When each surface is crossed, where time alone moves it; else infinite or NaN. It uses the held modes."""

    @abstractmethod
    def lag(self, index: int, t: Tensor, x: Tensor, p: Tensor, held: Tensor) -> Tensor:
        """How long ago a delayed value is taken from, `(*batch,)`; it uses delayed values before `index`."""

    @abstractmethod
    def past(self, index: int, t: Tensor, x: Tensor, p: Tensor, held: Tensor) -> Tensor:
        """The delayed value when `(t, x)` is what was then, `(*batch,)`; it uses delayed values before `index`."""

    @abstractmethod
    def trigger(self, t: Tensor, x: Tensor, p: Tensor, held: Tensor) -> Tensor:
        """Whether each trigger holds, bool `(*batch, event)`."""

    @abstractmethod
    def wait(self, t: Tensor, x: Tensor, p: Tensor, held: Tensor) -> Tensor:
        """Time from trigger to execution, `(*batch, event)`."""

    @abstractmethod
    def priority(self, t: Tensor, x: Tensor, p: Tensor, held: Tensor) -> Tensor:
        """Priorities, `(*batch, event)`; -inf where an event has none."""

    @abstractmethod
    def assigned(self, t: Tensor, x: Tensor, p: Tensor, held: Tensor) -> Tensor:
        """The new values of all events, `(*batch, assignment)`."""


class AbstractVectorField(nn.Module):
    """A right-hand side `dx/dt = f(t, x, p)` with names for its states, parameters and observables.

    Subclasses are final. They set the attributes below in `__init__` and define `forward`, `initial`, `observe` and
    `nominal`; `linearise` has a general implementation by reverse-mode differentiation.

    Attributes:
        state_names, parameter_names, observable_names: labels of the last axes.
        scales: typical size of each state, `(state,)`; positive.
        nonnegative: whether a state has no meaning below zero, bool `(state,)`.
    """

    state_names: tuple[str, ...]
    parameter_names: tuple[str, ...]
    observable_names: tuple[str, ...]
    scales: Tensor
    nonnegative: Tensor

    @property
    def constraints(self) -> Constraints | None:
        """What makes the system `M dx/dt = f(t, x, p)` with a singular `M`; None where it is `dx/dt = f`."""
        return None

    @property
    def mass(self) -> Tensor | None:
        """The matrix `M` of the constraints, `(state, state)`; None for the identity."""
        return None if self.constraints is None else self.constraints.mass

    @property
    def discrete(self) -> AbstractDiscrete | None:
        """Modes, delays and events; None for a smooth system.

        `forward`, `observe` and `linearise` of a system that has them take held values as a fourth argument: the
        delayed values and the modes, or the delayed values alone, with the modes as they are at `(t, x)`. Without
        delays it may be left out.
        """
        return None

    @abstractmethod
    def forward(self, t: Tensor, x: Tensor, p: Tensor) -> Tensor:
        """dx/dt, `(*batch, state)`; times `(*batch,)`, states `(*batch, state)`, parameters `(*batch, parameter)`."""

    @abstractmethod
    def initial(self, p: Tensor) -> Tensor:
        """States at the start, `(*batch, state)`, for parameters `(*batch, parameter)`."""

    @abstractmethod
    def observe(self, t: Tensor, x: Tensor, p: Tensor) -> Tensor:
        """Observables, `(*batch, observable)`; arguments as for `forward`."""

    @abstractmethod
    def nominal(self) -> Tensor:
        """Nominal parameters, `(parameter,)`."""

    def unit_of(self, name: str) -> str:
        """The unit of a state, parameter, observable or of `time`, as text; empty when not known."""
        return ""

    def linearise(self, t: Tensor, x: Tensor, p: Tensor) -> Linearisation:
        """∂f/∂x and ∂f/∂t at every row; arguments as for `forward`; differentiable once more."""
        n = x.shape[-1]
        _, pull, *_ = torch.func.vjp(lambda s, y: self(s, y, p), t, x)
        units = torch.eye(n, dtype=x.dtype, device=x.device).reshape(n, *(1,) * (x.ndim - 1), n)
        by_time, by_state = torch.vmap(pull)(units.expand(n, *x.shape))
        return Linearisation(by_state.movedim(0, -2), by_time.movedim(0, -1))

    def jacobian(self, t: Tensor, x: Tensor, p: Tensor) -> Tensor:
        """∂f/∂x, `(*batch, state, state)`; arguments as for `forward`."""
        return self.linearise(t, x, p).jacobian

    def time_derivative(self, t: Tensor, x: Tensor, p: Tensor) -> Tensor:
        """∂f/∂t, `(*batch, state)`; arguments as for `forward`."""
        return self.linearise(t, x, p).time_derivative
