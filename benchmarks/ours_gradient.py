"""Kinetwin's log-likelihood and gradient, measured in a process of its own."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import mechanistic as mech
from benchmarks.exchange import Evidence, Request
from benchmarks.likelihood import observed
from benchmarks.measure import ABSOLUTE, Evaluate, serve_value


def prepare(request: Request) -> Evaluate:
    """All conditions in one call; observables of all measurements in another."""
    folder = Path(request.task)
    given = Evidence.read(folder)
    field = mech.RateField(observed(folder / "observed.xml"))
    torch.set_num_threads(1)
    order = request.options["outputs"]
    columns = torch.tensor([field.observable_names.index(name) for name in order])
    count = len(order) // 2
    base, own = (torch.as_tensor(part) for part in (given.base, given.own_base))
    place, own_place = (torch.as_tensor(part) for part in (given.place, given.own_place))
    decadic, logarithmic, data = (torch.as_tensor(p) for p in (given.decadic, given.logarithmic, given.data))
    condition, time, kind = (torch.as_tensor(p) for p in (given.condition, given.time, given.observable))
    moments = torch.as_tensor(given.times)[time]
    logged = data.log10().where(logarithmic, data)
    jacobian = (data * np.log(10)).log().where(logarithmic, torch.zeros_like(data)).sum()
    constant = jacobian + 0.5 * np.log(2 * np.pi) * len(data)
    prepared: dict[float, mech.Prepared] = {}

    def filled(theta: Tensor, values: Tensor, index: Tensor) -> Tensor:
        linear = torch.where(decadic, 10**theta, theta)
        return torch.where(index >= 0, linear[index.clamp_min(0)], values)

    def evaluate(rtol: float) -> np.ndarray:
        if rtol not in prepared:
            tolerance = mech.Tolerance(rtol, ABSOLUTE * rtol)
            prepared[rtol] = mech.prepare(
                field, torch.as_tensor(given.times), solver=mech.Rodas5P(), tolerance=tolerance
            )
        theta = torch.as_tensor(given.theta).requires_grad_()
        solution = prepared[rtol](filled(theta, base, place))
        x = solution.states[condition, time]
        seen = field.observe(moments, x, filled(theta, own, own_place))[:, columns]
        y, sigma = (seen.gather(1, (kind + shift).unsqueeze(1)).squeeze(1) for shift in (0, count))
        y = torch.where(logarithmic, torch.where(logarithmic, y, 1.0).log10(), y)
        loss = (sigma.log() + 0.5 * ((logged - y) / sigma) ** 2).sum() + constant
        (slope,) = torch.autograd.grad(loss, theta)
        return np.r_[loss.item(), slope.numpy()]

    return evaluate


if __name__ == "__main__":
    serve_value("Kinetwin", ("kinetwin", "torch"), "compiled code and its adjoint, all conditions in one call", prepare)
