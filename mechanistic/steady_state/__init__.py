"""Steady states: where a system comes to rest, and how that depends on parameters and conserved totals."""

from mechanistic.steady_state.find import steady_state
from mechanistic.steady_state.result import RestStatus, SteadyState

__all__ = ["RestStatus", "SteadyState", "steady_state"]
