"""The coupling of known and learned dynamics, the data, the inference, the populations."""

from hybrid import plots
from hybrid.coupling import CouplingError, FluxResidual, ParameterCurve, ParameterDrive
from hybrid.covariates import Category, Linear, Power
from hybrid.data import Cohort, TableError
from hybrid.field import HybridField
from hybrid.fit import fit
from hybrid.noise import Additive, Combined, CombinedLinear, LogNormalNoise, NoiseError, NoiseModel, Proportional
from hybrid.parameters import (
    Fixed,
    LogitNormal,
    LogNormal,
    LogUniform,
    Normal,
    ParameterError,
    ParameterSpace,
    Uniform,
)
from hybrid.population import Patients, Population, PopulationValues
from hybrid.results import Fit, FitOptions, FittedPopulation, compare, residual_flux, rmse
from hybrid.sbml import write_sbml
from hybrid.simulator import Simulator, SimulatorError
from hybrid.store import StoreError, load

__all__ = [
    "Additive",
    "Category",
    "Cohort",
    "Combined",
    "CombinedLinear",
    "CouplingError",
    "Fit",
    "FitOptions",
    "FittedPopulation",
    "Fixed",
    "FluxResidual",
    "HybridField",
    "Linear",
    "LogNormal",
    "LogNormalNoise",
    "LogUniform",
    "LogitNormal",
    "NoiseError",
    "NoiseModel",
    "Normal",
    "ParameterCurve",
    "ParameterDrive",
    "ParameterError",
    "ParameterSpace",
    "Patients",
    "Population",
    "PopulationValues",
    "Power",
    "Proportional",
    "Simulator",
    "SimulatorError",
    "StoreError",
    "TableError",
    "Uniform",
    "compare",
    "fit",
    "load",
    "plots",
    "residual_flux",
    "rmse",
    "write_sbml",
]
