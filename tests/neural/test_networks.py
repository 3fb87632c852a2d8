import json
import math

import pytest
import torch
from torch.func import functional_call, jacrev, jvp, vmap

from neural import MLP, Activation, Compression, FixedScaling, InitialOutput, NeuralError, ScaledNetwork, mlp

ACTIVATIONS = tuple(Activation)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def lively(activation: Activation = Activation.TANH, seed: int = 0) -> ScaledNetwork:
    """A network whose every part matters: random last layer, scaled inputs and outputs."""
    scaling = FixedScaling(torch.tensor([0.5, -1.0, 2.0]), torch.tensor([2.0, 0.5, 1.0]), Compression.ASINH)
    scale = torch.tensor([3.0, 0.25], dtype=torch.float64)
    spec = mlp((8, 6), activation, InitialOutput.GLOROT)
    return spec.build(3, 2, input_scaling=scaling, output_scale=scale, seed=seed)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("hidden", [(), (5,), (32, 32)])
def test_starts_at_exactly_zero_with_a_live_gradient(activation, hidden):
    network = mlp(hidden, activation).build(3, 2, output_scale=7.0)
    output = network(1e3 * draw(11, 3))
    assert torch.equal(output, torch.zeros(11, 2, dtype=torch.float64))
    output.sum().backward()
    last_weight, last_bias = list(network.parameters())[-2:]
    assert bool((last_weight.grad.abs().sum(-1) > 0).all())
    # Sum over 11 rows of an output that is 7 times the bias.
    assert last_bias.grad.tolist() == [77.0, 77.0]


def test_equals_the_formula():
    network, x = lively(), draw(4, 3, seed=1)
    w0, b0, w1, b1, w2, b2 = network.parameters()
    h = torch.asinh((x - network.input_scaling.shift) / network.input_scaling.scale)
    expected = (torch.tanh(torch.tanh(h @ w0.T + b0) @ w1.T + b1) @ w2.T + b2) * torch.tensor([3.0, 0.25])
    torch.testing.assert_close(network(x), expected, rtol=1e-14, atol=1e-14)


def test_glorot_bounds_and_zero_biases():
    network = mlp((200,)).build(100, 3)
    weight, bias, *_ = network.parameters()
    bound = math.sqrt(6.0 / 300)
    assert bool((weight.abs() <= bound).all())
    # Standard deviation of the uniform distribution is bound/sqrt(3); its estimate from 20000 draws is good to 0.5 %.
    assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert torch.equal(bias, torch.zeros_like(bias))


def test_seed_decides_and_global_random_numbers_are_untouched():
    before = torch.get_rng_state()
    one, same, other = lively(seed=3), lively(seed=3), lively(seed=4)
    assert torch.equal(before, torch.get_rng_state())
    x = draw(5, 3)
    assert torch.equal(one(x), same(x))
    assert not torch.equal(one(x), other(x))
    assert all(p.dtype == torch.float64 for p in one.parameters())


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_first_and_second_derivatives_against_finite_differences(activation):
    network, x = lively(activation), draw(2, 3).requires_grad_()
    # gradcheck and gradgradcheck use central differences with step 1e-6; their default tolerances fit float64.
    assert torch.autograd.gradcheck(network, x)
    assert torch.autograd.gradgradcheck(network, x)
    weights = dict(network.named_parameters())

    def of_weights(*values):
        return functional_call(network, dict(zip(weights, values, strict=True)), x.detach())

    assert torch.autograd.gradcheck(of_weights, tuple(weights.values()))
    assert torch.autograd.gradgradcheck(of_weights, tuple(weights.values()))


# torch's own forward-mode rules are loaded on first use and call what torch itself has deprecated.
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_batch_shapes_vmap_jvp_and_functional_call_agree():
    network, x = lively(), draw(4, 5, 3)
    whole = network(x)
    # The order of summation inside a matrix product may depend on the batch: a few roundings.
    close = {"rtol": 1e-13, "atol": 1e-13}
    torch.testing.assert_close(whole[2, 3], network(x[2, 3]), **close)
    torch.testing.assert_close(vmap(vmap(network))(x), whole, **close)
    jacobian = vmap(vmap(jacrev(network)))(x)
    direction = draw(4, 5, 3, seed=2)
    value, slope = jvp(network, (x,), (direction,))
    torch.testing.assert_close(value, whole, **close)
    torch.testing.assert_close(slope, torch.einsum("...ij,...j->...i", jacobian, direction), **close)
    doubled = {name: 2 * p for name, p in network.named_parameters() if name in ("weight2", "bias2")}
    torch.testing.assert_close(functional_call(network, doubled, (x,)), 2 * whole, **close)
    ensemble = torch.stack([network.weight2, 2 * network.weight2])
    members = vmap(lambda w: functional_call(network, {"weight2": w}, (x,)))(ensemble)
    torch.testing.assert_close(members[1], 2 * members[0], **close)


def test_softplus_is_smooth_where_torch_changes_formula():
    network = mlp((1,), "softplus", InitialOutput.GLOROT).build(1, 1)
    with torch.no_grad():
        for p in network.parameters():
            p.fill_(1.0 if p.ndim == 2 else 0.0)
    around = torch.tensor([[20.0 - 1e-12], [20.0 + 1e-12], [40.0 - 1e-12], [40.0 + 1e-12]], dtype=torch.float64)
    jumps = network(around).diff(dim=0)[::2]
    # Two float64 numbers near 40 are 7e-15 apart; the arguments differ by 2e-12.
    assert bool((jumps.abs() < 3e-12).all())


def test_penalty_counts_weights_and_not_biases():
    network = lively()
    with torch.no_grad():
        for name, p in network.named_parameters():
            p.fill_(2.0 if name.startswith("weight") else 100.0)
    assert network.squared_weight_norm().item() == 4.0 * (3 * 8 + 8 * 6 + 6 * 2)


@pytest.mark.parametrize("spec", [mlp(), mlp([7], "gelu"), mlp((), Activation.SIN, InitialOutput.GLOROT)])
def test_a_saved_description_rebuilds_the_spec(spec):
    assert MLP.from_config(json.loads(json.dumps(spec.to_config()))) == spec
    assert hash(MLP.from_config(spec.to_config())) == hash(spec)


def test_a_saved_network_computes_the_same():
    network, x = lively(seed=9), draw(6, 3)
    again = ScaledNetwork.from_config(json.loads(json.dumps(network.to_config())))
    again.load_state_dict(network.state_dict())
    assert torch.equal(again(x), network(x))


@pytest.mark.parametrize("name", ["relu", "ReLU", "leaky_relu", "elu", "hardtanh"])
def test_unsmooth_activations_are_refused_with_the_reason(name):
    with pytest.raises(NeuralError, match=r"not smooth: a derivative of it jumps.*use one of 'tanh'"):
        mlp(activation=name)


def test_a_module_as_activation_is_refused():
    with pytest.raises(NeuralError, match="'ReLU' is not smooth"):
        mlp(activation=torch.nn.ReLU())


def test_errors_list_every_problem():
    with pytest.raises(NeuralError) as caught:
        mlp((8, 0, 2.5), "tangent", "zero")
    assert len(caught.value.problems) == 4
    scaling = FixedScaling(torch.zeros(2), torch.ones(2))
    with pytest.raises(NeuralError) as caught:
        mlp().build(0, 2, input_scaling=scaling, output_scale=torch.tensor([1.0, -1.0, 2.0]))
    assert len(caught.value.problems) == 4
    with pytest.raises(NeuralError, match=r"expected 3 inputs last, got x.shape=torch.Size\(\[5, 2\]\)"):
        lively()(torch.zeros(5, 2, dtype=torch.float64))
    with pytest.raises(NeuralError) as caught:
        MLP.from_config({"hidden": [3], "activation": "tanh", "code": "import os"})
    assert caught.value.problems == ("the key 'initial_output' is missing", "the key 'code' is not known; remove it")
    with pytest.raises(NeuralError, match="expected a dict with the keys"):
        MLP.from_config([1, 2])
    config = lively().to_config() | {"output_scale": "big"}
    with pytest.raises(NeuralError, match="'output_scale' must be a number"):
        ScaledNetwork.from_config(config)
