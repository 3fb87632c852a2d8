"""Known chemistry: symbols compiled to batched rates, and solved to trajectories with gradients."""

from mechanistic import biomodels, library, plots, reference
from mechanistic.compile import RateField
from mechanistic.conservation import ConservedTotal, PositivityReport, check_positivity, conserved_totals
from mechanistic.errors import (
    DownloadError,
    InvalidSBML,
    KinetwinError,
    ModelError,
    ScheduleError,
    SolveError,
    StreamError,
    UnsupportedSBML,
)
from mechanistic.field import AbstractVectorField, Linearisation
from mechanistic.model import Event, FrozenMap, KineticModel, Parameter, Reaction, State, delay, symbol, time
from mechanistic.native import Native
from mechanistic.prepared import Prepared
from mechanistic.sbml import read_antimony, read_driven, read_sbml, write_antimony, write_sbml
from mechanistic.schedule import Schedule
from mechanistic.sensitivities import Sensitivities, sensitivities
from mechanistic.simulate import prepare, simulate
from mechanistic.solve import Auto, Rodas5P, Solution, Status, Tolerance, Torch, TorchDiffEq, Tsit5
from mechanistic.steady_state import RestStatus, SteadyState, steady_state
from mechanistic.streaming import Streamed, simulate_to
from mechanistic.units import UnitError, UnitsReport
from mechanistic.validation import Check, Validation, Verdict, validate

__all__ = [
    "AbstractVectorField",
    "Auto",
    "Check",
    "ConservedTotal",
    "DownloadError",
    "Event",
    "FrozenMap",
    "InvalidSBML",
    "KineticModel",
    "KinetwinError",
    "Linearisation",
    "ModelError",
    "Native",
    "Parameter",
    "PositivityReport",
    "Prepared",
    "RateField",
    "Reaction",
    "RestStatus",
    "Rodas5P",
    "Schedule",
    "ScheduleError",
    "Sensitivities",
    "Solution",
    "SolveError",
    "State",
    "Status",
    "SteadyState",
    "StreamError",
    "Streamed",
    "Tolerance",
    "Torch",
    "TorchDiffEq",
    "Tsit5",
    "UnitError",
    "UnitsReport",
    "UnsupportedSBML",
    "Validation",
    "Verdict",
    "biomodels",
    "check_positivity",
    "conserved_totals",
    "delay",
    "library",
    "plots",
    "prepare",
    "read_antimony",
    "read_driven",
    "read_sbml",
    "reference",
    "sensitivities",
    "simulate",
    "simulate_to",
    "steady_state",
    "symbol",
    "time",
    "validate",
    "write_antimony",
    "write_sbml",
]
