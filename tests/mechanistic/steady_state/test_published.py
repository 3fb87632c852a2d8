"""Rests of published models: of the collection of benchmark problems, where it is there."""

import pytest
import torch

import mechanistic as mech
from mechanistic import RestStatus
from tests.shared import shared_file

RESTING = ["Bachmann_MSB2011", "Brannmark_JBC2010", "Fujita_SciSignal2010", "Weber_BMC2015", "Zheng_PNAS2012"]
OSCILLATING = ["Borghans_BiophysChem1997", "Elowitz_Nature2000"]


def read(name):
    return mech.read_sbml(shared_file(f"benchmark_models/{name}/model_{name}.xml"))


@pytest.mark.parametrize("name", RESTING)
def test_a_published_model_rests_with_the_gradient_of_finite_differences(name):
    model = read(name)
    p = mech.RateField(model).nominal().requires_grad_()
    rest = mech.steady_state(model, p)
    assert rest.status == RestStatus.OK
    assert rest.residual < 1e-12
    weights = torch.cos(torch.arange(len(model.states)).double()) / rest.field.scales
    (slopes,) = torch.autograd.grad(rest.states @ weights, p)
    shares = (slopes * p.detach()).nan_to_num()
    place = int(shares.abs().argmax())
    step = torch.zeros_like(shares).index_fill(0, torch.tensor(place), 1e-5 * float(p.detach()[place]))
    ends = mech.steady_state(model, torch.stack([p.detach() + step, p.detach() - step])).check().states @ weights
    # Central differences with a relative step of 1e-5 err by about 1e-9 of the third derivative.
    torch.testing.assert_close(shares[place], (ends[0] - ends[1]) / 2e-5, rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("name", OSCILLATING)
def test_a_published_oscillator_does_not_rest(name):
    assert mech.steady_state(read(name)).status == RestStatus.MOVING


def test_an_input_that_decays_in_time_is_no_rest():
    assert mech.steady_state(read("Boehm_JProteomeRes2014")).status == RestStatus.TIME
