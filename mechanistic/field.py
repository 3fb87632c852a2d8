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
