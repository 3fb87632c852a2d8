"""Known chemistry: symbols compiled to batched rates, and solved to trajectories with gradients."""

from mechanistic.errors import (
    InvalidSBML,
    KinetwinError,
    ModelError,
    ScheduleError,
    SolveError,
    UnsupportedSBML,
)
from mechanistic.model import FrozenMap, KineticModel, Parameter, Reaction, State, symbol, time

__all__ = [
    "FrozenMap",
    "InvalidSBML",
    "KinetwinError",
    "KineticModel",
    "ModelError",
    "Parameter",
    "Reaction",
    "ScheduleError",
    "SolveError",
    "State",
    "UnsupportedSBML",
    "symbol",
    "time",
]
