import pytest
import torch
from torch.func import functional_call, vmap

from neural import InitialOutput, LatentField, NeuralError, mlp


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


T = torch.tensor(0.7, dtype=torch.float64)
LIVELY = mlp((6,), initial_output=InitialOutput.GLOROT)


def test_starts_as_rest_with_a_live_gradient():
    field, z = LatentField(3, 2), draw(5, 3)
    rate = field(T, z, draw(5, 2, seed=1))
    assert torch.equal(rate, torch.zeros_like(z))
    rate.sum().backward()
    assert bool((field.network.weight2.grad != 0).any())


def test_starts_as_linear_decay_when_asked():
    z = draw(5, 3)
    assert torch.equal(LatentField(3, decay_time=4.0)(T, z), -z / 4.0)


def test_time_enters_only_when_asked():
    z = draw(5, 3)
    still = LatentField(3, network=LIVELY)
    assert torch.equal(still(T, z), still(T + 1, z))
    moving = LatentField(3, network=LIVELY, time_scale=2.0)
    assert not torch.equal(moving(T, z), moving(T + 1, z))
    assert torch.equal(moving(T, z), LatentField(3, network=LIVELY, time_scale=4.0)(2 * T, z))


def test_the_output_scale_is_a_factor():
    z = draw(5, 3)
    one, ten = LatentField(3, network=LIVELY), LatentField(3, network=LIVELY, output_scale=10.0)
    torch.testing.assert_close(ten(T, z), 10 * one(T, z), rtol=1e-14, atol=0)


def test_shapes_broadcast_and_vmap_agrees():
    field = LatentField(3, 2, LIVELY, time_scale=1.0)
    z, context, t = draw(4, 5, 3), draw(5, 2, seed=1), draw(4, 5, seed=2)
    whole = field(t, z, context)
    # A few roundings between batched and single matrix products.
    close = {"rtol": 1e-13, "atol": 1e-13}
    torch.testing.assert_close(whole[1, 2], field(t[1, 2], z[1, 2], context[2]), **close)
    torch.testing.assert_close(vmap(field, in_dims=(0, 0, None))(t, z, context), whole, **close)


def test_gradients_against_finite_differences():
    field = LatentField(2, 1, LIVELY, decay_time=3.0, time_scale=2.0)
    weights = dict(field.named_parameters())

    def of(t, z, context, *values):
        return functional_call(field, dict(zip(weights, values, strict=True)), (t, z, context))

    arguments = (T.clone().requires_grad_(), draw(3, 2).requires_grad_(), draw(3, 1).requires_grad_())
    # Central differences of step 1e-6 in float64 against gradcheck's default tolerances.
    assert torch.autograd.gradcheck(of, (*arguments, *weights.values()))


def test_errors_list_every_problem():
    with pytest.raises(NeuralError) as caught:
        LatentField(0, -1, decay_time=0.0, time_scale=-1.0)
    assert len(caught.value.problems) == 4
    with pytest.raises(NeuralError, match="expected 2 context features, got none"):
        LatentField(3, 2)(T, draw(3))
    with pytest.raises(NeuralError, match=r"expected 0 context features, got context.shape=torch.Size\(\[1\]\)"):
        LatentField(3)(T, draw(3), draw(1))
