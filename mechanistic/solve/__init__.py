"""Solvers with one clock a subject, step control, dense output and exact gradients."""

from mechanistic.solve.auto import Auto
from mechanistic.solve.engine import Torch
from mechanistic.solve.problem import Status, Tolerance
from mechanistic.solve.rodas5p import Rodas5P
from mechanistic.solve.solution import Solution
from mechanistic.solve.torchdiffeq import TorchDiffEq
from mechanistic.solve.tsit5 import Tsit5

__all__ = ["Auto", "Rodas5P", "Solution", "Status", "Tolerance", "Torch", "TorchDiffEq", "Tsit5"]
