"""Totals of a system on its way to rest: exact from reactions, and the same from numbers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mechanistic as mech
from mechanistic.field import AbstractVectorField
from mechanistic.steady_state.totals import _numerical, totals_at
from tests.mechanistic.steady_state.models import GOLDBETER_KOSHLAND, ISOMERS


class Disguised(AbstractVectorField):
    """A compiled model of which nothing is known but its numbers, with a weight that scales all rates."""

    def __init__(self, model):
        super().__init__()
        self.hidden = [mech.RateField(model)]
        known = self.hidden[0]
        self.state_names, self.parameter_names = known.state_names, known.parameter_names
        self.observable_names = ()
        self.scales, self.nonnegative = known.scales, known.nonnegative
        self.factor = torch.nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))

    def forward(self, t, x, p):
        # The second weight scales the first parameter alone, so that the rest depends on it.
        scaled = torch.cat([p[..., :1] * self.factor[1], p[..., 1:]], -1)
        return self.factor[0] * self.hidden[0](t, x, scaled)

    def initial(self, p):
        return self.hidden[0].initial(p)

    def observe(self, t, x, p):
        return x[..., :0]

    def nominal(self):
        return self.hidden[0].nominal()


@pytest.mark.parametrize("make", [mech.library.huang_ferrell_mapk, mech.library.kholodenko_mapk])
def test_totals_from_numbers_span_those_from_reactions(make):
    field = mech.RateField(make())
    p = field.nominal()[None]
    x, t = field.initial(p), p.new_zeros(1)
    exact = totals_at(field, t, x, p, ())
    points = [x + field.scales * (0.3 + (torch.arange(x.shape[-1]) * step).frac()) for step in (0.618, 0.755, 0.57)]
    found = _numerical(field, t, points, p, ())
    assert exact.pivot.sum() == found.pivot.sum() == len(mech.conserved_totals(field.model))
    both = torch.cat([exact.weights[0], found.weights[0]])
    assert torch.linalg.matrix_rank(both, rtol=1e-9) == exact.pivot.sum()


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_totals_are_those_of_the_start_whatever_the_rates(seed):
    draws = torch.Generator().manual_seed(seed)
    field = mech.RateField(mech.library.huang_ferrell_mapk())
    p = field.nominal() * torch.exp(0.3 * torch.randn(len(field.nominal()), generator=draws, dtype=torch.float64))
    x = field.initial(p) * torch.rand(len(field.scales), generator=draws, dtype=torch.float64)
    rest = mech.steady_state(field, p, initial=x)
    for total in mech.conserved_totals(field.model):
        places = [field.state_names.index(name) for name in total.weights]
        weights = torch.tensor([float(weight) for weight in total.weights.values()]).double()
        torch.testing.assert_close(rest.states[places] @ weights, x[places] @ weights, rtol=1e-13, atol=1e-13)


def test_a_field_of_which_nothing_is_known_rests_where_the_model_does():
    field = Disguised(GOLDBETER_KOSHLAND)
    rest = mech.steady_state(field).check()
    plain = mech.steady_state(GOLDBETER_KOSHLAND, {"v1": 2.2})
    torch.testing.assert_close(rest.states, plain.states, rtol=1e-12, atol=1e-15)
    # All rates scaled alike leave the rest where it is.
    (slope,) = torch.autograd.grad(rest.states[0], field.factor)
    p = field.nominal().requires_grad_()
    (by_p,) = torch.autograd.grad(mech.steady_state(GOLDBETER_KOSHLAND, p * p.new_tensor([2, 1, 1, 1])).states[0], p)
    assert abs(slope[0]) < 1e-12
    torch.testing.assert_close(slope[1], by_p[0] * field.nominal()[0] / 2.0)


def test_weights_can_be_differentiated_twice():
    field = Disguised(ISOMERS)

    def loss():
        return mech.steady_state(field).states[0] ** 2

    (slope,) = torch.autograd.grad(loss(), field.factor, create_graph=True)
    (curvature,) = torch.autograd.grad(slope[1], field.factor)
    # A = 1.5 b / (w f + b) with w the second weight.
    w = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad((1.5 * 0.1 / (w * 0.3 + 0.1)) ** 2, w, create_graph=True)
    (second,) = torch.autograd.grad(first, w)
    torch.testing.assert_close(slope[1], first)
    torch.testing.assert_close(curvature[1], second)
