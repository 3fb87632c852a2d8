"""Kinetwin's training step, measured in a process of its own."""

from pathlib import Path

import numpy as np
import torch

import mechanistic as mech
from benchmarks.exchange import Request
from benchmarks.hybrids import HIDDEN, HOURS, NOISE, PATIENTS, SPREAD, TIMES, Training
from benchmarks.measure import ABSOLUTE, Evaluate, serve_value
from hybrid.coupling import FluxResidual
from hybrid.field import HybridField
from neural.networks import mlp

DOSE = 100.0


def hybrid() -> HybridField:
    """The mechanism with a learned elimination that sees all three states."""
    model = mech.library.two_compartment_oral()
    learned = FluxResidual(model, mlp(HIDDEN), extra=["central ->"], inputs=list(model.state_names))
    return HybridField(mech.RateField(model), learned)


def batch() -> Training:
    """Patients with log-normal parameters, irregular times, noisy data of the mechanism, and random weights."""
    random = np.random.default_rng(0)
    field = hybrid()
    nominal = field.nominal().numpy()
    parameters = nominal * np.exp(SPREAD * random.standard_normal((PATIENTS, len(nominal))))
    times = np.sort(random.uniform(0.0, HOURS, (PATIENTS, TIMES)), axis=1)
    initial = np.zeros((PATIENTS, len(field.state_names)))
    initial[:, 0] = DOSE
    residual = field.residuals[0]
    assert isinstance(residual, FluxResidual)
    layers = [value.detach().numpy().copy() for layer in residual.network.layers for value in layer]
    layers[-2] = 0.3 * random.standard_normal(layers[-2].shape)
    with torch.no_grad():
        exact = mech.simulate(
            field.known, torch.as_tensor(times), torch.as_tensor(parameters), initial=torch.as_tensor(initial)
        )
    data = exact.states[..., 1].numpy() * np.exp(NOISE * random.standard_normal(times.shape))
    half = float(residual.half_saturation * field.scales[1])
    return Training(
        parameters, initial, times, data, tuple(layers), field.scales.numpy(), float(residual.scale[0]), half
    )


def prepare(request: Request) -> Evaluate:
    """One call for all patients; weights and parameters are differentiated."""
    given = Training.read(Path(request.task) / "batch.npz")
    torch.set_num_threads(1)
    field = hybrid()
    residual = field.residuals[0]
    assert isinstance(residual, FluxResidual)
    weights = [value for layer in residual.network.layers for value in layer]
    with torch.no_grad():
        for value, wanted in zip(weights, given.layers, strict=True):
            value.copy_(torch.as_tensor(wanted))
    initial, data = torch.as_tensor(given.initial), torch.as_tensor(given.data)
    prepared: dict[float, mech.Prepared] = {}

    def evaluate(rtol: float) -> np.ndarray:
        if rtol not in prepared:
            tolerance = mech.Tolerance(rtol, ABSOLUTE * rtol)
            times = torch.as_tensor(given.times)
            prepared[rtol] = mech.prepare(field, times, solver=mech.Tsit5(), tolerance=tolerance)
        parameters = torch.as_tensor(given.parameters).requires_grad_()
        states = prepared[rtol](parameters, initial=initial).states
        loss = (states[..., 1] - data).square().mean()
        slopes = torch.autograd.grad(loss, [parameters, *weights])
        return np.concatenate([np.atleast_1d(part.detach().numpy()).ravel() for part in (loss, *slopes)])

    return evaluate


if __name__ == "__main__":
    serve_value("Kinetwin", ("kinetwin", "torch"), "compiled code and its adjoint, all patients in one call", prepare)
