"""What tests of events, conditions and delays share."""

import torch
from torch import Tensor

from mechanistic import KineticModel, Parameter, Rodas5P, State, Tolerance, Tsit5, delay, symbol

TIGHT = Tolerance(1e-10, 1e-12)
SOLVERS = [Tsit5(), Rodas5P()]


def free(name: str, initial: object = 0) -> State:
    return State(name, initial, nonnegative=False)


def central(f, p: Tensor, step: float = 1e-4) -> Tensor:
    """Derivatives of `f` by fourth-order central differences, one column a parameter."""
    d = step * torch.eye(len(p), dtype=p.dtype)
    return torch.stack([(8 * (f(p + e) - f(p - e)) - (f(p + 2 * e) - f(p - 2 * e))) / (12 * step) for e in d], dim=-1)


def delayed_decay() -> KineticModel:
    """dx/dt = -x(t - L), from 1."""
    return KineticModel("lag", (free("x", 1),), (Parameter("L", 1.0),), rates={"x": -delay(symbol("x"), symbol("L"))})
