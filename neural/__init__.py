"""What is learned: networks, distributions, encoders and latent ODEs; tensors in, tensors out."""

from neural.distributions import DiagonalLogNormal, DiagonalNormal
from neural.encoders import Direction, RecurrentEncoder
from neural.errors import NeuralError
from neural.integrators import RK4, Dopri5
from neural.latent_field import LatentField
from neural.latent_ode import LatentODE, Prediction
from neural.networks import MLP, Activation, InitialOutput, ScaledNetwork, mlp
from neural.scaling import Compression, FixedScaling
from neural.series import Series, StepInputs
from neural.training import Hiding, LatentODEFit, StopReason, train_latent_ode

__all__ = [
    "MLP",
    "RK4",
    "Activation",
    "Compression",
    "DiagonalLogNormal",
    "DiagonalNormal",
    "Direction",
    "Dopri5",
    "FixedScaling",
    "Hiding",
    "InitialOutput",
    "LatentField",
    "LatentODE",
    "LatentODEFit",
    "NeuralError",
    "Prediction",
    "RecurrentEncoder",
    "ScaledNetwork",
    "Series",
    "StepInputs",
    "StopReason",
    "mlp",
    "train_latent_ode",
]
