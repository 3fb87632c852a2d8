import itertools
import math

import pytest
import torch

from neural import RK4, Dopri5, NeuralError
from neural.integrators import Segment

OMEGA = 2.0
INTEGRATORS = (Dopri5(rtol=1e-9, atol=1e-10), RK4(0.01))

# Global errors on this problem: Dopri5 at a tolerance of 1e-9, RK4 with (ω h)⁴ = 1.6e-7 times a small constant.
CLOSE = {"rtol": 0.0, "atol": 1e-7}


def tensor(rows: object) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def rotation(t, z, context):
    """dz/dt = iωz + input: closed form known."""
    force = 0.0 if context is None else torch.cat([context, torch.zeros_like(context)], -1)
    return OMEGA * torch.stack([-z[..., 1], z[..., 0]], -1) + force


def turned(z, t):
    c, s = torch.cos(OMEGA * t), torch.sin(OMEGA * t)
    return torch.stack([c * z[..., 0] - s * z[..., 1], s * z[..., 0] + c * z[..., 1]], -1)


@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_rotation_at_each_subjects_own_times(integrator):
    z = tensor([[[1.0, 0.0], [0.0, 2.0]], [[3.0, -1.0], [1.0, 1.0]]])
    times = tensor([[0.0, 0.013, 1.7, 3.0], [0.5, 0.5, 2.9, 2.95]])
    found = integrator.trajectory(rotation, z, [Segment(0.0, 3.0, None)], times)
    assert found.shape == (2, 2, 4, 2)
    torch.testing.assert_close(found, turned(z[:, :, None], times), **CLOSE)


@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_a_jump_of_the_input_is_met_exactly(integrator):
    # A short strong push between two times of output, which an adaptive step that saw only these would walk over.
    z, times = torch.zeros(1, 1, 2, dtype=torch.float64), tensor([[0.0, 2.0, 5.0]])
    off, on = tensor([[0.0]]), tensor([[1000.0]])
    segments = [Segment(0.0, 3.0, off), Segment(3.0, 3.001, on), Segment(3.001, 5.0, off)]
    found = integrator.trajectory(rotation, z, segments, times)[0, 0]
    # ∫ e^{iω(5-s)} ds over the push.
    pushed = 1000.0 * (torch.exp(tensor(2.0) * OMEGA * 1j) - torch.exp(tensor(1.999) * OMEGA * 1j)) / (OMEGA * 1j)
    assert found[:2].tolist() == [[0.0, 0.0], [0.0, 0.0]]
    torch.testing.assert_close(found[2], torch.stack([pushed.real, pushed.imag]), **CLOSE)


@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_no_time_to_pass(integrator):
    z = tensor([[[1.0, 2.0]]])
    assert integrator.trajectory(rotation, z, [], tensor([[0.0, 0.0]])).tolist() == [[[[1.0, 2.0], [1.0, 2.0]]]]


def test_rk4_converges_with_order_four_between_the_steps_too():
    z, times = tensor([[[1.0, 0.0]]]), torch.rand(1, 50, generator=torch.Generator().manual_seed(0)).double() * 3
    errors = []
    for step in (0.1, 0.05, 0.025):
        found = RK4(step).trajectory(rotation, z, [Segment(0.0, 3.0, None)], times)
        errors.append((found - turned(z[:, :, None], times)).abs().max().item())
    orders = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    # The next term of the error is one order smaller: at these steps it moves the estimate by less than 0.2.
    assert all(abs(order - 4.0) < 0.2 for order in orders)


@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_gradient_of_a_rotation_is_a_rotation(integrator):
    z = tensor([[[1.0, 0.5]]]).requires_grad_()
    times = tensor([[1.3]])
    found = integrator.trajectory(rotation, z, [Segment(0.0, 1.3, None)], times)
    (gradient,) = torch.autograd.grad(found[..., 0].sum(), z)
    expected = tensor([[[math.cos(OMEGA * 1.3), -math.sin(OMEGA * 1.3)]]])
    torch.testing.assert_close(gradient, expected, **CLOSE)


def test_a_solver_that_gives_up_says_where_and_what_to_do():
    z, times = tensor([[[1.0]]]), tensor([[2.0]])
    with pytest.raises(NeuralError, match=r"from 0.0 to 2.0(.|\n)*decay_time"):
        Dopri5().trajectory(lambda t, z, context: z**2, z, [Segment(0.0, 2.0, None)], times)


def test_settings_are_checked():
    with pytest.raises(NeuralError) as caught:
        Dopri5(rtol=0.0, atol=-1.0, max_steps=0)
    assert len(caught.value.problems) == 3
    with pytest.raises(NeuralError, match="`step` must be positive"):
        RK4(0.0)
