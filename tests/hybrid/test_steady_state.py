"""Rests of mechanisms with networks: found by numbers alone, and differentiated by weights."""

import torch

import mechanistic as mech
from hybrid.coupling import FluxResidual, ParameterDrive
from hybrid.field import HybridField
from mechanistic import KineticModel, Parameter, Reaction, RestStatus, State, symbol
from neural.networks import mlp
from tests.hybrid.problems import randomise

A, B = symbol("A"), symbol("B")
CYCLE = KineticModel(
    "cycle",
    [State("A", 1.0), State("B", 0.5)],
    [Parameter("f", 0.3), Parameter("b", 0.1)],
    [Reaction("there", "A -> B", symbol("f") * A), Reaction("back", "B -> A", symbol("b") * B)],
)
NET = mlp((5,))


def learned():
    field = HybridField(mech.RateField(CYCLE), FluxResidual(CYCLE, NET, along=["there"]))
    randomise(field, 0.3)
    return field


def test_a_learned_flux_along_a_reaction_keeps_its_total():
    start = torch.tensor([[1.0, 0.5], [0.2, 4.0]], dtype=torch.float64)
    field = learned()
    with torch.no_grad():
        rest = mech.steady_state(field, initial=start).check()
        simulated = mech.simulate(field, [500.0], initial=start)
    torch.testing.assert_close(rest.states.sum(-1), start.sum(-1), rtol=1e-14, atol=0.0)
    torch.testing.assert_close(rest.states, simulated.states[:, 0], rtol=1e-5, atol=0.0)
    assert (rest.residual < 1e-13).all()


def test_weights_have_the_gradient_of_a_long_simulation():
    field = learned()
    weights = [w for w in field.parameters() if w.requires_grad]
    rest = mech.steady_state(field).check()
    end = mech.simulate(field, [200.0], tolerance=mech.Tolerance(1e-9, 1e-12)).states[-1]
    implicit = torch.autograd.grad(rest.states[0], weights)
    explicit = torch.autograd.grad(end[0], weights)
    size = max(float(each.abs().max()) for each in explicit)
    for found, expected in zip(implicit, explicit, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7 * size)


def test_what_a_network_drives_by_time_has_no_rest():
    field = HybridField(mech.RateField(CYCLE), ParameterDrive(CYCLE, "f", NET, inputs=["A", "time"]))
    randomise(field, 0.3)
    with torch.no_grad():
        assert mech.steady_state(field).status == RestStatus.TIME
