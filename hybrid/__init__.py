"""The coupling of known and learned dynamics, the data, the inference, the populations."""

from hybrid.covariates import Category, Linear, Power
from hybrid.data import Cohort, TableError
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

__all__ = [
    "Additive",
    "Category",
    "Cohort",
    "Combined",
    "CombinedLinear",
    "Fixed",
    "Linear",
    "LogNormal",
    "LogNormalNoise",
    "LogUniform",
    "LogitNormal",
    "NoiseError",
    "NoiseModel",
    "Normal",
    "ParameterError",
    "ParameterSpace",
    "Patients",
    "Population",
    "PopulationValues",
    "Power",
    "Proportional",
    "TableError",
    "Uniform",
]
